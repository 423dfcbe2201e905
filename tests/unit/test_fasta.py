"""FASTA reading: what is read alike, and what is refused with which message."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.errors import InputError
from virnucpro.sequences import fasta
from virnucpro.sequences.fasta import Record, read_fasta


@pytest.fixture
def write(tmp_path):
    def write(content, name="x.fa"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def pairs(path, **options):
    return [(record.id, record.sequence) for record in read_fasta(path, **options)]


EXPECTED = [("a", b"ACGTacgtNN"), ("b|x.1", b"GGCC")]


@pytest.mark.parametrize(
    "content",
    [
        b">a first\nACGTacgtNN\n>b|x.1\nGGCC\n",
        b">a first\nACGT\nacgt\nNN\n>b|x.1\nGG\nCC",
        b">a first\r\nACGTacgt\r\nNN\r\n>b|x.1\tsecond\r\nGGCC\r\n",
        b"\n\n>a first\n\nACGTacgtNN\n\n\n>b|x.1\n\nGGCC\n\n",
        b">a\nACGT acgt\tNN  \n> b|x.1 words\nGGCC\n",
    ],
)
@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("compress", [False, True])
def test_the_same_records_however_they_are_written(write, monkeypatch, content, block, compress):
    monkeypatch.setattr(fasta, "BLOCK", block)
    assert pairs(write(gzip.compress(content) if compress else content)) == EXPECTED


def test_a_record_names_its_file_and_header(write):
    path = write(b">a some words\nACGT\n")
    assert list(read_fasta(path)) == [Record("a", b"ACGT", path, "a some words")]


def test_a_byte_order_mark_is_left_out(write):
    assert pairs(write(b"\xef\xbb\xbf>a\nACGT\n")) == [("a", b"ACGT")]


def test_gzip_of_several_members(write):
    assert pairs(write(gzip.compress(b">a\nAC") + gzip.compress(b"GT\n"), "x.fa")) == [("a", b"ACGT")]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("ACGTNacgtn", min_size=0, max_size=200), min_size=1, max_size=6),
    st.integers(1, 80),
    st.integers(1, 300),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_any_width_and_block(tmp_path_factory, texts, width, block, end):
    path = tmp_path_factory.mktemp("fasta") / "x.fa"
    lines = []
    for number, text in enumerate(texts):
        lines += [f">r{number} words > more"] + [text[i : i + width] for i in range(0, len(text), width)]
    path.write_bytes(end.join(lines).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fasta, "BLOCK", block)
        assert pairs(path, keep_empty=True) == [(f"r{number}", text.encode()) for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\r\n", "is empty"),
        (b"ACGT\n>a\nACGT\n", "not FASTA: text before the first '>': 'ACGT'"),
        (b"hello\n", "not FASTA"),
        (b"@read1\nACGT\n+\nIIII\n", "looks like FASTQ.*seqtk"),
        (b"BZh91AY", "compressed with bzip2"),
        (b">\nACGT\n", "record 1 has a header without a name"),
        (b">a\nACGT\n>  \nACGT\n", "record 2 has a header without a name"),
        (b">a\n>b\nACGT\n", "record 'a' has no sequence.*empty_records"),
        (b">a\nACGT\n>b", "record 'b' has no sequence"),
        (b">a\nACGT\n>b\n \n", "record 'b' has no sequence"),
        (b">caf\xe9\nACGT\n", "header of record 1 isn't UTF-8.*iconv"),
        (b">a\nACGT\n>b\nAC\nG!T\n", "record 'b' has '!' at position 4.*Correct"),
        (b">a\nACG1\n", "record 'a' has '1' at position 4"),
        (b">a\nAC-GT\n", "'-' at position 3.*alignment"),
        (b">a\nAC.GT\n", r"'\.' at position 3.*alignment"),
        (b">a\nMKVLAAGTRE*\n", "'L' at position 4.*looks like a protein FASTA given as DNA"),
        (b">a\nACG*\n", r"'\*' at position 4"),
        (b">a\nAC>GT\n", "'>' at position 3"),
        (gzip.compress(b">a\n" + b"ACGT" * 5000, mtime=0)[:-20], "truncated or corrupt gzip"),
        (gzip.compress(b">a\n" + b"ACGT" * 5000, mtime=0)[:40] + b"garbage" * 9, "truncated or corrupt gzip"),
        (gzip.compress(b"", mtime=0), "is empty"),
    ],
)
def test_refused_with_a_message(write, content, message):
    path = write(content)
    with pytest.raises(InputError, match=message) as caught:
        list(read_fasta(path))
    assert str(path) in str(caught.value)


def test_no_such_file_or_a_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list(read_fasta(tmp_path / "none.fa"))
    with pytest.raises(InputError, match="a folder"):
        list(read_fasta(tmp_path))


def test_lines_that_end_in_carriage_returns_alone(write, monkeypatch):
    monkeypatch.setattr(fasta, "_LONGEST_HEADER", 100)
    with pytest.raises(InputError, match="carriage returns"):
        list(read_fasta(write(b">a\r" + b"ACGT\r" * 50)))


def test_empty_records_are_kept_if_wanted(write):
    assert pairs(write(b">a\n>b\nACGT\n>c\n"), keep_empty=True) == [("a", b""), ("b", b"ACGT"), ("c", b"")]
