"""A sample's records: what is said of them, and that `validate` and `split` take and refuse the same."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_command import invoke
from tests.unit.test_read import bgzip
from tests.unit.test_split import split
from virnucpro.errors import InputError, VirNucProError
from virnucpro.sequences import records
from virnucpro.sequences.split import iter_records, read_shard
from virnucpro.sequences.statistics import statistics_of

FASTA = b">a one\nATGGCCATGGCC\n>b\nAUGGCA\n>c\nACGU\n>d\n\n>e\nTAATGATAG\n"
FASTQ = b"@a 1:N:0:A\nATGGCC\n+\nIIIIII\n@b\n\n+\n\n@c\nAUGGCA\n+\nIIIIII\n"


def refusal(call, *arguments, **options):
    """What ``call`` gives, and the message it refuses with."""
    try:
        return call(*arguments, **options), None
    except VirNucProError as error:
        return None, str(error)


def same(paths: list[Path], folder: Path, empty: str = "skip") -> str | None:
    """Compare `validate` with `split`, and what it wrote with its counts; the message if both refuse."""
    counts, refused = refusal(statistics_of, paths, 9, empty_records=empty)
    manifest, said = refusal(split, paths, folder / "shards", 9, 5, empty)
    assert refused == said
    if manifest is None:
        return said
    made = {key: manifest[key] for key in ("records", "bases", "chunks", "frames", "rna_records", "u_ignored_records")}
    assert made == {
        "records": counts.records,
        "bases": counts.bases,
        "chunks": counts.windows,
        "frames": counts.open_frames,
        "rna_records": counts.rna_records,
        "u_ignored_records": counts.u_ignored_records,
    }
    assert manifest["skipped_records"] == counts.empty_records
    rows = list(iter_records(folder / "shards", "s"))
    assert len(rows) == counts.records and sum(row.length for row in rows) == counts.bases
    assert {row.file for row in rows} <= set(map(str, paths))
    frames = [read_shard(folder / "shards" / f"{shard['sha']}.faa") for shard in manifest["shards"]]
    assert sum(len(ids) for ids, _ in frames) == counts.open_frames
    assert sum(len(text) for _, texts in frames for text in texts) == counts.residues
    chunks = {f"{record}_chunk_{n + 1}" for record, length, *_ in rows for n in range(-(-length // 9))}
    assert {name[:-2] for ids, _ in frames for name in ids} <= chunks
    return None


@pytest.mark.parametrize(
    "name", ["x.fa", "a b.fa", "tab\t.fa", "line\n.fa", "cr\r.fa", b"latin1\xe9.fa", "é.fa", "#1.fa"]
)
def test_names_of_files(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(FASTA)
    said = same([path], tmp_path)
    if isinstance(name, bytes):
        assert "the file's name isn't UTF-8. Rename it" in said
    else:
        assert said is None if not set(name) & set("\t\r\n") else "a tab or line break in a file's name" in said


@pytest.mark.parametrize(
    "paths", [["missing.fa"], ["."], ["link.fa"], ["x.fa", "missing.fa"], ["/dev/null"], ["x.fa", "x.fa"]]
)
def test_files_that_are_not_there(tmp_path, paths):
    (tmp_path / "x.fa").write_bytes(FASTA)
    (tmp_path / "link.fa").symlink_to("nowhere")
    assert same([tmp_path / path for path in paths], tmp_path)


def test_records_without_a_sequence_are_left_out_or_refused(tmp_path):
    (tmp_path / "x.fa").write_bytes(FASTA)
    assert same([tmp_path / "x.fa"], tmp_path, "skip") is None
    assert "record 'd' has no sequence" in same([tmp_path / "x.fa"], tmp_path, "error")


def test_lines_that_end_in_carriage_returns_lose_nothing(tmp_path):
    for name, content in ((f"{n}.fa", text.replace(b"\n", b"\r")) for n, text in enumerate((FASTA, FASTQ))):
        (tmp_path / name).write_bytes(content)
        assert same([tmp_path / name], tmp_path) is None
    assert statistics_of([tmp_path / "0.fa"], 9, empty_records="skip").records == 4
    assert statistics_of([tmp_path / "1.fa"], 9, empty_records="skip").records == 2


def test_a_pipe_is_validated(tmp_path):
    read, write = os.pipe()
    os.write(write, FASTA)
    os.close(write)
    assert statistics_of([Path(f"/dev/fd/{read}")], 9, empty_records="skip").records == 4
    os.close(read)


def test_mates_that_share_their_ids(tmp_path):
    one, two, both = tmp_path / "1.fq", tmp_path / "2.fq", tmp_path / "both.fq"
    mates = [b"@SRR1.1 1/%d\nACGT\n+\nIIII\n" % mate for mate in (1, 2)]
    one.write_bytes(mates[0])
    two.write_bytes(mates[1])
    both.write_bytes(b"".join(mates))
    assert same([one, two], tmp_path).endswith("look like the mates of a pair: make two samples, one of each mate.")
    said = same([both], tmp_path)
    assert f"'SRR1.1' occurs twice in {both}. They look like the mates" in said and "seqtk seq -1" in said
    both.write_bytes(b">a\nACGT\n>a\nACGT\n")
    assert same([both], tmp_path).endswith("Ids must be unique in a sample: rename one.")


def test_the_missing_end_mark_is_noted(tmp_path, caplog):
    (tmp_path / "x.fa.gz").write_bytes(bgzip(b">a\nACGT\n")[:-28])
    split([tmp_path / "x.fa.gz"], tmp_path / "shards", 9, 5)
    said = f"{tmp_path / 'x.fa.gz'}: bgzip without its end mark."
    assert said in caplog.text and f"  note: {said}" in invoke("validate", str(tmp_path / "x.fa.gz")).output


def test_a_byte_that_is_read_otherwise_is_found(tmp_path):
    """So that the comparison itself is one."""
    (tmp_path / "x.fa").write_bytes(b">a\x00\nACGT\n")
    with pytest.raises(InputError):
        split([tmp_path / "x.fa"], tmp_path / "shards", 9, 5)
    assert "control character" in same([tmp_path / "x.fa"], tmp_path)


BASES = st.text("ACGTUN", max_size=40) | st.text("ACGUacgu", max_size=40)
LETTERS = st.text("ACGTUNacgtunRYX-.* ", max_size=40) | st.text("ACGT", max_size=40)
HEADERS = st.text(max_size=12) | st.from_regex(r"\A[a-e]( [12]:N:0:A)?\Z") | st.binary(max_size=8).map(os.fsdecode)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def files(draw):
    """FASTA or FASTQ, or a mixture of odd headers and letters; sometimes changed in a few places."""
    text, tame, fastq, ends = "", draw(st.booleans()), draw(st.booleans()), draw(ENDS)
    for number in range(draw(st.integers(1, 5))):
        header, letters = (f"r{number} 1:N:0:A", draw(BASES)) if tame else (draw(HEADERS), draw(LETTERS))
        end = ends if tame else draw(ENDS)
        if fastq if tame else draw(st.booleans()):
            text += f"@{header}{end}{letters}{end}+{end}{'I' * len(letters)}{end}"
        else:
            text += f">{header}{end}{letters}{end}"
    content = bytearray(text.encode("utf-8", "surrogateescape" if draw(st.booleans()) else "replace"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(content)


CHANGED = st.tuples(st.integers(0, 400), st.integers(0, 30), st.binary(max_size=4))
COMPRESS = st.sampled_from(
    [bytes, gzip.compress, bgzip, zstandard.compress, lambda text: zlib.compress(text, wbits=31)]
)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=60) | files())
def test_any_bytes_are_an_answer_or_a_message(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    (folder / "x.fa").write_bytes(content)
    same([folder / "x.fa"], folder)
    same([folder / "x.fa"], folder, "error")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(files(), COMPRESS), min_size=1, max_size=3), st.none() | CHANGED, st.binary(max_size=6))
def test_any_compressed_bytes_too(tmp_path_factory, parts, changed, after):
    folder = tmp_path_factory.mktemp("any")
    content = b"".join(compress(part) for part, compress in parts) + after
    if changed:
        at, size, new = changed
        content = content[:at] + new + content[at + size :]
    (folder / "x.fa").write_bytes(content)
    same([folder / "x.fa"], folder)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.from_regex(r"\A[^\s\x00-\x1f\x7f-\x9f]{1,9}\Z"), LETTERS), min_size=1, max_size=6), ENDS)
def test_what_is_well_formed_is_read(tmp_path_factory, records, end):
    """Every record with a name of its own comes out with its length, whatever the name."""
    folder = tmp_path_factory.mktemp("any")
    records = {name: text.translate(str.maketrans("", "", "X-.* ")) for name, text in records}
    with suppress(UnicodeEncodeError):
        content = "".join(f">{name}{end}{text}{end}" for name, text in records.items()).encode()
        (folder / "x.fa").write_bytes(content)
        assert same([folder / "x.fa"], folder) is None
        rows = [(name, length) for name, length, *_ in iter_records(folder / "shards", "s")]
        assert rows == [(name, len(text)) for name, text in records.items() if text]


@pytest.mark.parametrize("repeat", [None, 3, 49_999])
def test_duplicates_are_found_in_bounded_passes(tmp_path, monkeypatch, repeat):
    monkeypatch.setattr(records, "HASHES_PER_PASS", 1000)
    monkeypatch.setattr(records, "BUFFERED_HASHES", 500)
    rows = [(f"id{i}", f"file{i % 2}") for i in range(50_000)]
    if repeat is not None:
        rows.append((f"id{repeat}", "last"))
    check = records.DuplicateCheck(tmp_path)
    tracemalloc.start()
    for name, *_ in rows:
        check.add([name])
    found = check.first(iter(rows))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    check.close()
    assert found == (None if repeat is None else (f"id{repeat}", f"file{repeat % 2}", "last"))
    assert peak < 200_000  # 50,000 hashes alone are 400 kB
    assert list(tmp_path.iterdir()) == []


def test_equal_hashes_of_different_ids_are_no_duplicates(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "hash", lambda name: len(name), raising=False)
    check = records.DuplicateCheck(tmp_path)
    check.add(["ab", "cd", "e"])
    assert check.first([("ab", "x"), ("cd", "x"), ("e", "x")]) is None
    check.close()
