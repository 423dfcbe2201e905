"""FASTA and FASTQ reading: what is read alike, and what is refused with which message."""

import gzip
import os
import socket
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard
from Bio import SeqIO
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.errors import InputError
from virnucpro.sequences import compression, read
from virnucpro.sequences.read import Record, read_fasta, read_letters


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
        b">a first\rACGTacgt\rNN\r>b|x.1\rGGCC\r",  # an old Mac's
        b">a first\rACGT\nacgt\r\nNN\r\r\n>b|x.1\rGG\r\rCC",
    ],
)
@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bgzip, zstandard.compress], ids=["no", "gz", "bgz", "zst"])
def test_the_same_records_however_they_are_written(write, monkeypatch, content, block, compress):
    monkeypatch.setattr(compression, "BLOCK_BYTES", block)
    assert pairs(write(compress(content))) == EXPECTED


def test_a_record_names_its_file_and_header(write):
    path = write(b">a some words\nACGT\n")
    assert list(read_fasta(path)) == [Record("a", b"ACGT", path, "a some words")]


def test_a_byte_order_mark_is_left_out(write):
    assert pairs(write(b"\xef\xbb\xbf>a\nACGT\n")) == [("a", b"ACGT")]


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_several_compressed_parts(write, compress):
    assert pairs(write(compress(b">a\nAC") + compress(b"GT\n"), "x.fa")) == [("a", b"ACGT")]


@pytest.mark.parametrize(("compress", "most"), [(gzip.compress, 50e6), (zstandard.compress, 12e6)])
def test_compressed_streams_are_bounded(write, compress, most):
    """100 MB of repeats are some kilobytes; the reader holds a few blocks of it."""
    path = write(compress(b"".join(b">r%d\n%s\n" % (number, b"ACGT" * 2500) for number in range(10_000))))
    assert path.stat().st_size < 1e6
    tracemalloc.start()
    assert sum(len(record.sequence) for record in read_fasta(path)) == 10_000 * 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most


READS = b"@a one\nACGTN\n+a one\n@@@@@\n@b\nGG\n+\nII\n"


@pytest.mark.parametrize(
    "content",
    [READS, READS.replace(b"\n", b"\r\n"), READS.replace(b"\n", b"\r"), READS + b"\n\n", READS[:-1], b"\n" + READS],
)
@pytest.mark.parametrize("block", [1, 3, 7, 1 << 20])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bgzip, zstandard.compress], ids=["no", "gz", "bgz", "zst"])
def test_reads(write, monkeypatch, content, block, compress):
    monkeypatch.setattr(compression, "BLOCK_BYTES", block)
    path = write(compress(content), "x.fq")
    assert list(read_fasta(path)) == [Record("a", b"ACGTN", path, "a one", True), Record("b", b"GG", path, "b", True)]


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
        patch.setattr(compression, "BLOCK_BYTES", block)
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
        (b">a\n\xef\xbb\xbf>b\nACGT\n", "byte 0xEF at position 1.*byte order mark"),
        (b">a\nACGTXXXXXXXXACGTN\n", "'X' at position 5.*masks bases.*write N"),
        (b">a\nMKVSDGHKRXKMV\n", "'X' at position 10.*looks like a protein"),
        (b"@r\nACG.T\n+\nIIIII\n", r"'\.' at position 4.*Write N in its place"),
        (b">a\nMKVLAAGTRE*\n", "'L' at position 4.*looks like a protein FASTA given as DNA"),
        (b">a\n" + 30 * b"ACGT" + b"*\n", r"'\*' at position 121, which isn't an IUPAC nucleotide. Correct the record"),
        (
            b">a\n" + 30 * b"ACGT" + b"\nEACGT\n",
            "'E' at position 121, which isn't an IUPAC nucleotide. Correct the record",
        ),
        (b">a\nACGT\n;a comment\nACGT\n", "';' at position 5.*If a comment begins there"),
        (b">a\n# note\nACGT\n", "'#' at position 1.*If a comment begins there"),
        (b">a\nACGT>b\nACGT\n", "'>' at position 5.*If another record begins there"),
        (b">a\nACGT\n@b\nACGT\n+\nIIII\n", "'@' at position 5.*in the format of the first"),
        (b">a\nACG*\n", r"'\*' at position 4"),
        (b">a\nAC>GT\n", "'>' at position 3"),
        (gzip.compress(b">a\n" + b"ACGT" * 5000, mtime=0)[:-20], "truncated or corrupt gzip"),
        (gzip.compress(b">a\n" + b"ACGT" * 5000, mtime=0)[:40] + b"garbage" * 9, "truncated or corrupt gzip"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (bgzip(b">a\nACGTACGT\n")[:-40], "truncated or corrupt gzip .it ends within a member"),
        (gzip.compress(b"", mtime=0)[:9], "truncated or corrupt gzip .it ends within a member"),
        (b"\x1f\x8b", "truncated or corrupt gzip .it ends within a member"),
        (gzip.compress(b">a\nACGT\n", mtime=0) + b"\n", r"gzip ends at byte \d+, and what follows isn't gzip: b'\\n'"),
        (gzip.compress(b">a\nACGT\n", mtime=0) + b"\0\0>b\nACGT\n", r"what follows isn't gzip: b'>b\\nACGT\\n'"),
        (zstandard.compress(b">a\n" + b"ACGT" * 5000)[:-3], "truncated or corrupt zstd.*ends within a frame"),
        (
            zstandard.compress(b">a\nACGT\n") + b"garbage",
            "zstd ends at byte 17, and what follows isn't zstd: b'garbage'",
        ),
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


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "link.fa").symlink_to("nowhere.fa")
    (tmp_path / "loop.fa").symlink_to("loop.fa")
    (tmp_path / "x.fa").write_text(">a\nACGT\n")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
        for path, message in (
            (tmp_path / "link.fa", "is a link to nowhere.fa, which doesn't exist"),
            (tmp_path / "loop.fa", "can't be read: Too many levels of symbolic links"),
            (tmp_path / "s", "a socket, not a file"),
            (Path("/dev/null"), "a device, not a file"),
            (tmp_path / "x.fa" / "y.fa", "can't be read: Not a directory"),
            (tmp_path / "a\0b", "can't be read: embedded null byte"),
            (tmp_path / ("n" * 300), "can't be read: File name too long"),
        ):
            with pytest.raises(InputError, match=message):
                list(read_fasta(path))


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bgzip, zstandard.compress], ids=["no", "gz", "bgz", "zst"])
def test_pipes(tmp_path, compress):
    os.mkfifo(tmp_path / "pipe")
    content = compress(b">a\nACGT\n")

    def slowly():
        with open(tmp_path / "pipe", "wb", buffering=0) as pipe:
            for at in range(len(content)):
                pipe.write(content[at : at + 1])

    with ThreadPoolExecutor() as pool:
        written = pool.submit(slowly)
        assert pairs(tmp_path / "pipe") == [("a", b"ACGT")]
        written.result()


@pytest.mark.parametrize("block", [20, 1 << 20])
def test_a_whole_file_in_one_line(write, monkeypatch, block):
    monkeypatch.setattr(compression, "BLOCK_BYTES", block)
    monkeypatch.setattr(read, "_MAX_HEADER_BYTES", 100)
    for start in (b">a\nACGT\n>b ", b">b "):
        with pytest.raises(InputError, match=r"a header is longer than 100 bytes: 'b ACGT.*a line of its own"):
            list(read_fasta(write(start + b"ACGT" * 50)))


@pytest.mark.parametrize(
    ("header", "byte"),
    [
        (b"a\0b desc", r"'\\x00', byte 2"),
        (b" \x1bb", r"'\\x1b', byte 2"),
        (b"ab\x7f\tc", r"'\\x7f', byte 3"),
        ("caf\u00e9\x9b".encode(), r"'\\x9b', byte 6"),
    ],
)
def test_control_characters_in_names(write, header, byte):
    for text in (b">x\nACGT\n>%b\nACGT\n", b"@x\nACGT\n+\nIIII\n@%b\nACGT\n+\nIIII\n"):
        with pytest.raises(InputError, match=f"name of record 2 has a control character .{byte} of the header"):
            list(read_fasta(write(text % header)))


def test_control_characters_elsewhere_are_carried_along(write):
    header = "a b\0c\x01d\x85e\u2028f"
    path = write(f">{header}\nACGT\n".encode())
    assert list(read_fasta(path)) == [Record("a", b"ACGT", path, header)]


@pytest.mark.parametrize("space", [" ", "\t", "\v", "\f", "\x1c", "\x1f", "\x85", "\xa0", "\u2028", "\u2029", "\u3000"])
def test_a_name_ends_where_the_originals_does(write, space):
    """It took Biopython's record.id."""
    path = write(f">a{space}b\nACGT\n".encode())
    assert pairs(path) == [("a", b"ACGT")] == [(record.id, bytes(record.seq)) for record in SeqIO.parse(path, "fasta")]


def warnings(path):
    said = []
    assert [record.id for record in read_fasta(path, warn=said.append)] == ["a", "b"]
    return said


def test_bgzip_without_its_end_mark(write):
    """As some sequencers' software writes it, joined with others, padded: read, but a cut file looks the same."""
    one, two = b">a\nACGTACGT\n", b">b\nACGT\n"
    for content in (bgzip(one + two)[:-28], bgzip(one) + gzip.compress(two), bgzip(one)[:-28] + bgzip(two)[:-28]):
        (said,) = warnings(write(content))
        assert "bgzip without its end mark" in said
    for content in (
        bgzip(one) + bgzip(two),
        bgzip(one)[:-28] + bgzip(two) + b"\0" * 512,
        gzip.compress(one) + bgzip(two),
        gzip.compress(one) + b"\0" * 9 + gzip.compress(two) + b"\0" * 20_000,
    ):
        assert warnings(write(content)) == []


def test_zstd_with_frames_to_skip(write):
    """As pzstd writes."""
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    frames = [zstandard.compress(content) for content in (b">a\nAC", b"GT\n>b\nA\n")]
    assert pairs(write(skipped + skipped.join(frames))) == [("a", b"ACGT"), ("b", b"A")]


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
