"""Viral regions of contigs: where they are, and their files as other programs read them."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import asdict, replace
from urllib.parse import unquote

import gffutils
import pybedtools
import pyfaidx
import pytest

from tests.unit.tables import contig_table, read
from virnucpro.calls.region_files import RegionFiles, RegionPaths
from virnucpro.calls.regions import Chunks, find_regions, is_circular
from virnucpro.calls.viral import write_viral
from virnucpro.classifier.region_model import DEFAULT, RegionModel
from virnucpro.errors import StorageError
from virnucpro.result_tables import CHUNK_COLUMNS, REGION_COLUMNS
from virnucpro.sequences.chunks import chunk_starts

CHUNK = 500
LEFT, RIGHT = (0, 20), (80, 100)  # of 100 chunks


def chunks_of(viral, n=100, unscored=(), logit=8.0):
    """Chunks of a contig of n times 500 bases: viral in these ranges of indices, some unscored."""
    inside = {at for first, end in viral for at in range(first, end)}
    logits = [None if at in unscored else logit if at in inside else -logit for at in range(n)]
    starts = [at * CHUNK + 1 for at in range(n)]
    return Chunks(starts, [start + CHUNK - 1 for start in starts], logits, [at % 3 == 0 for at in range(n)])


def found(viral, n=100, circular=False, **given):
    chunks = chunks_of(viral, n, **given)
    regions = find_regions(DEFAULT, chunks, chunks.ends[-1], circular)
    assert all(0.5 <= region.lowest <= region.mean <= 1 for region in regions)
    return [((region.start - 1) // CHUNK, region.end // CHUNK, region.extent) for region in regions]


# Where they are


@pytest.mark.parametrize(
    ("viral", "regions"),
    [
        ([], []),
        ([(0, 100)], [(0, 100, "whole")]),
        ([LEFT], [(0, 20, "start")]),
        ([RIGHT], [(80, 100, "end")]),
        ([(40, 60)], [(40, 60, "inner")]),
        ([LEFT, (40, 60), RIGHT], [(0, 20, "start"), (40, 60, "inner"), (80, 100, "end")]),
    ],
)
def test_extents(viral, regions):
    assert found(viral) == regions


def test_a_single_chunk():
    assert found([(0, 1)], n=1) == [(0, 1, "whole")]
    assert found([], n=1) == []
    model = replace(DEFAULT, limit=50.0, frame=1.0, partial=1.0)
    (region,) = find_regions(model, chunks_of([(50, 51)], logit=20.0), 50_000)
    assert (region.start, region.end, region.chunks, region.scored, region.extent) == (25_001, 25_500, 1, 1, "inner")


def test_chunks_without_a_score_are_bridged():
    chunks = chunks_of([(40, 60)], unscored=(50, 51, 52))
    (region,) = find_regions(DEFAULT, chunks, 50_000)
    assert (region.start, region.end, region.chunks, region.scored) == (20_001, 30_000, 20, 17)
    assert found([], unscored=range(100)) == [], "nothing is known"


def test_over_the_origin_of_a_circle():
    assert found([LEFT, RIGHT], circular=True) == [(0, 20, "origin"), (80, 100, "origin")]
    assert found([(0, 100)], circular=True) == [(0, 100, "whole")]
    assert found([LEFT], circular=True) == [(0, 20, "inner")], "it isn't cut off there"
    assert found([RIGHT], circular=True) == [(80, 100, "inner")]
    # Evidence that suffices only together with what is beyond the origin.
    weak = [(0, 2), (98, 100)]
    assert found(weak, logit=6.0) == [(0, 1, "start")]
    assert found(weak, logit=6.0, circular=True) == [(0, 2, "origin"), (98, 100, "origin")]


@pytest.mark.parametrize(
    ("header", "circular"),
    [
        ("c1", False),
        ("1 length=5386 depth=1.00x circular=true", True),
        ("c circular=Yes", True),
        ("c CIRCULAR", True),
        ("contig_circular", True),
        ("c [topology=circular]", True),
        ("c circular=false", False),
        ("c circular=No", False),
        ("c circular: no", False),
        ("u1ctg_len-5000_circular-no_depth-7", False),
        ("u1ctg_len-5000_circular-yes_depth-7", True),
        ("c non-circular", False),
        ("c not circular", False),
        ("c semicircular", False),
        ("c circularised", False),
        ("c circular=nosuchplasmid", True),
    ],
)
def test_circles_by_their_header(header, circular):
    assert is_circular(header, letters(2000)) == circular


def letters(n, seed=0):
    return bytes(random.Random(seed).choices(b"ACGT", k=n))


@pytest.mark.parametrize(
    ("repeat", "circular"),
    [
        *((letters(length), True) for length in (30, 127, 300)),
        *((letters(length), False) for length in (29, 301)),
        *((repeat, False) for repeat in (b"A" * 60, b"AT" * 40, b"N" * 90, b"AAT" * 20, b"AACC" * 20)),
    ],
)
def test_circles_by_their_ends(repeat, circular):
    sequence = repeat + b"G" + letters(2000, 1) + b"C" + repeat
    assert is_circular("c", sequence) == circular
    assert is_circular("c", sequence + b"A") is False and is_circular("c", b"T" + sequence) is False
    assert is_circular("c", sequence[:500] + sequence[500:].lower()) == circular
    assert is_circular("c", b"") is False and is_circular("c", letters(59)) is False


def test_short_ends_that_lie_in_longer_ones():
    """The first place where the beginning is found again need not be where the ends repeat."""
    begin = letters(40)
    assert is_circular("c", begin + letters(1000, 1) + begin[:35] + b"T" * 9 + begin)


# Their files

NAMES = ("a", "b;=%&,~ü", "short", "host", "circle", "#1", "unscored", "none")


def write_sample(folder, fastq=False, model=DEFAULT):
    """Contigs of which most have regions; returns the paths, counts and sequences."""
    sequences = {name: letters(10_000, name) for name in NAMES} | {"short": letters(499), "host": letters(50_000)}
    sequences["circle"] = sequences["circle"][:60] + sequences["circle"][60:-60] + sequences["circle"][:60]
    viral = {"a": [(0, 20)], "b;=%&,~ü": [(0, 20)], "short": [(0, 1)], "host": [(0, 16), (40, 60), (90, 100)]}
    viral |= {"circle": [(0, 6), (14, 20)], "#1": [(6, 14)], "unscored": [(0, 20)]}
    calls = {name: "viral" for name in ("a", "short", "circle")} | {"host": "non-viral", "unscored": "unscored"}
    rows, lines = [], ["\t".join(CHUNK_COLUMNS)]
    for name, sequence in sequences.items():
        starts = chunk_starts(len(sequence), CHUNK).tolist()
        call = calls.get(name, "ambiguous")
        rows.append({"record": name, "length": len(sequence), "chunks": len(starts), "call": call})
        for at, start in enumerate(starts):
            logit = 6.25 if any(first <= at < end for first, end in viral.get(name, ())) else -6.25
            cells = {"record": name, "start": start + 1, "end": min(start + CHUNK, len(sequence)), "logit": logit}
            lines.append("\t".join(str((cells | {"kind": "frame"}).get(column, "")) for column in CHUNK_COLUMNS))
    (folder / "contigs.tsv").write_text(contig_table(rows))
    (folder / "chunks.tsv").write_text("\n".join(lines) + "\n")
    form = "@{0} it\n{1}\n+\n{2}\n" if fastq else ">{0} it\n{1}\n"
    text = "".join(form.format(name, each.decode(), "I" * len(each)) for name, each in sequences.items())
    (folder / "in.fa").write_text(text)
    return *write_regions(folder, model), sequences


def write_regions(folder, model=DEFAULT):
    names = ("regions.tsv", "regions.gff3", "regions.bed", "viral_regions.fasta.gz")
    paths = RegionPaths(*(folder / name for name in names))
    with RegionFiles(paths, folder / "chunks.tsv", model, CHUNK, 2) as regions:
        write_viral(folder / "contigs.tsv", [folder / "in.fa"], folder / "viral.fasta.gz", 1, regions)
    return paths, regions.counts


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("regions"))


def test_the_table(sample):
    paths, counts, _ = sample
    rows = read(paths.table)
    assert list(rows[0]) == list(REGION_COLUMNS)
    assert [(row["region"], row["start"], row["end"], row["extent"], row["call"]) for row in rows] == [
        ("a_region_1", "1", "10000", "whole", "viral"),
        ("b;=%&,~ü_region_1", "1", "10000", "whole", "ambiguous"),
        ("host_region_1", "1", "8000", "start", "non-viral"),
        ("host_region_2", "20001", "30000", "inner", "non-viral"),
        ("host_region_3", "45001", "50000", "end", "non-viral"),
        ("circle_region_1", "1", "3000", "origin", "viral"),
        ("circle_region_2", "7001", "10000", "origin", "viral"),
        ("#1_region_1", "3001", "7000", "inner", "ambiguous"),
    ]
    for row in rows:
        assert int(row["length"]) == int(row["end"]) - int(row["start"]) + 1 == CHUNK * int(row["chunks"])
        assert row["scored_chunks"] == row["chunks"] and row["model"] == "default"
        assert 0.5 <= float(row["lowest_posterior"]) <= float(row["mean_posterior"]) <= 1
    assert (counts.model, counts.regions, counts.records) == ("default", 8, 5)
    assert counts.bases == sum(int(row["length"]) for row in rows)
    said = json.loads(json.dumps(asdict(counts)))  # as summary.json has them
    assert said["extents"] == {"whole": 2, "start": 1, "inner": 2, "end": 1, "origin": 2} and said["regions"] == 8


def test_gff3_by_another_reader(sample, tmp_path):
    paths, _, sequences = sample
    assert paths.gff.read_text().startswith("##gff-version 3\n##sequence-region a 1 10000\na\tVirNucPro\t")
    known = gffutils.create_db(str(paths.gff), str(tmp_path / "gff.db"), merge_strategy="error", keep_order=True)
    for feature, row in zip(known.all_features(), read(paths.table), strict=True):
        assert feature.attributes["ID"] == [row["region"]] and feature.featuretype == "biological_region"
        assert unquote(feature.seqid) == row["record"]
        assert (feature.start, feature.end, feature.score) == (
            int(row["start"]),
            int(row["end"]),
            row["mean_posterior"],
        )
        assert (feature.strand, feature.frame) == (".", ".")
        for name in ("extent", "lowest_posterior", "call", "model"):
            assert feature.attributes[name] == [row[name]]
    named = {row["record"] for row in read(paths.table)}
    pragmas = [line.split(" ") for line in paths.gff.read_text().splitlines() if line.startswith("##sequence-region")]
    assert [int(end) for _, _, _, end in pragmas] == [len(sequences[name]) for name in NAMES if name in named]
    lines = [line for line in paths.gff.read_text().splitlines() if not line.startswith("##")]
    assert all(len(line.split("\t")) == 9 and line[0] not in ">#" for line in lines)
    assert any(line.startswith("b%3B%3D%25%26%2C%7E%C3%BC\t") for line in lines)


def test_bed_by_another_reader(sample):
    paths, _, _ = sample
    lines = paths.bed.read_text().splitlines()
    rows = read(paths.table)
    assert [line.split("\t")[:4] for line in lines] == [
        [row["record"], str(int(row["start"]) - 1), row["end"], row["region"]] for row in rows
    ]
    parsed = list(pybedtools.BedTool(str(paths.bed)))
    rows = [row for row in rows if row["record"] != "#1"]  # a comment to BED's readers, as docs/outputs.md says
    for interval, row in zip(parsed, rows, strict=True):
        assert (interval.chrom, interval.start, interval.end) == (row["record"], int(row["start"]) - 1, int(row["end"]))
        assert interval.name == row["region"] and interval.strand == "."
        assert int(interval.score) == round(1000 * float(row["mean_posterior"])) <= 1000


def test_sequences_by_another_reader(sample, tmp_path):
    paths, _, sequences = sample
    (tmp_path / "regions.fa").write_bytes(gzip.decompress(paths.sequences.read_bytes()))
    rows = read(paths.table)
    with pyfaidx.Fasta(str(tmp_path / "regions.fa")) as fasta:
        assert list(fasta.keys()) == [row["region"] for row in rows]
        for row in rows:
            start, end = int(row["start"]), int(row["end"])
            assert str(fasta[row["region"]]) == sequences[row["record"]][start - 1 : end].decode()
            place = f"{row['region']} {row['record']}:{start}-{end} extent={row['extent']} "
            assert fasta[row["region"]].long_name.startswith(place)


def test_equal_content_gives_equal_bytes(sample, tmp_path):
    again, _, _ = write_sample(tmp_path)
    for one, other in zip(vars(sample[0]).values(), vars(again).values(), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_fitted_model_is_said_so(tmp_path):
    paths, counts, _ = write_sample(tmp_path, model=RegionModel())  # equal parameters, but the classifier's own
    assert {row["model"] for row in read(paths.table)} == {counts.model} == {"fitted"}


def test_reads_have_none(tmp_path):
    paths, counts, _ = write_sample(tmp_path, fastq=True)
    assert read(paths.table) == [] and counts.regions == 0
    assert paths.gff.read_text() == "##gff-version 3\n" and paths.bed.read_text() == ""
    assert gzip.decompress(paths.sequences.read_bytes()) == b""


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda text: text.replace("part_start", "begin", 1), "columns aren't record, chunk_id"),
        (lambda text: text.replace("host\t", "hos\t", 1), "its chunks of host aren't those that contigs.tsv counts"),
        (lambda text: text[: text.rindex("\nhost")], "its chunks of host aren't"),
        (lambda text: text.replace("\ncircle\t", "\ncircle\n", 1), "its chunks of circle aren't"),
    ],
)
def test_chunks_of_another_run_are_refused_and_nothing_is_left(sample, tmp_path, edit, said):
    paths, _, _ = write_sample(tmp_path)
    for path in vars(paths).values():
        path.unlink()
    (tmp_path / "chunks.tsv").write_text(edit((tmp_path / "chunks.tsv").read_text()))
    with pytest.raises(StorageError, match=rf"chunks\.tsv: .*{said}"):
        write_regions(tmp_path)
    assert not any(path.exists() for path in vars(paths).values())
    (tmp_path / "chunks.tsv").unlink()
    with pytest.raises(StorageError, match="no such file"):
        write_regions(tmp_path)
