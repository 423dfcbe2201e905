"""Controls: which contigs are shuffled, what their calls say, and the user's own ones."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.report_fixtures import CALIBRATION, change, page_of, words_of, write_sample
from tests.unit.tables import contig_table, read
from tests.unit.test_outputs_documented import documented
from virnucpro.calls import controls
from virnucpro.calls.controls import write_controls
from virnucpro.calls.rules import Rules
from virnucpro.classifier.control_evaluation import evaluate_controls
from virnucpro.classifier.evidence import PRESETS, Preset
from virnucpro.classifier.metrics import wilson
from virnucpro.errors import InputError, StorageError
from virnucpro.result_tables import CONTROL_COLUMNS, GIVEN, write_table
from virnucpro.sequences.controls import CODON, DINUCLEOTIDE, make_controls
from virnucpro.sequences.read import read_fasta

CHUNK = 30
THRESHOLDS = {"strict": Preset(3.0, -1.0, {}), "balanced": Preset(2.0, -1.0, {}), "sensitive": Preset(1.0, -1.0, {})}
CALIBRATED = Rules(CHUNK, calibration=replace(CALIBRATION, presets=THRESHOLDS))


def bases(seed: int, length: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


@pytest.fixture
def write(tmp_path):
    def write(name: str, records: dict[str, str]):
        path = tmp_path / name
        path.write_text("".join(f">{record} of a sample\n{sequence}\n" for record, sequence in records.items()))
        return path

    return write


def made(fastas, output, count, **given):
    number = make_controls("s", fastas, output, count, CHUNK, **given)
    found = {record.id: record.sequence.decode() for record in read_fasta(output)} if number else {}
    assert len(found) == 2 * number
    return found


def test_each_chosen_contig_is_shuffled_both_ways(write, tmp_path):
    records = {f"r{number}|x": bases(number, 100) for number in range(6)}
    found = made([write("s.fa", records)], tmp_path / "c.fa", 4)
    chosen = {name.partition("|")[2] for name in found}
    assert len(chosen) == 4
    for record in chosen:
        for kind in (CODON, DINUCLEOTIDE):
            shuffled = found[f"{kind}|{record}"]
            assert sorted(shuffled) == sorted(records[record]) and shuffled != records[record]


def test_equal_input_gives_equal_controls_in_any_order(write, tmp_path):
    records = {f"r{number}": bases(number, 100) for number in range(30)}
    first = made([write("a.fa", records)], tmp_path / "1.fa", 5)
    two = [write("b.fa", dict(list(records.items())[20:])), write("c.fa", dict(list(records.items())[:20]))]
    assert made(two, tmp_path / "2.fa", 5) == first
    assert made([write("d.fa", {k: v.lower() for k, v in records.items()})], tmp_path / "3.fa", 5) == first
    more = made([write("e.fa", records)], tmp_path / "4.fa", 6)
    assert first.items() < more.items()
    other = made([write("f.fa", records | {"r0": bases(99, 100)})], tmp_path / "5.fa", 30)
    assert other["codon|r0"] != made([write("g.fa", records)], tmp_path / "6.fa", 30)["codon|r0"]


def test_a_sample_without_a_sequence_has_a_file_that_split_reads(write, tmp_path):
    output = tmp_path / "c.fa"
    assert make_controls("s", [write("s.fa", {"r1": "", "r2": ""})], output, 4, CHUNK) == 0
    assert [record.sequence for record in read_fasta(output, keep_empty=True)] == [b""]


def test_a_sample_that_cannot_be_read_is_left_to_split(write, tmp_path, caplog):
    bad, output = tmp_path / "bad.fa", tmp_path / "c.fa"
    bad.write_text(">r1\nACGT\n@r2\nno FASTA\n>\nACGT\n")
    with caplog.at_level(logging.WARNING):
        assert make_controls("s", [bad], output, 4, CHUNK) == 0
    assert "sample s has no controls" in caplog.text and output.read_text() == ">no_contig_of_the_sample\n"
    with pytest.raises(InputError):
        make_controls("s", [write("s.fa", {"r1": bases(1, 100)})], output, 4, CHUNK, control_fasta=bad)


def test_contigs_of_two_chunks_are_preferred_if_there_are_enough(write, tmp_path):
    short = {f"s{number}": bases(number, CHUNK) for number in range(20)}
    long = {f"l{number}": bases(50 + number, CHUNK + 1) for number in range(3)}
    fasta = write("s.fa", short | long)
    assert {name.partition("|")[2] for name in made([fasta], tmp_path / "c.fa", 3)} == set(long)
    assert not {name.partition("|")[2] for name in made([fasta], tmp_path / "c.fa", 4)} <= set(long)


def test_a_small_sample_has_as_many_as_there_are(write, tmp_path, caplog):
    fasta = write("s.fa", {"a": "ACGTTGCA", "n": "NNNN", "one": "A"})
    with caplog.at_level(logging.WARNING):
        found = made([fasta], tmp_path / "c.fa", 100)
    assert "sample s has 3 contigs: as many controls of each kind, not 100" in caplog.text
    assert found["codon|n"] == "NNNN" and found["dinucleotide|one"] == "A"


def test_empty_records_are_no_controls(write, tmp_path):
    assert len(made([write("s.fa", {"a": "ACGT", "none": ""})], tmp_path / "c.fa", 2)) == 2


def test_shared_ids_are_refused_by_name(write, tmp_path):
    fasta = write("s.fa", {f"r{number}": bases(number, 40) for number in range(6)})
    own = write("own.fa", {f"r{number}": bases(number, 40) for number in (1, 2, 3, 5, 9)})
    with pytest.raises(
        InputError, match=r"control_fasta: .*own.fa and sample s share the ids 'r1', 'r2', 'r3' and 1 more"
    ):
        make_controls("s", [fasta], tmp_path / "c.fa", 0, CHUNK, own)
    assert not (tmp_path / "c.fa").exists()
    one = write("one.fa", {"r5": "ACGT"})
    with pytest.raises(InputError, match=r"share the ids 'r5'\. Controls are sequences from elsewhere"):
        make_controls("s", [fasta], tmp_path / "c.fa", 2, CHUNK, one)
    assert make_controls("s", [fasta], tmp_path / "c.fa", 0, CHUNK, write("x.fa", {"x": "ACGT"})) == 0
    assert (tmp_path / "c.fa").read_bytes() == b""


@pytest.mark.parametrize(("found", "of"), [(0, 10), (10, 10), (3, 10), (1, 1), (50, 1000)])
def test_intervals_are_wilsons(found, of):
    low, high = wilson(found, of)
    for bound in (low, high):  # where the share lies 1.96 standard errors of the bound away
        if 0 < bound < 1:
            assert abs(found / of - bound) / math.sqrt(bound * (1 - bound) / of) == pytest.approx(1.959964, rel=1e-5)
    assert (low == 0) == (found == 0) and (high == 1) == (found == of)
    assert low <= found / of <= high


def rows(kind, logits, **given):
    return [
        {
            "record": f"{kind}|r{number}",
            "length": 100 * (number + 1),
            "mean_score": 0.6,
            "scored_chunks": 3,
            "logit": logit,
        }
        | {"call": "viral", "low_complexity": 0.0, "n_share": 0.0}
        | given
        for number, logit in enumerate(logits)
    ]


def table_of(folder, monkeypatch, rules, shuffled=None, given=None):
    """Write the table for ``rules``, which the classifier's file would have the calibration of; returns its rows."""

    class Spec:
        def read_calibration(self, where):
            return rules.calibration

    monkeypatch.setattr(controls, "read_classifier_spec", lambda path: Spec())
    paths = []
    for name, table in (("shuffled.tsv", shuffled), ("given.tsv", given)):
        paths.append(folder / name if table else None)
        if table:
            (folder / name).write_text(contig_table(table))
    path = write_controls(folder, folder / "classifier", replace(rules, calibration=None), *paths)
    assert path is None or path == folder / "controls.tsv"
    return read(path) if path else None


def test_controls_are_called_by_each_preset(tmp_path, monkeypatch):
    shuffled = [*rows(CODON, [4.0, 2.5, 1.5, 0.0, -2.0]), *rows(DINUCLEOTIDE, [5.0], low_complexity=0.7)]
    shuffled += rows(DINUCLEOTIDE, [""], call="unscored", mean_score="")
    found = table_of(tmp_path, monkeypatch, CALIBRATED, shuffled, rows("host", [2.5, -3.0]))
    assert [(row["kind"], row["preset"], row["called_viral"], row["ambiguous"], row["non_viral"]) for row in found] == [
        (CODON, "strict", "1", "3", "1"),
        (CODON, "balanced", "2", "2", "1"),
        (CODON, "sensitive", "3", "1", "1"),
        *((DINUCLEOTIDE, preset, "0", "1", "0") for preset in PRESETS),
        (GIVEN, "strict", "0", "1", "1"),
        (GIVEN, "balanced", "1", "0", "1"),
        (GIVEN, "sensitive", "1", "0", "1"),
    ]
    first = found[0]
    assert (first["controls"], first["unscored"], first["share"]) == ("5", "0", "0.2")
    assert [float(first[name]) for name in ("low", "high")] == pytest.approx(wilson(1, 5), abs=1e-6)
    assert (first["shortest"], first["median_length"], first["longest"]) == ("100", "300", "500")
    assert (found[3]["controls"], found[3]["unscored"], found[3]["share"]) == ("2", "1", "0.0"), "a share of the scored"


def test_controls_without_a_sequence_have_a_table_without_rows(tmp_path, monkeypatch):
    assert table_of(tmp_path, monkeypatch, CALIBRATED, shuffled=[]) is None
    (tmp_path / "none.tsv").write_text(contig_table([]))
    path = write_controls(tmp_path, tmp_path / "classifier", Rules(CHUNK), tmp_path / "none.tsv", None)
    assert path == tmp_path / "controls.tsv" and read(path) == []


def test_a_threshold_makes_one_row_a_kind(tmp_path, monkeypatch):
    table = [*rows(CODON, [9.0, 9.0]), *rows(CODON, [9.0], mean_score=0.4)]
    for rules in (replace(CALIBRATED, threshold=0.5), Rules(CHUNK)):
        (row,) = table_of(tmp_path, monkeypatch, rules, table)
        assert (row["preset"], row["controls"], row["called_viral"], row["ambiguous"]) == ("", "3", "2", "0")


def test_nothing_scored_has_no_share(tmp_path, monkeypatch):
    (row,) = table_of(tmp_path, monkeypatch, Rules(CHUNK), rows(CODON, [""], call="unscored", mean_score=""))
    assert [row[name] for name in ("unscored", "share", "low", "high")] == ["1", "", "", ""]


def test_the_table_of_an_earlier_run_goes_and_a_file_of_the_users_stays(tmp_path, monkeypatch):
    table_of(tmp_path, monkeypatch, Rules(CHUNK), rows(CODON, [1.0]))
    assert table_of(tmp_path, monkeypatch, Rules(CHUNK)) is None
    assert not (tmp_path / "controls.tsv").exists()
    (tmp_path / "controls.tsv").write_text("mine\n")
    assert table_of(tmp_path, monkeypatch, Rules(CHUNK)) is None
    assert (tmp_path / "controls.tsv").read_text() == "mine\n"


def test_other_tables_are_refused(tmp_path, monkeypatch):
    with pytest.raises(StorageError, match="k141_1 isn't a control"):
        table_of(tmp_path, monkeypatch, Rules(CHUNK), [rows(CODON, [1.0])[0] | {"record": "k141_1"}])


def with_controls(folder, monkeypatch, shuffled=None, given=None, asked=0, rules=CALIBRATED):
    table_of(folder, monkeypatch, rules, shuffled, given)
    return change(folder, configuration={"controls": asked})


def test_the_page_says_what_controls_bound(tmp_path, monkeypatch):
    folder = write_sample(tmp_path, 20, calibrated=True)
    assert 'href="#controls"' not in page_of(folder)
    long = [row | {"length": 600 + row["length"]} for row in rows(CODON, [4.0, 0.0, 0.0, 0.0])]
    with_controls(folder, monkeypatch, long, rows("host", [-3.0, -3.0]), asked=4)
    words = words_of(folder, controls=True)
    for said in (
        "4 contigs, chosen at random among those of 2 chunks and more, were shuffled in two ways",
        "700 to 1,000 bases, half of them up to 800.",
        "their share bounds how many contigs are called viral for their composition alone",
        "It says nothing of sequences with genes that aren't viral",
        "Your own controls (2 sequences, 100 to 200 bases, half of them up to 100) were taken as not viral",
        "called as the sample is; the same is in controls.tsv. The sample is called by the preset balanced",
        "codons shuffledbalanced4125.0 %4.6 to 69.9 %300",
        "your own controlsstrict200.0 %0.0 to 65.8 %020",
        "The interval (Wilson, 95 %) is that of chance among these controls",
    ):
        assert said in words, said
    assert "before fdr" not in words
    assert re.search(r'href="#controls">Controls</a>', page_of(folder, controls=True))
    change(folder, calls={"fdr": 0.1})
    assert "They are shares before fdr" in words_of(folder, controls=True)


def test_the_page_says_which_contigs_were_chosen(tmp_path, monkeypatch):
    folder = write_sample(tmp_path, 20)
    with_controls(folder, monkeypatch, rows(CODON, [1.0, 1.0]), asked=10, rules=Rules(CHUNK))
    words = words_of(folder, controls=True)
    assert "All 2 contigs of this sample (10 were asked for) were shuffled" in words
    assert "codons shuffledthreshold 0.522100.0 %34.2 to 100.0 %000" in words
    with_controls(folder, monkeypatch, rows(CODON, [1.0, 1.0]), asked=2, rules=Rules(CHUNK))
    assert "2 contigs, chosen at random among all since fewer than 2 have 2 chunks," in words_of(folder, controls=True)
    unscored = rows(CODON, [""], call="unscored", mean_score="")
    with_controls(folder, monkeypatch, given=unscored, rules=Rules(CHUNK))
    words = words_of(folder, controls=True)
    assert "your own controlsthreshold 0.510––001" in words and "shuffled in two ways" not in words


def test_columns_are_documented():
    assert documented("controls.tsv") == list(CONTROL_COLUMNS)


def test_an_evaluation_adds_up_the_samples(tmp_path):
    row = dict.fromkeys(CONTROL_COLUMNS, 0) | {"preset": "strict", "controls": 10, "unscored": 2}
    for name, viral in (("a", 1), ("b", 3)):
        (tmp_path / name).mkdir()
        rows = [row | {"kind": CODON, "called_viral": viral}, row | {"kind": GIVEN, "called_viral": 4}]
        write_table(tmp_path / name / "controls.tsv", CONTROL_COLUMNS, rows)
    codon, given = evaluate_controls([tmp_path / "a", tmp_path / "b", tmp_path / "none"])
    assert (codon["kind"], codon["controls"], codon["called_viral"], codon["share"]) == (CODON, 20, 4, 0.25)
    assert (codon["low"], codon["high"]) == wilson(4, 16)
    assert (given["controls"], given["share"]) == (10, 0.5), "the same ones for both samples"
    assert evaluate_controls([tmp_path / "none"]) == []
