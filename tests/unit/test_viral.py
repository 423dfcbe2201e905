"""viral.fasta.gz: the input's own records, those that contigs.tsv calls viral."""

import gzip
import textwrap
from pathlib import Path

import pytest

from tests.unit.tables import contig_table
from virnucpro.calls.viral import write_viral
from virnucpro.errors import StorageError
from virnucpro.sequences.read import read_fasta

PARITY = Path(__file__).parents[1] / "data" / "parity"


def contigs(path, records, viral):
    rows = [
        {"record": record, "length": length, "call": "viral" if record in viral else "non-viral"}
        for record, length in records
    ]
    path.write_text(contig_table(rows))
    return path


def written(tmp_path, text, records, viral):
    (tmp_path / "in.fa").write_text(text)
    table = contigs(tmp_path / "contigs.tsv", records, viral)
    count = write_viral(table, [tmp_path / "in.fa"], tmp_path / "viral.fasta.gz")
    found = gzip.decompress((tmp_path / "viral.fasta.gz").read_bytes()).decode()
    assert found.count(">") == count
    return found


def test_viral_records_are_the_inputs_own(tmp_path):
    inputs = {record.id: record.sequence for record in read_fasta(PARITY / "input.fa")}
    wanted = [*inputs][::2]
    table = contigs(tmp_path / "c.tsv", [(name, len(sequence)) for name, sequence in inputs.items()], wanted)
    for name in ("a", "b"):
        assert write_viral(table, [PARITY / "input.fa"], tmp_path / name) == len(wanted)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    text = gzip.decompress((tmp_path / "a").read_bytes())
    for record in read_fasta(PARITY / "input.fa"):
        assert (f">{record.header}\n".encode() in text) == (record.id in wanted), "whole headers"
    (tmp_path / "viral.fa").write_bytes(text)
    assert {record.id: record.sequence for record in read_fasta(tmp_path / "viral.fa")} == {
        name: inputs[name] for name in wanted
    }


def test_input_that_changed_since_is_refused(tmp_path):
    lines = (PARITY / "input.fa").read_text()
    table = contigs(tmp_path / "c.tsv", [(r.id, len(r.sequence)) for r in read_fasta(PARITY / "input.fa")], [])
    longer = lines + ">more\nACGT\n"
    for text in (lines[: lines.rindex(">")], lines.replace(">contig3", ">contig33"), lines + "A\n", longer):
        (tmp_path / "in.fa").write_text(text)
        with pytest.raises(StorageError, match=r"in\.fa: .*: the input changed, or .*c\.tsv did\. Delete"):
            write_viral(table, [tmp_path / "in.fa"], tmp_path / "viral.fasta.gz")
        assert not (tmp_path / "viral.fasta.gz").exists()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda text: "", "columns aren't"),
        (lambda text: text.replace("\n", "\r\n"), "columns aren't"),
        (lambda text: text.replace("\n", "\tnote\n"), "columns aren't"),
        (lambda text: text.replace("b\t40", "b"), "line 3: has 19 columns"),
        (lambda text: text.replace("b\t40", "b\t40.0"), r"c\.tsv did"),
        (lambda text: text.replace("\tviral\t", "\tViral\t"), r"c\.tsv: a is called 'Viral'"),
        (lambda text: "".join(sorted(text.splitlines(True)[1:])), "columns aren't"),
    ],
)
def test_an_edited_table_is_refused(tmp_path, edit, said):
    (tmp_path / "in.fa").write_text(f">a\n{'A' * 60}\n>b\n{'C' * 40}\n")
    table = contigs(tmp_path / "c.tsv", [("a", 60), ("b", 40)], "ab")
    table.write_text(edit(table.read_text()))
    with pytest.raises(StorageError, match=said):
        write_viral(table, [tmp_path / "in.fa"], tmp_path / "viral.fasta.gz")
    assert not (tmp_path / "viral.fasta.gz").exists()


@pytest.mark.parametrize("length", [1, 79, 80, 81, 159, 160, 161, 320, 321])
def test_records_of_any_length(tmp_path, monkeypatch, length):
    monkeypatch.setattr("virnucpro.calls.sequence_lines._LINES_AT_ONCE", 2)  # that are compressed at once
    sequence = ("ACGTN" * length)[:length]
    lines = "\n".join(textwrap.wrap(sequence, 80))
    assert written(tmp_path, f">a it\n{sequence}\n", [("a", length)], "a") == f">a it\n{lines}\n"


def test_files_follow_one_another(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.fa").write_text(f">{name}1\nACGT\n>{name}2\nTTT\n")
    table = contigs(tmp_path / "c.tsv", [("a1", 4), ("a2", 3), ("b1", 4), ("b2", 3)], ("a2", "b1"))
    files = [tmp_path / "a.fa", tmp_path / "b.fa"]
    assert write_viral(table, files, tmp_path / "v.gz") == 2
    assert gzip.decompress((tmp_path / "v.gz").read_bytes()) == b">a2\nTTT\n>b1\nACGT\n"
    with pytest.raises(StorageError, match=r"b\.fa: b1 isn't what was scored"):
        write_viral(table, files[::-1], tmp_path / "w.gz")


def test_no_viral_record(tmp_path):
    assert written(tmp_path, ">a\nACGT\n", [("a", 4)], "") == ""


def test_records_without_a_sequence_are_no_change_of_the_input(tmp_path):
    """They were left out when the input was split."""
    text = f">a\n{'A' * 60}\n>empty\n>b it\n{'c' * 40}\n>end\n"
    assert written(tmp_path, text, [("a", 60), ("b", 40)], "b") == f">b it\n{'c' * 40}\n"
