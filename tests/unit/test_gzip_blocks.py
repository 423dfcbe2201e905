"""A gzip file of independent blocks: read by everything, the same whatever the threads."""

import gzip
import io
import random
import shutil
import subprocess
import zlib

import pytest

from virnucpro.calls import gzip_blocks
from virnucpro.calls.gzip_blocks import GzipWriter


def packed(pieces, threads):
    file = io.BytesIO()
    with GzipWriter(file, threads) as writer:
        for piece in pieces:
            writer.write(piece)
    return file.getvalue()


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000, 12_345])
def test_any_reader_reads_it(tmp_path, monkeypatch, size):
    monkeypatch.setattr(gzip_blocks, "BLOCK_BYTES", 100)
    rng = random.Random(size)
    text = bytes(rng.choices(b"ACGT\n", k=size))
    made = packed([text[at : at + 7] for at in range(0, size, 7)], 3)
    assert made == packed([text], 1) == packed([b"", text, b""], 2)
    assert gzip.decompress(made) == text
    stream = zlib.decompressobj(31)  # reads one member only
    assert stream.decompress(made) == text and stream.eof and not stream.unused_data
    (tmp_path / "x.gz").write_bytes(made)
    for tool in ("gzip", "pigz", "bgzip", "zcat"):
        if shutil.which(tool):
            command = [tool, "-dc", "x.gz"] if tool != "zcat" else [tool, "x.gz"]
            assert subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout == text, tool


def test_blocks_cost_little():
    text = bytes(random.Random(0).choices(b"ACGT", k=3 << 20))
    assert len(packed([text], 2)) < 1.001 * len(gzip.compress(text, gzip_blocks.GZIP_LEVEL))


def test_an_error_in_the_block_is_raised_at_once():
    file = io.BytesIO()
    with pytest.raises(KeyError), GzipWriter(file, 2) as writer:
        writer.write(bytes(3 * gzip_blocks.BLOCK_BYTES))
        raise KeyError
    with pytest.raises(EOFError):
        gzip.decompress(file.getvalue())


def test_an_error_of_the_file_is_raised():
    class Full(io.BytesIO):
        def write(self, content):
            if len(content) > 10:
                raise OSError(28, "No space left on device")
            return len(content)

    with pytest.raises(OSError, match="No space left"), GzipWriter(Full(), 2) as writer:
        writer.write(bytes(9 * gzip_blocks.BLOCK_BYTES))
