"""The sample sheet, names of samples, and their folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from virnucpro.classifier.labels import read_labelled_fasta
from virnucpro.errors import ConfigError, InputError
from virnucpro.settings.samples import (
    RESERVED,
    check_folders,
    check_sample_name,
    name_samples,
    read_samples,
    sample_name,
)


@pytest.mark.parametrize("name", [*RESERVED, "Logs", "SAMPLES.tsv"])
def test_names_of_other_results_are_reserved(name):
    with pytest.raises(InputError, match=f"^here: sample name '{name}' is reserved"):
        check_sample_name(name, "here")
    assert sample_name(Path(f"{name}.fa.gz")) == f"{name}_sample"


def test_names_that_snakemake_or_a_disk_refuses(tmp_path):
    for name in ("x" + "ab" * 30, "a" * 20):
        assert sample_name(tmp_path / f"{name}.fa") == f"{name}_sample"
    check_sample_name("aba" * 15 + ".", "here")
    check_sample_name("a" * 19, "here")
    with pytest.raises(
        InputError, match=r"^here: sample name 'xabab.*' ends in 20 times 'ab', which Snakemake refuses"
    ):
        check_sample_name("x" + "ab" * 20, "here")
    with pytest.raises(InputError, match="has 201 characters; at most 200 fit"):
        check_sample_name("".join(map(str, range(1000)))[:201], "here")
    with pytest.raises(InputError, match=r"\.fa: sample name '.*has 240 characters"):
        name_samples([tmp_path / ("".join(map(str, range(1000)))[:240] + ".fa")])


def test_files_whose_samples_would_share_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"a\.FA and .*A\.fa would both be sample 'a'"):
        name_samples([tmp_path / "A.fa", tmp_path / "a.FA"])


def test_a_file_where_a_folder_has_to_be_is_named(tmp_path):
    check_folders(["contigs"], tmp_path)
    (tmp_path / "contigs").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="contigs: is a file, where the folder of sample 'contigs' has to be"):
        check_folders(["contigs"], tmp_path)
    (tmp_path / "logs").touch()
    with pytest.raises(ConfigError, match=r"logs: is a file, where the folder has to be.*output_dir\)\.$"):
        check_folders(["other"], tmp_path)


def sheet(folder: Path, text: str) -> Path:
    path = folder / "samples.tsv"
    path.write_text(text)
    return path


def test_samples_keep_order_and_start_at_the_sheets_folder(tmp_path):
    samples = read_samples(sheet(tmp_path, "fasta\tsample\nb.fa\tz\n/a.fa\ta\n\n# note\nc.fa\tz\n"))
    assert samples == {"z": [tmp_path / "b.fa", tmp_path / "c.fa"], "a": [Path("/a.fa")]}


def test_patterns_stand_for_their_files(tmp_path):
    for name in ("b.fa", "a.fa", "sub/c.fq", "odd[1].fa"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    samples = read_samples(sheet(tmp_path, "sample\tfasta\nx\t[ab].fa\nx\t**/*.fq\ny\todd[1].fa\n"))
    assert samples == {
        "x": [tmp_path / "a.fa", tmp_path / "b.fa", tmp_path / "sub/c.fq"],
        "y": [tmp_path / "odd[1].fa"],
    }
    table = tmp_path / "labels.tsv"
    table.write_text("fasta\tlabel\n[ab].fa\tviral\nsub/c.fq\t0\n")
    assert [(row.fasta.name, row.label.viral) for row in read_labelled_fasta(table)] == [
        ("a.fa", True),
        ("b.fa", True),
        ("c.fq", False),
    ]


@pytest.mark.parametrize("name", ["s.1.fa", "s.1.fq.gz", "s.1.FASTA.bgz", "s.1.fastq.zst", "s.1.fna", "s.1"])
def test_samples_are_called_after_their_files(name):
    assert sample_name(Path(name)) == "s.1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample fasta\na b\n", "no column 'sample'.*not spaces"),
        ("sample\tfile\na\tb\n", "no column 'fasta'"),
        ("sample\tfasta\n", "lists no samples"),
        ("sample\tfasta\na b\tx.fa\n", "line 2: sample name 'a b'"),
        ("sample\tfasta\nok\tx.fa\na/b\tx.fa\n", "line 3: sample name 'a/b'"),
        ("sample\tfasta\nlogs\tx.fa\n", "reserved"),
        ("sample\tfasta\na\t\n", "no FASTA path"),
        ("sample\tfasta\na\tx.fa\na\tx.fa\n", "listed twice"),
        ("sample\tfasta\na\t*.tsv\na\tsamples.tsv\n", "listed twice"),
        ("sample\tfasta\na\t*.fq\n", "no file matches"),
    ],
)
def test_bad_sheets_are_explained(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_samples(sheet(tmp_path, text))


def test_a_sheet_without_permission_is_named(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")  # root reads what is forbidden, too

    given = sheet(tmp_path, "")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"samples\.tsv: can't read the sample sheet \(Permission denied\)"):
        read_samples(given)
