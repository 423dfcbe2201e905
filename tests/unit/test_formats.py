"""Files that are neither FASTA nor FASTQ: each is named, with what to do."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pytest

from tests.unit.test_read import bgzip
from virnucpro.errors import InputError
from virnucpro.sequences.read import read_fasta


def zipped(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return file.getvalue()


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("contigs.fa"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"@HD\tVN:1.6\n@SQ\tSN:a\tLN:10\nr1\t4\t*\t0\t0\t*\t*\t0\t0\tACGT\tIIII\n", "SAM.*samtools fastq"),
        (b"@SQ\tSN:a\tLN:10\r\n", "SAM"),
        (b"@CO\tmade by hand\n", "SAM"),
        (b"r1\t4\t*\t0\t0\t*\t*\t0\t0\tACGT\tIIII\n", "SAM"),
        (b"r1\t0\tchr1\t12\t60\t4M\t*\t0\t0\tACGT\tIIII\n", "SAM"),
        (bgzip(b"BAM\1\0\0\0\0"), "BAM.*samtools fastq"),
        (b"CRAM\3\0", "CRAM.*samtools fastq"),
        (b"NCBI.sra\5\3\x19\x88", "SRA archive.*fasterq-dump"),
        (b"\x89HDF\r\n\x1a\n", "HDF5.*bases of the signal"),
        (b"\x8bPOD\r\n\x1a\n", "POD5.*bases of the signal"),
        (b"LOCUS       AB000048 2007 bp DNA\n", "GenBank.*SeqIO"),
        (b"ID   X56734; SV 1; linear; mRNA\n", "EMBL.*SeqIO"),
        (b"##gff-version 3\n", "GFF.*sequences that it is about"),
        (bgzip(b"##fileformat=VCFv4.2\n"), "VCF.*sequences that it is about"),
        (b"<!DOCTYPE html>\n<html>", "HTML page.*download the file again"),
        (b"\n\n  <HTML>", "HTML page"),
        (b'<?xml version="1.0"?>', "XML"),
        (b'{"error": "not found"}', "JSON.*download the file again"),
        (b'[{"a": 1}]', "JSON"),
        (b"%PDF-1.7\n", "PDF.*plain text"),
        (zipped("xl/workbook.xml"), "Excel.*plain text"),
        (zipped("contigs.fa"), "compressed with zip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Excel"),
        (b"BZh91AY", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (tar(), "tar archive.*Unpack"),
        (gzip.compress(tar(), mtime=0), "tar archive.*Unpack"),
        (gzip.compress(gzip.compress(b">a\nACGT\n", mtime=0), mtime=0), "compressed twice"),
        (">a\nACGT\n".encode("utf-16"), "UTF-16.*iconv"),
        (">a\nACGT\n".encode("utf-16-le"), "UTF-16.*iconv"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "Git LFS.*git lfs pull"),
        (b"CLUSTAL W (1.83)\n", "alignment"),
        (b"# STOCKHOLM 1.0\n", "alignment"),
        (b"sample\tfasta\ns\ta.fa\n", r"a sample sheet.*ends in \.tsv"),
        (b'\xef\xbb\xbf"Sample","Fasta"\r\ns,a.fa\r\n', "a sample sheet.*tab-separated"),
        (b"ACGT\n>a\nACGT\n", "text before the first '>': 'ACGT'"),
        (b"\0\0\0\0", "text before the first"),
    ],
)
def test_each_is_named(tmp_path, content, message):
    path = tmp_path / "x.fa"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"x.fa: not FASTA.*{message}"):
        list(read_fasta(path))


@pytest.mark.parametrize("name", ["HD", "SQ", "CO 1", "RG\twords", "BAM", "LOCUS", "{"])
def test_reads_may_have_any_name(tmp_path, name):
    path = tmp_path / "x.fq"
    path.write_text(f"@{name}\nACGT\n+\nIIII\n")
    assert [record.header for record in read_fasta(path)] == [name]
