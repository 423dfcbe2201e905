"""Names of samples, and their folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from virnucpro.errors import ConfigError, InputError
from virnucpro.samples import RESERVED, check_folders, check_sample_name, name_samples, sample_name


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
