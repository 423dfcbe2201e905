"""FASTA and FASTQ reading: what is read alike, and what is refused with which message."""

import gzip
import struct
import tracemalloc
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.errors import InputError
from virnucpro.sequences import compression, fasta
from virnucpro.sequences.fasta import Record, read_fasta, read_letters


@pytest.fixture
def write(tmp_path):
    def write(content, name="x.fa"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def pairs(path, **options):
    return [(record.id, record.sequence) for record in read_fasta(path, **options)]


def bgzip(content, size=7):
    """As bgzip writes it: small gzip members with their size in an extra field, and an empty one at the end."""
    members = []
    for at in [*range(0, len(content), size), len(content)]:
        part = content[at : at + size]
        body = zlib.compress(part, wbits=-15)
        head = struct.pack("<4BI2BH2BHH", 31, 139, 8, 4, 0, 0, 255, 6, 66, 67, 2, len(body) + 25)
        members.append(head + body + struct.pack("<II", zlib.crc32(part), len(part)))
    return b"".join(members)


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
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bgzip, zstandard.compress], ids=["no", "gz", "bgz", "zst"])
def test_the_same_records_however_they_are_written(write, monkeypatch, content, block, compress):
    monkeypatch.setattr(compression, "BLOCK", block)
    assert pairs(write(compress(content))) == EXPECTED


def test_a_record_names_its_file_and_header(write):
    path = write(b">a some words\nACGT\n")
    assert list(read_fasta(path)) == [Record("a", b"ACGT", path, "a some words")]


def test_a_byte_order_mark_is_left_out(write):
    assert pairs(write(b"\xef\xbb\xbf>a\nACGT\n")) == [("a", b"ACGT")]


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_several_compressed_parts(write, compress):
    assert pairs(write(compress(b">a\nAC") + compress(b"GT\n"), "x.fa")) == [("a", b"ACGT")]


def test_zstd_streams_are_bounded(write):
    """20 MB of repeats are a few kilobytes of zstd; the reader holds a few blocks."""
    content = b"".join(b">r%d\n%s\n" % (number, b"ACGT" * 2500) for number in range(2000))
    path = write(zstandard.compress(content))
    assert path.stat().st_size < 1e5
    tracemalloc.start()
    assert sum(len(record.sequence) for record in read_fasta(path)) == 2000 * 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


READS = b"@a one\nACGTN\n+a one\n@@@@@\n@b\nGG\n+\nII\n"


@pytest.mark.parametrize("content", [READS, READS.replace(b"\n", b"\r\n"), READS + b"\n\n", READS[:-1], b"\n" + READS])
@pytest.mark.parametrize("block", [1, 3, 7, 1 << 20])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bgzip, zstandard.compress], ids=["no", "gz", "bgz", "zst"])
def test_reads(write, monkeypatch, content, block, compress):
    monkeypatch.setattr(compression, "BLOCK", block)
    path = write(compress(content), "x.fq")
    assert list(read_fasta(path)) == [Record("a", b"ACGTN", path, "a one"), Record("b", b"GG", path, "b")]


def test_reads_without_bases(write):
    content = b"@a\n\n+\n\n@b\nA\n+\nI\n@c\n\n+\n\n"
    assert pairs(write(content), keep_empty=True) == [("a", b""), ("b", b"A"), ("c", b"")]
    with pytest.raises(InputError, match=r"record 'a' has no sequence.*empty_records"):
        pairs(write(content))


def test_the_mates_of_a_pair_differ_in_their_ids(write):
    for mate in "12":
        path = write(f"@M1:7:1101 {mate}:N:0:ACGT\nA\n+\nI\n@x {mate} length=1\nA\n+\nI\n".encode())
        assert [record.id for record in read_fasta(path)] == [f"M1:7:1101/{mate}", "x"]
    assert pairs(write(b">x 1:N:0:A\nA\n")) == [("x", b"A")]  # FASTA stays as it is


@settings(max_examples=60)
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
        patch.setattr(compression, "BLOCK", block)
        assert pairs(path, keep_empty=True) == [(f"r{number}", text.encode()) for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\r\n", "is empty"),
        (b"ACGT\n>a\nACGT\n", "not FASTA: text before the first '>': 'ACGT'"),
        (b"hello\n", "not FASTA"),
        (b"BZh91AY", "compressed with bzip2"),
        (b"@r\nACGT\n+\nIII\n", r"record 1 \('r'\) has 4 letters and 3 qualities"),
        (b"@r\nACGT\n+\nIIII\n@s\nAC\n", r"ends within record 2 \('s'\): 2 of its 4 lines"),
        (b"@r\nACGT\n+\nIIII\n@s\nAC\n+", r"ends within record 2 \('s'\): 3 of its 4 lines"),
        (b"@r\nACGT\n+\nIIII\n@s\nACGT\n+\nII", r"record 2 \('s'\) has 4 letters and 2 qualities"),
        (b"@r\nACGT\nACGT\n+\nIIII\nIIII\n", r"third line of record 1 \('r'\).*wrapped lines.*seqtk"),
        (b"@r\nACGT\n+\nIIII\nACGT\n", r"record 2 \(line 5\) starts with 'ACGT', not with '@'"),
        (b"@r\nACGT\n+\nIIII\n\n@s\nA\n+\nI\n", "blank lines after record 1|record 2 .line 5. starts with ''"),
        (b"@\nACGT\n+\nIIII\n", "record 1 has a header without a name"),
        (b"@r\nAC!T\n+\nIIII\n", "record 'r' has '!' at position 3"),
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
        (bgzip(b">a\nACGTACGT\n")[:-28], "truncated bgzip: its end mark is missing"),
        (bgzip(b">a\nACGTACGT\n")[:-40], "truncated bgzip"),
        (zstandard.compress(b">a\n" + b"ACGT" * 5000)[:-3], "truncated or corrupt zstd.*ends within a frame"),
        (zstandard.compress(b">a\nACGT\n") + b"garbage", "truncated or corrupt zstd"),
        (zstandard.compress(b""), "is empty"),
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


def test_letters_of_any_kind(write):
    proteins = write(gzip.compress(b">a\nMKV\nLAg\n>b c\nMKVL*\n"))
    assert list(read_letters(proteins)) == [b"MKVLAG", b"MKVL"]
    assert list(read_letters(write(b"@r\nacgt\n+\nIIII\n"))) == [b"ACGT"]
    for text, message in (
        (b">a\nMK\n>b c\n*\n", "record 'b c' has no sequence"),
        (b"MKV\n", "not FASTA"),
        (b"", "empty"),
    ):
        with pytest.raises(InputError, match=message):
            list(read_letters(write(text)))


def test_empty_records_are_kept_if_wanted(write):
    assert pairs(write(b">a\n>b\nACGT\n>c\n"), keep_empty=True) == [("a", b""), ("b", b"ACGT"), ("c", b"")]
