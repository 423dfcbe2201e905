"""RNA: U is read as T where there is no T, unless the original's rule is asked for; what says so."""

from __future__ import annotations

import gzip
import json
import os

import pytest
import zstandard

from tests.unit.report_fixtures import FASTAS, write_sample
from tests.unit.tables import contig_table
from tests.unit.test_command import invoke
from tests.unit.test_predict import run, small
from tests.unit.test_split import contigs, joined, names, split, write
from virnucpro import doctor
from virnucpro.calls.viral import write_viral
from virnucpro.errors import StorageError
from virnucpro.provenance import read_provenance
from virnucpro.report.page import write_sample_page
from virnucpro.sequences.split import read_manifest
from virnucpro.sequences.statistics import statistics_of
from virnucpro.settings.environment import read_switches
from virnucpro.settings.validation import resolve

DNA = [(name, text if number % 2 else text.lower()) for number, (name, text) in enumerate(contigs(6, 8))]
AS_RNA = str.maketrans("Tt", "Uu")
BOTH = "ATGGCUGCA" * 40
KEYS = "rna_records", "u_ignored_records", "rna_as_dna"


def fastq(path, records):
    path.write_text("".join(f"@{name}\n{text}\n+\n{'I' * len(text)}\n" for name, text in records))
    return path


@pytest.mark.parametrize("form", [write, fastq])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_rna_gives_the_frames_of_its_dna(tmp_path, form, compress, caplog):
    made = {}
    for name, letters in (("dna", {}), ("rna", AS_RNA)):
        path = form(tmp_path / name, [(record, text.translate(letters)) for record, text in DNA])
        path.write_bytes(compress(path.read_bytes()))
        made[name] = split([path], tmp_path / f"{name}.shards", 300, 10)
    assert names(tmp_path / "dna.shards") == names(tmp_path / "rna.shards") != []
    assert [made["dna"][key] for key in KEYS] == [0, 0, True]
    assert [made["rna"][key] for key in KEYS] == [6, 0, True]
    assert "read 6 records as RNA, U as T, since there is no T: r0, r1, r2, …" in caplog.text
    found = statistics_of([tmp_path / "rna"], 300)
    assert (found.rna_records, found.open_frames) == (6, made["dna"]["frames"])


def test_u_and_t_in_one_record_keep_the_originals_rule(tmp_path, caplog):
    records = [("a", "ATGGCA" * 60), ("b", BOTH), ("c", "AUGGCA" * 60)]
    manifest = split([write(tmp_path / "x.fa", records)], tmp_path / "shards", 300, 100)
    assert [manifest[key] for key in KEYS] == [1, 1, True]
    assert "left out the codons with U in 1 record with both U and T, as the original does: b" in caplog.text
    proteins = dict(zip(*[iter(joined(tmp_path / "shards", ".faa").decode().split("\n")[:-1])] * 2, strict=True))
    assert proteins[">b_chunk_1F1"] == "MA" * 33 + "M" and proteins[">c_chunk_1F1"] == "MA" * 50
    dna = joined(tmp_path / "shards", ".fna").decode()
    assert ">c_chunk_1F1\nATGGCA" in dna and ">b_chunk_1F1\nATGGCUGCA" in dna


def test_the_originals_rule_for_all(tmp_path, caplog):
    path = write(tmp_path / "x.fa", [("b", BOTH), ("c", "AUGGCA" * 60)])
    manifest = split([path], tmp_path / "shards", 300, 100, rna_as_dna=False)
    assert [manifest[key] for key in KEYS] == [0, 2, False]
    assert "left out the codons with U in 2 records with U, as the original does: b, c" in caplog.text
    proteins = joined(tmp_path / "shards", ".faa").decode().split("\n")
    assert proteins[proteins.index(">c_chunk_1F1") + 1] == "A" * 50


def test_validate_says_so(tmp_path):
    rna = [(f"r{number}", "AUGGCA" * 60) for number in range(1_200)]
    path = write(tmp_path / "x.fa", [*rna, ("both", BOTH)])
    said = invoke("validate", str(path)).output
    assert "  note: read 1,200 records as RNA, U as T, since there is no T: r0, r1, r2, …\n" in said
    assert "  note: left out the codons with U in 1 record with both U and T, as the original does: both\n" in said
    answer = json.loads(invoke("validate", "--json", str(path)).output)["x"]
    assert (answer["rna_records"], answer["u_ignored_records"], len(answer["notes"])) == (1200, 1, 2)


def test_validate_and_doctor_follow_the_switch(tmp_path, monkeypatch):
    path = write(tmp_path / "x.fa", [("a", "AUGGCA" * 60)])
    case = doctor.Case(resolve({}), {"x": [path]})
    (finding,) = doctor.sequences(case)
    assert finding.state == doctor.NOTE and "read 1 record as RNA" in finding.remedy
    monkeypatch.setenv("VIRNUCPRO_V1_ATTENTION", "1")
    assert "note: left out the codons with U in 1 record with U, as" in invoke("validate", str(path)).output
    asked = resolve({}, read_switches(os.environ))
    (finding,) = doctor.sequences(doctor.Case(asked, {"x": [path]}))
    assert "left out the codons with U in 1 record with U" in finding.remedy


def test_a_manifest_that_does_not_say_how_u_was_read_is_refused(tmp_path):
    split([write(tmp_path / "x.fa", DNA)], tmp_path / "shards", 300, 10)
    path = tmp_path / "shards" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in manifest.items() if key not in KEYS}))
    with pytest.raises(StorageError, match=r"manifest\.json: lacks rna_as_dna"):
        read_manifest(tmp_path / "shards")


def test_a_summary_counts_rna_and_refuses_what_was_read_otherwise(tmp_path):
    _, summary = run(**small(tmp_path))
    assert (summary["rna_records"], summary["u_ignored_records"]) == (0, 0), "an earlier version's shards"
    read = {"rna_records": 2, "u_ignored_records": 1, "rna_as_dna": True}
    _, summary = run(**small(tmp_path, manifest=read))
    assert (summary["rna_records"], summary["u_ignored_records"]) == (2, 1)
    with pytest.raises(StorageError, match="shards: the U of RNA was read as T, other than in this run"):
        run(**small(tmp_path, manifest=read), rna_as_dna=False)
    with pytest.raises(StorageError, match="shards: the U of RNA was read as the original does, other than in this"):
        run(**small(tmp_path, manifest=read | {"rna_as_dna": False}))


def test_the_report_says_so(tmp_path):
    folder = write_sample(tmp_path, 20)
    summary, provenance = json.loads((folder / "summary.json").read_text()), read_provenance(folder / "embeddings.h5")
    for counts, said in (
        ({}, []),
        ({"rna_records": 1200}, ["1,200 are RNA, with U and no T: their U was read as T."]),
        ({"u_ignored_records": 3, "rna_records": 1}, ["1 are RNA", "3 have U that was not read as T"]),
    ):
        (folder / "summary.json").write_text(json.dumps(summary | counts))
        write_sample_page(folder, "s", FASTAS, tmp_path / "page.html", provenance, None)
        page = (tmp_path / "page.html").read_text()
        assert page.count("Of the input's records, ") == len(said) and all(words in page for words in said)


def test_the_viral_records_keep_their_letters(tmp_path):
    path = write(tmp_path / "x.fa", [("a", "AUGGCAuu" * 9)])
    (tmp_path / "c.tsv").write_text(contig_table([{"record": "a", "length": 72, "chunks": 1, "call": "viral"}]))
    assert write_viral(tmp_path / "c.tsv", [path], tmp_path / "v.gz") == 1
    assert gzip.decompress((tmp_path / "v.gz").read_bytes()) == b">a\n" + b"AUGGCAuu" * 9 + b"\n"
