"""Recognising a file that is neither FASTA nor FASTQ, to say what it is and how to convert it."""

from __future__ import annotations

import re
from pathlib import Path

from virnucpro.errors import InputError

SNIFFED_BYTES = 1 << 9
"""The beginning of a file that ``not_sequences`` needs."""

_UNPACK_REMEDY = "Decompress it, or use gzip or zstd instead."
_CONVERT_REMEDY = "Convert it to FASTA, e.g. with Biopython's SeqIO.convert."
_READS_REMEDY = "Extract its reads, e.g. with samtools fastq."
_SIGNAL_REMEDY = "Call the bases of the signal, and give the FASTQ."
_SEQUENCES_REMEDY = "Give the sequences that it is about, as FASTA."
_DOWNLOAD_REMEDY = "It may be what a server answered instead of the file: look at it, and download the file again."
_GAPS_REMEDY = "Give the sequences without gaps, as FASTA."

_KNOWN_FORMATS = [
    (re.compile(beginning, re.DOTALL), f"{what}. {remedy}")
    for beginning, what, remedy in (
        (rb"BZh", "compressed with bzip2", _UNPACK_REMEDY),
        (rb"\xfd7zXZ", "compressed with xz", _UNPACK_REMEDY),
        (rb"7z\xbc\xaf|Rar!", "a 7z or rar archive", "Unpack it and give its files."),
        (
            rb"PK\x03\x04.*(\[Content_Types\]|_rels|xl/)",
            "an Excel or Word document",
            "Save the sequences as plain text.",
        ),
        (rb"PK\x03\x04", "compressed with zip", _UNPACK_REMEDY),
        (rb"\xd0\xcf\x11\xe0", "an Excel or Word document", "Save the sequences as plain text."),
        (rb"\x1f\x8b|\x28\xb5\x2f\xfd", "compressed twice", "Decompress it once."),
        (rb".{257}ustar", "a tar archive", "Unpack it and give its files."),
        (rb"\xff\xfe|\xfe\xff|[>@]\x00|\x00[>@]", "UTF-16 text", "Convert it, e.g. with iconv -f utf-16 -t utf-8."),
        (rb"BAM\x01", "BAM", _READS_REMEDY),
        (rb"CRAM", "CRAM", _READS_REMEDY),
        (rb"@(HD|SQ|RG|PG)\t[A-Za-z][A-Za-z0-9]:|@CO\t", "SAM", _READS_REMEDY),
        (rb"[^\t\n]+\t\d+\t[^\t\n]+\t\d+\t\d+\t(\*|[\dMIDNSHP=X]+)\t", "SAM", _READS_REMEDY),
        (rb"NCBI\.sra", "an SRA archive", "Extract its reads, e.g. with fasterq-dump."),
        (rb"\x89HDF\r?\n", "HDF5 (as FAST5)", _SIGNAL_REMEDY),
        (rb"\x8bPOD\r?\n", "POD5", _SIGNAL_REMEDY),
        (rb"ABIF|\.scf", "a Sanger trace", "Call its bases, and give them as FASTA."),
        (rb"\x1aA'C|C'A\x1a", "2bit", "Convert it with twoBitToFa."),
        (rb"LOCUS ", "GenBank", _CONVERT_REMEDY),
        (rb"ID   ", "EMBL", _CONVERT_REMEDY),
        (rb"##gff", "GFF, which is about features of sequences", _SEQUENCES_REMEDY),
        (rb"##fileformat=VCF|BCF\x02", "VCF, which is about variants of sequences", _SEQUENCES_REMEDY),
        (rb"#NEXUS|CLUSTAL|# STOCKHOLM", "an alignment", _GAPS_REMEDY),
        (rb"(?i)<(!doctype html|html|head|\?xml|!--)", "an HTML page or XML", _DOWNLOAD_REMEDY),
        (rb"\{|\[\s*[\"{\[\d]", "JSON", _DOWNLOAD_REMEDY),
        (rb"%PDF", "PDF", "Save the sequences as plain text."),
        (rb"version https://git-lfs", "a pointer of Git LFS", "Fetch the file itself, with git lfs pull."),
    )
]
_SHEET_REMEDY = "Give it as the only input, without a name before it, tab-separated, and with a name that ends in .tsv."


def not_sequences(path: Path, start: bytes) -> InputError | None:
    """The error for a file that begins with ``start`` (after white space); None if it may be FASTA or FASTQ."""
    for beginning, said in _KNOWN_FORMATS:
        if beginning.match(start):
            return InputError(f"{path}: not FASTA or FASTQ but {said}")
    if start.startswith((b">", b"@")):
        return None
    line = start.split(b"\n", 1)[0].decode("utf-8", errors="replace").rstrip()
    if {"sample", "fasta"} <= {word.strip(" \"'").lower() for word in re.split(r"[\t,;]", line)}:
        return InputError(f"{path}: not FASTA but a sample sheet. {_SHEET_REMEDY}")
    return InputError(f"{path}: not FASTA: text before the first '>': {line[:40]!r}. Give a file that starts with '>'.")
