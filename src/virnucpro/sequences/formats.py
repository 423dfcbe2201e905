"""What a file is if it is neither FASTA nor FASTQ, and what to do with it."""

from __future__ import annotations

import re
from pathlib import Path

from virnucpro.errors import InputError

SNIFFED = 1 << 9
"""Bytes of the beginning that tell."""

_UNPACK = "Decompress it, or use gzip or zstd instead."
_CONVERT = "Convert it to FASTA, e.g. with Biopython's SeqIO.convert."
_READS = "Extract its reads, e.g. with samtools fastq."
_SIGNAL = "Call the bases of the signal, and give the FASTQ."
_SEQUENCES = "Give the sequences that it is about, as FASTA."
_DOWNLOAD = "It may be what a server answered instead of the file: look at it, and download the file again."
_GAPS = "Give the sequences without gaps, as FASTA."

_FORMATS = [
    (re.compile(beginning, re.DOTALL), f"{what}. {remedy}")
    for beginning, what, remedy in (
        (rb"BZh", "compressed with bzip2", _UNPACK),
        (rb"\xfd7zXZ", "compressed with xz", _UNPACK),
        (rb"7z\xbc\xaf|Rar!", "a 7z or rar archive", "Unpack it and give its files."),
        (
            rb"PK\x03\x04.*(\[Content_Types\]|_rels|xl/)",
            "an Excel or Word document",
            "Save the sequences as plain text.",
        ),
        (rb"PK\x03\x04", "compressed with zip", _UNPACK),
        (rb"\xd0\xcf\x11\xe0", "an Excel or Word document", "Save the sequences as plain text."),
        (rb"\x1f\x8b|\x28\xb5\x2f\xfd", "compressed twice", "Decompress it once."),
        (rb".{257}ustar", "a tar archive", "Unpack it and give its files."),
        (rb"\xff\xfe|\xfe\xff|[>@]\x00|\x00[>@]", "UTF-16 text", "Convert it, e.g. with iconv -f utf-16 -t utf-8."),
        (rb"BAM\x01", "BAM", _READS),
        (rb"CRAM", "CRAM", _READS),
        (rb"@(HD|SQ|RG|PG)\t[A-Za-z][A-Za-z0-9]:|@CO\t", "SAM", _READS),
        (rb"[^\t\n]+\t\d+\t[^\t\n]+\t\d+\t\d+\t(\*|[\dMIDNSHP=X]+)\t", "SAM", _READS),
        (rb"NCBI\.sra", "an SRA archive", "Extract its reads, e.g. with fasterq-dump."),
        (rb"\x89HDF\r?\n", "HDF5 (as FAST5)", _SIGNAL),
        (rb"\x8bPOD\r?\n", "POD5", _SIGNAL),
        (rb"ABIF|\.scf", "a Sanger trace", "Call its bases, and give them as FASTA."),
        (rb"\x1aA'C|C'A\x1a", "2bit", "Convert it with twoBitToFa."),
        (rb"LOCUS ", "GenBank", _CONVERT),
        (rb"ID   ", "EMBL", _CONVERT),
        (rb"##gff", "GFF, which is about features of sequences", _SEQUENCES),
        (rb"##fileformat=VCF|BCF\x02", "VCF, which is about variants of sequences", _SEQUENCES),
        (rb"#NEXUS|CLUSTAL|# STOCKHOLM", "an alignment", _GAPS),
        (rb"(?i)<(!doctype html|html|head|\?xml|!--)", "an HTML page or XML", _DOWNLOAD),
        (rb"\{|\[\s*[\"{\[\d]", "JSON", _DOWNLOAD),
        (rb"%PDF", "PDF", "Save the sequences as plain text."),
        (rb"version https://git-lfs", "a pointer of Git LFS", "Fetch the file itself, with git lfs pull."),
    )
]
_SHEET = "Give it as the only input, without a name before it, tab-separated, and with a name that ends in .tsv."


def not_sequences(path: Path, start: bytes) -> InputError | None:
    """The error for a file that begins with ``start``, white space left out; None if it may be FASTA or FASTQ."""
    for beginning, said in _FORMATS:
        if beginning.match(start):
            return InputError(f"{path}: not FASTA or FASTQ but {said}")
    if start.startswith((b">", b"@")):
        return None
    line = start.split(b"\n", 1)[0].decode("utf-8", errors="replace").rstrip()
    if {"sample", "fasta"} <= {word.strip(" \"'").lower() for word in re.split(r"[\t,;]", line)}:
        return InputError(f"{path}: not FASTA but a sample sheet. {_SHEET}")
    return InputError(f"{path}: not FASTA: text before the first '>': {line[:40]!r}. Give a file that starts with '>'.")
