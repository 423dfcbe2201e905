"""Sample sheets and label tables as spreadsheets, editors and scripts write them."""

from __future__ import annotations

import codecs
import csv
import io
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.classifier.labels import has_fasta, read_labelled_fasta, read_labelled_records
from virnucpro.errors import InputError, VirNucProError
from virnucpro.settings.samples import is_sample_sheet, read_samples
from virnucpro.settings.tables import quoted, read_table

SHEET = "sample\tfasta\na\tx y.fa\nb\tz.fa\n"
LABELS = SHEET.replace("sample", "label").replace("a\t", "viral\t").replace("b\t", "0\t")


def written(folder: Path, content: str | bytes, name: str = "sheet.tsv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + SHEET.encode(),
        SHEET.encode("utf-16"),
        codecs.BOM_UTF16_BE + SHEET.encode("utf-16-be"),
        SHEET.replace("\n", "\r\n"),
        SHEET.replace("\n", "\r"),
        SHEET.rstrip("\n"),
        SHEET.replace("\n", "\t\t \n"),
        SHEET.replace("\n", " \n\n \t\n# a note\n#c\td.fa\n"),
        "\n# a note\n" + SHEET,
        SHEET.replace("sample\tfasta", "Sample\tFASTA"),
        SHEET.replace("x y.fa", '"x y.fa"').replace("sample", '"sample"'),
        SHEET.replace("z.fa", "\u00a0z.fa \u00a0"),
        SHEET.replace("\t", ","),
        SHEET.replace("\t", ";").replace("x y.fa", ' "x y.fa" '),
        SHEET.replace("\n", "\tmore\n"),
    ],
)
def test_what_is_read_whatever_wrote_it(tmp_path, content):
    assert read_samples(written(tmp_path, content)) == {"a": [tmp_path / "x y.fa"], "b": [tmp_path / "z.fa"]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"sample\tfasta\n\na\tsch\xf6n.fa\n", "line 3: isn't UTF-8 text.*iconv -f latin1 -t utf-8"),
        (SHEET.encode("utf-16-le"), "line 1: has a NUL character"),
        (codecs.BOM_UTF16_LE + b"a\0b", "begins as UTF-16 text, but isn't"),
        (b"", "is empty. It needs the columns sample and fasta"),
        ("\n# sample\tfasta\na\tb.fa\n", "line 2: the names of the columns are a comment"),
        ("sample\tfasta\tFasta\na\tb\tc\n", "line 1: column 'fasta' is there twice"),
        ("sample  fasta\na  b.fa\n", "separated by tabs, not spaces"),
        (SHEET + "\nc\td.fa\te.fa\n", "line 5: has 3 cells, the header 2"),
        ("sample,fasta\na,x,y.fa\n", "line 2: has 3 cells, the header 2. Save it as tab-separated"),
        ("sample;fasta\na\n", "line 2: has 1 cells"),
        ('sample\tfasta\na\t"x.fa\n', "line 2: a quote isn't closed"),
        ('sample\tfasta\na\t"x" y.fa\n', "line 2: a quote isn't closed, or has text behind"),
        (SHEET + "a\tx y.fa\n", "line 4: .*x y.fa is listed twice for sample 'a'"),
        (SHEET + "A\tq.fa\n", "samples 'a' and 'A' differ only by case"),
        (SHEET + "c\u200b\tq.fa\n", r"line 4: sample name 'c\\u200b'"),
        (SHEET + "c\tq{1}.fa\n", r"line 4: .*has \{ or \}"),
        (b"PK\x03\x04...", "is a spreadsheet or a zip file.*Save it as tab-separated text"),
        (b"\xd0\xcf\x11\xe0\xa1", "is a spreadsheet"),
        (b"\x1f\x8b\x08", "is compressed. Decompress"),
        (">a\nACGT\n", "is FASTA, not a table"),
    ],
)
def test_what_is_refused_by_line(tmp_path, content, says):
    with pytest.raises(InputError, match=rf"sheet\.tsv.*{says}"):
        read_samples(written(tmp_path, content))


@pytest.mark.parametrize("name", ["~$samples.xlsx", ".~lock.samples.tsv#"])
def test_what_a_spreadsheet_program_leaves_is_named(tmp_path, name):
    with pytest.raises(InputError, match=r"while it has the file open\. Give the file itself"):
        read_samples(written(tmp_path, "x", name))


def test_label_tables_are_read_alike(tmp_path):
    for content in (LABELS, LABELS.replace("\t", ";"), LABELS.encode("utf-16"), LABELS.replace("label", "Label")):
        table = written(tmp_path, content)
        assert has_fasta(table)
        found = read_labelled_fasta(table)
        assert [(row.fasta, row.label.viral) for row in found] == [
            (tmp_path / "x y.fa", True),
            (tmp_path / "z.fa", False),
        ]
    for row, says in (
        ("viral\tx y.fa", "line 4: .*listed twice"),
        ("perhaps\tq.fa", "line 4: label 'perhaps'"),
        ("viral\t", "line 4: no FASTA path"),
        ("viral\tq.fa\tmore", "line 4: has 3 cells"),
    ):
        with pytest.raises(InputError, match=says):
            read_labelled_fasta(written(tmp_path, LABELS + row + "\n"))


def test_records_may_be_called_like_comments(tmp_path):
    table = written(tmp_path, "# what is known\nID,Label\n#1,viral\n\n2,0\n")
    assert not has_fasta(table)
    assert {name: label.viral for name, label in read_labelled_records(table).items()} == {"#1": True, "2": False}
    with pytest.raises(InputError, match="line 3: record '1' is listed twice"):
        read_labelled_records(written(tmp_path, "id\tlabel\n1\t0\n1\t1\n"))


def test_a_sheet_is_known_by_its_header(tmp_path):
    assert is_sample_sheet(written(tmp_path, SHEET)) and is_sample_sheet(written(tmp_path, "fasta;SAMPLE\n"))
    for other in (">sample\tfasta\n", "sample\n", b"\xff\xff", b"", LABELS):
        assert not is_sample_sheet(written(tmp_path, other))


cell = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(cell, cell), max_size=8), st.sampled_from("\t;,"), st.booleans())
def test_rows_in_are_rows_out(rows, separator, as_csv):
    """What this package or Python's csv module writes is read as it was, but for blanks around unquoted cells."""
    text = io.StringIO()
    if as_csv:
        csv.writer(text, delimiter=separator, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("p", "q"), *rows])
    else:
        rows = [tuple(cell.replace(separator, "") for cell in row) for row in rows]
        text.write("".join(separator.join(map(quoted, row)) + "\n" for row in [("p", "q"), *rows]))
    with tempfile.TemporaryDirectory() as folder:
        found = read_table(written(Path(folder), text.getvalue()), ("p", "q")).rows
    kept = [(n, row) for n, row in enumerate(rows, 2) if any(row)]
    assert [(row.line, (row["p"], row["q"])) for row in found] == kept


@st.composite
def mutated(draw, good: bytes) -> bytes:
    content = bytearray(good)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 5)))
        content[start:end] = draw(
            st.binary(max_size=4) | st.sampled_from([b"\t", b"\n", b'"', b"[", b"*", b"~", b"\0"])
        )
    return bytes(content)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60) | mutated(SHEET.encode()) | mutated(LABELS.encode()) | mutated(SHEET.encode("utf-16")))
def test_any_bytes_are_a_table_or_one_message(content):
    with tempfile.TemporaryDirectory() as folder:
        table = written(Path(folder), content)
        for read in (read_samples, is_sample_sheet, has_fasta, read_labelled_fasta, read_labelled_records):
            with suppress(VirNucProError):
                assert read(table) is not None


def test_quotation_marks_of_the_programs_own_tables_are_letters(tmp_path):
    (tmp_path / "split.tsv").write_text('sample\trecord\tpart\ns\t"q\ttest\ns\t"q2"\ttrain\n')
    rows = read_table(tmp_path / "split.tsv", ("sample", "record", "part"), quotes=False).rows
    assert [row["record"] for row in rows] == ['"q', '"q2"']
