"""Other programs' tables beside contigs.tsv: which contig an id means, what isn't matched, and a PAF's coverage."""

from __future__ import annotations

import gzip
import random

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.tables import contig_table, read
from virnucpro.cli import cli
from virnucpro.errors import ConfigError, InputError, StorageError
from virnucpro.handover.ids import OTHER_LENGTH, UNKNOWN
from virnucpro.handover.join import join
from virnucpro.handover.reads import Coverage
from virnucpro.result_tables import REGION_COLUMNS

LENGTHS = {"c1": 60000, "c2": 5000, "c3": 800, "c1_2": 900}
# The columns as CheckV and geNomad (its quick start) write them.
CHECKV = [
    "contig_id",
    "contig_length",
    "provirus",
    "proviral_length",
    "gene_count",
    "viral_genes",
    "host_genes",
    "checkv_quality",
    "miuvig_quality",
    "completeness",
    "completeness_method",
    "contamination",
    "kmer_freq",
    "warnings",
]
CONTAMINATION = [
    "contig_id",
    "contig_length",
    "total_genes",
    "viral_genes",
    "host_genes",
    "provirus",
    "proviral_length",
    "host_length",
    "region_types",
    "region_lengths",
    "region_coords_bp",
    "region_coords_genes",
    "region_viral_genes",
    "region_host_genes",
]
VIRUS = [
    "seq_name",
    "length",
    "topology",
    "coordinates",
    "n_genes",
    "genetic_code",
    "virus_score",
    "fdr",
    "n_hallmarks",
    "marker_enrichment",
    "taxonomy",
]
PLASMID = [
    "seq_name",
    "length",
    "topology",
    "n_genes",
    "genetic_code",
    "plasmid_score",
    "fdr",
    "n_hallmarks",
    "marker_enrichment",
    "conjugation_genes",
    "amr_genes",
]


@pytest.fixture
def sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out" / "s"
    folder.mkdir(parents=True)
    rows = [{"record": name, "length": length, "call": "viral"} for name, length in LENGTHS.items()]
    (folder / "contigs.tsv").write_text(contig_table(rows))
    (folder / "summary.json").write_text("{}")
    return folder


def table(path, columns, *rows):
    """A program's table; cells that aren't given are NA."""
    lines = [columns, *([str(row.get(name, "NA")) for name in columns] for row in rows)]
    path.write_text("".join("\t".join(line) + "\n" for line in lines))
    return path


def checkv(path, *rows):
    return table(path, CHECKV, *({"contig_id": name, "contig_length": length} | more for name, length, more in rows))


def virus(path, *rows):
    return table(path, VIRUS, *({"seq_name": name, "length": n, "virus_score": score} for name, n, score in rows))


def parts(rows, *columns):
    return [tuple(row[name] for name in columns) for row in rows]


# The joined table


def test_checkv(sample, tmp_path):
    quality = {"checkv_quality": "High-quality", "completeness": "95.2", "warnings": "a 'quote\"; x", "provirus": "No"}
    given = checkv(tmp_path / "quality_summary.tsv", ("c2", 5000, quality), ("z", 9, {}), ("c3", 801, {}))
    tables = join(sample, tmp_path / "joined.tsv", checkv=given)
    rows = read(tmp_path / "joined.tsv")
    assert [row["record"] for row in rows] == list(LENGTHS), "contigs.tsv, in its order"
    assert rows[1]["call"] == "viral" and rows[1]["checkv_quality"] == "High-quality"
    assert (rows[1]["checkv_completeness"], rows[1]["checkv_warnings"]) == ("95.2", quality["warnings"])
    assert rows[1]["checkv_contamination"] == rows[1]["checkv_start"] == rows[0]["checkv_quality"] == "", "NA is empty"
    assert [(table.ids, len(table.records)) for table in tables] == [(1, 1)]
    assert parts(read(tmp_path / "joined.unmatched.tsv"), "id", "reason", "rows") == [
        ("z", UNKNOWN, "1"),
        ("c3", OTHER_LENGTH, "1"),
    ]


def test_proviruses_stand_beside_one_another(sample, tmp_path):
    """geNomad's by their names; CheckV's, of its own names and of geNomad's, by contamination.tsv of the first run."""
    given = virus(
        tmp_path / "x_virus_summary.tsv",
        ("c1|provirus_1001_11000", 10000, 0.9),
        ("c1|provirus_30001_40000", 10000, 0.8),
        ("c2", 5000, 0.7),
    )
    table(
        tmp_path / "contamination.tsv",
        CONTAMINATION,
        {"contig_id": "c1", "region_types": "host,viral,host,viral", "region_coords_bp": "1-500,501-9000,9001-50000,50001-60000"},
        {"contig_id": "c1|provirus_30001_40000", "region_types": "host,viral", "region_coords_bp": "1-100,101-10000"},
        {"contig_id": "c2", "region_types": "viral", "region_coords_bp": "1-5000"},
    )  # fmt: skip
    summary = checkv(
        tmp_path / "quality_summary.tsv",
        ("c1_1", 8500, {"checkv_quality": "A"}),
        ("c1_2", 900, {"checkv_quality": "the contig"}),
        ("c1|provirus_30001_40000_1", 9900, {"checkv_quality": "B"}),
        ("c2", 5000, {"checkv_quality": "C"}),
    )
    join(sample, tmp_path / "joined.tsv", checkv=summary, genomad=[given])
    rows = read(tmp_path / "joined.tsv")
    columns = ("record", "genomad_virus_start", "genomad_virus_end", "checkv_start", "checkv_end", "checkv_quality")
    assert parts(rows, *columns) == [
        ("c1", "1001", "11000", "501", "9000", "A"),
        ("c1", "30001", "40000", "30101", "40000", "B"),
        ("c2", "", "", "", "", "C"),
        ("c3", "", "", "", "", ""),
        ("c1_2", "", "", "", "", "the contig"),
    ]
    assert [row["genomad_virus_score"] for row in rows] == ["0.9", "0.8", "0.7", "", ""]
    # Without that table CheckV's own have rows of their own, in which nothing is said of where.
    (tmp_path / "contamination.tsv").unlink()
    join(sample, tmp_path / "joined.tsv", checkv=summary, genomad=[given])
    assert parts(read(tmp_path / "joined.tsv"), *columns)[:4] == [
        ("c1", "1001", "11000", "", "", ""),
        ("c1", "30001", "40000", "30001", "40000", "B"),
        ("c1", "", "", "", "", "A"),
        ("c2", "", "", "", "", "C"),
    ]


def test_a_provirus_on_a_plasmid_has_both(sample, tmp_path):
    viral = virus(tmp_path / "v.tsv", ("c2|provirus_1_900", 900, 0.9), ("c2|provirus_2001_3000", 1000, 0.8))
    plasmid = table(tmp_path / "p.tsv", PLASMID, {"seq_name": "c2", "length": 5000, "plasmid_score": 0.95})
    join(sample, tmp_path / "joined.tsv", genomad=[plasmid, viral])
    rows = [row for row in read(tmp_path / "joined.tsv") if row["record"] == "c2"]
    assert parts(rows, "genomad_virus_score", "genomad_plasmid_score") == [("0.9", "0.95"), ("0.8", "0.95")]


def test_the_viral_part_of_a_contig_that_checkv_cut(sample, tmp_path):
    table(
        tmp_path / "regions.tsv",
        CONTAMINATION,
        {"contig_id": "c2", "region_types": "viral,host", "region_coords_bp": "1-4000,4001-5000"},
    )
    summary = checkv(tmp_path / "q.tsv", ("c2", 5000, {"provirus": "Yes"}))
    join(sample, tmp_path / "joined.tsv", checkv=summary, contamination=tmp_path / "regions.tsv")
    assert parts(read(tmp_path / "joined.tsv"), "checkv_start", "checkv_end", "checkv_provirus")[1] == (
        "1",
        "4000",
        "Yes",
    )


# Reads


def paf(target, length, start, end, quality=60, tags="tp:A:P\tcm:i:5"):
    return f"r\t150\t0\t150\t+\t{target}\t{length}\t{start}\t{end}\t150\t150\t{quality}\t{tags}".rstrip("\t") + "\n"


def test_reads_per_contig(sample, tmp_path):
    text = paf("c3", 800, 0, 150) + paf("c3", 800, 100, 250, 4) + paf("c3", 800, 700, 800, 5)
    text += (
        paf("c3", 800, 300, 400, tags="NM:i:1\ttp:A:S") + paf("c2", 5000, 0, 150, 0) + paf("c3", 800, 50, 200, tags="")
    )
    text += paf("other", 5, 0, 5) * 2 + paf("c1", 7, 0, 5)
    (tmp_path / "reads.paf.gz").write_bytes(gzip.compress(text.encode()))
    (table,) = join(sample, tmp_path / "joined.tsv", paf=tmp_path / "reads.paf.gz", min_mapq=5)
    rows = read(tmp_path / "joined.tsv")
    columns = ("reads", "reads_bases_covered", "reads_mean_depth")
    assert parts(rows, *columns) == [("0", "0", "0.0")] * 2 + [("3", "300", "0.5")] + [("0", "0", "0.0")]
    assert parts(read(tmp_path / "joined.unmatched.tsv"), "id", "reason", "rows") == [
        ("other", UNKNOWN, "2"),
        ("c1", OTHER_LENGTH, "1"),
    ]
    assert "2 ids matched, of 2 contigs; 2 not matched" in table.said()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12))))
def test_coverage_is_that_of_an_array(spans):
    found, covered = Coverage(), set()
    for start, length in spans:
        found.add(start, start + length)
        covered |= set(range(start, start + length))
    reads, bases, depth = found.values(60)
    assert (int(reads), int(bases)) == (len(spans), len(covered))
    assert float(depth) == pytest.approx(sum(length for _, length in spans) / 60, abs=1e-4)


def test_memory_grows_with_what_is_covered_and_not_with_reads():
    found, numbers = Coverage(), random.Random(1)
    for _ in range(20_000):
        start = numbers.randrange(0, 9_900)
        found.add(start, start + 100)
    assert len(found.starts) < 5 and found.reads == 20_000


# What is refused


def test_a_table_of_another_run_is_refused(sample, tmp_path):
    given = checkv(tmp_path / "q.tsv", ("k1", 5, {}), ("k2", 6, {}))
    with pytest.raises(InputError, match=r"none of its ids \(2\).*It has k1, k2; the sample has c1, c2, c3\."):
        join(sample, tmp_path / "joined.tsv", checkv=given)
    assert not (tmp_path / "joined.tsv").exists()
    with pytest.raises(InputError, match="contig of this sample of the same length"):
        join(sample, tmp_path / "joined.tsv", checkv=checkv(tmp_path / "q.tsv", ("c1", 5, {})))
    (tmp_path / "r.paf").write_text(paf("k1", 800, 0, 150))
    with pytest.raises(InputError, match=r"r\.paf \(PAF\): none of its ids \(1\)"):
        join(sample, tmp_path / "joined.tsv", paf=tmp_path / "r.paf")


def test_tables_without_rows_say_nothing(sample, tmp_path):
    (tmp_path / "empty.paf").write_text("")
    given = {
        "checkv": checkv(tmp_path / "q.tsv"),
        "genomad": [virus(tmp_path / "v.tsv")],
        "paf": tmp_path / "empty.paf",
    }
    assert [table.ids for table in join(sample, tmp_path / "joined.tsv", **given)] == [0, 0, 0]
    assert len(read(tmp_path / "joined.tsv")) == len(LENGTHS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"isn't a table of CheckV.*no column contig_id.*\(none\)"),
        ("contig_id\tx\nc1\t1\n", "no column contig_length, checkv_quality, completeness"),
        ("contig_id\tcontig_length\tcheckv_quality\tcompleteness\nc1\t1\n", "line 2: has 2 cells, the header 4"),
        ("contig_id\tcontig_length\tcheckv_quality\tcompleteness\nc1\tx\t\t\n", "line 2: 'x' isn't a whole number"),
        (
            "contig_id\tcontig_length\tcheckv_quality\tcompleteness\n" + "c2\t5000\t\t\n" * 2,
            "line 3: c2 is there twice",
        ),
        ("\0", "line 1: isn't UTF-8 text"),
    ],
)
def test_damaged_tables(sample, tmp_path, text, message):
    (tmp_path / "q.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        join(sample, tmp_path / "joined.tsv", checkv=tmp_path / "q.tsv")


def test_what_is_no_paf(sample, tmp_path):
    (tmp_path / "r.paf").write_text("@SQ\tSN:c1\tLN:5\n")
    with pytest.raises(InputError, match=r"line 1: isn't PAF.*minimap2"):
        join(sample, tmp_path / "joined.tsv", paf=tmp_path / "r.paf")
    (tmp_path / "r.paf").write_text(paf("c3", 800, 5, 900))
    with pytest.raises(InputError, match="line 1: bases 5 to 900 aren't in c3"):
        join(sample, tmp_path / "joined.tsv", paf=tmp_path / "r.paf")


def test_two_of_a_kind_and_neither(sample, tmp_path):
    both = [virus(tmp_path / "v.tsv"), virus(tmp_path / "w.tsv")]
    with pytest.raises(InputError, match=r"w\.tsv: a second geNomad's _virus_summary"):
        join(sample, tmp_path / "joined.tsv", genomad=both)
    with pytest.raises(InputError, match=r"is neither geNomad's _virus_summary\.tsv nor"):
        join(sample, tmp_path / "joined.tsv", genomad=[checkv(tmp_path / "q.tsv")])


def test_the_folder_of_a_run_is_not_that_of_a_sample(sample, tmp_path):
    with pytest.raises(StorageError, match=r"Give a sample's folder, such as .*out/s\."):
        join(tmp_path / "out", tmp_path / "joined.tsv")


def test_the_command(sample, tmp_path):
    checkv(tmp_path / "q.tsv", ("c2", 5000, {}), ("c8", 5, {}))
    words = ["join", "out/s", "--checkv", "q.tsv", "-o", "joined.tsv"]
    run = CliRunner().invoke(cli, words)
    assert run.exit_code == 0, run.output
    assert "q.tsv (CheckV's quality_summary.tsv): 1 id matched, of 1 contig; 1 not matched" in run.output
    assert run.output.splitlines()[-1] == "joined.tsv; ids that aren't the sample's: joined.unmatched.tsv"
    checkv(tmp_path / "all.tsv", ("c2", 5000, {}))
    fits = CliRunner().invoke(cli, ["join", "out/s", "--checkv", "all.tsv", "-o", "fits.tsv"])
    assert fits.output.splitlines()[-1] == "fits.tsv" and len(read(tmp_path / "fits.unmatched.tsv")) == 0
    again = CliRunner().invoke(cli, words)
    assert isinstance(again.exception, ConfigError) and "is there already" in str(again.exception)
    assert CliRunner().invoke(cli, [*words, "--force"]).exit_code == 0
    over = CliRunner().invoke(cli, [*words[:-1], "q.tsv", "--force"])
    assert "is the file to be read" in str(over.exception)
    folder = CliRunner().invoke(cli, ["join", "out/s", "--checkv", "out", "-o", "x.tsv"])
    assert folder.exit_code == 2 and "Invalid value for '--checkv': File 'out' is a directory" in folder.output
    nothing = CliRunner().invoke(cli, ["join", "out/s", "-o", "x.tsv"])
    assert nothing.exit_code == 2 and "Give --checkv, --genomad or --paf" in nothing.output


# The sample's own regions


@pytest.fixture
def with_regions(sample):
    rows = [
        ("c1", "c1_region_1", 1001, 9000, "inner"),
        ("c1", "c1_region_2", 30001, 60000, "end"),
        ("c2", "c2_region_1", 1, 5000, "whole"),
    ]
    given = [
        dict(zip(("record", "region", "start", "end", "extent"), row, strict=True)) | {"mean_posterior": 0.9}
        for row in rows
    ]
    lines = [REGION_COLUMNS, *([str(row.get(name, "")) for name in REGION_COLUMNS] for row in given)]
    (sample / "regions.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    return sample


def test_regions_stand_beside_what_others_say_of_the_same_place(with_regions, tmp_path):
    summary = virus(tmp_path / "v.tsv", ("c1|provirus_2001_9500", 7500, 0.9), ("c1|provirus_20000_20999", 1000, 0.8))
    join(with_regions, tmp_path / "j.tsv", genomad=[summary])
    names = ("record", "region", "region_start", "region_end", "region_extent", "genomad_virus_start")
    assert parts(read(tmp_path / "j.tsv"), *names) == [
        ("c1", "c1_region_1", "1001", "9000", "inner", "2001"),
        ("c1", "c1_region_2", "30001", "60000", "end", ""),
        ("c1", "", "", "", "", "20000"),
        ("c2", "c2_region_1", "1", "5000", "whole", ""),
        ("c3", "", "", "", "", ""),
        ("c1_2", "", "", "", "", ""),
    ]
    assert [row["region_mean_posterior"] for row in read(tmp_path / "j.tsv")][:1] == ["0.9"]


def test_programs_that_were_given_the_regions(with_regions, tmp_path):
    """viral_regions.fasta.gz: their ids are the regions'."""
    quality = checkv(
        tmp_path / "q.tsv",
        ("c1_region_1", 8000, {"checkv_quality": "Complete"}),
        ("c1_region_2", 30000, {"checkv_quality": "Low-quality"}),
        ("c2_region_1", 5000, {"checkv_quality": "High-quality"}),
        ("c3_region_1", 800, {}),
    )
    contamination = table(
        tmp_path / "contamination.tsv",
        CONTAMINATION,
        {"contig_id": "c1_region_2", "region_types": "viral,host", "region_coords_bp": "1-20000,20001-30000"},
    )
    (matched,) = join(with_regions, tmp_path / "j.tsv", checkv=quality, contamination=contamination)
    assert matched.ids == 3 and list(matched.unmatched) == [("c3_region_1", UNKNOWN)]
    names = ("region", "checkv_start", "checkv_end", "checkv_quality")
    assert parts(read(tmp_path / "j.tsv"), *names)[:3] == [
        ("c1_region_1", "1001", "9000", "Complete"),
        ("c1_region_2", "30001", "50000", "Low-quality"),
        ("c2_region_1", "1", "5000", "High-quality"),
    ]


def test_without_regions_their_columns_are_missing(sample, tmp_path):
    join(sample, tmp_path / "j.tsv", genomad=[virus(tmp_path / "v.tsv", ("c1", 60000, 0.9))])
    assert "region" not in read(tmp_path / "j.tsv")[0]
