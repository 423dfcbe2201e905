"""What a sample's page says of its calls, in each case: how they were made, how sure they are, what to look at next."""

from __future__ import annotations

import html
import json
import re

import pytest

from tests.unit.report_fixtures import CALIBRATION, change, page_of, paragraph_in, words_of, write_sample
from virnucpro.calls.rules import Rules
from virnucpro.report import tables


def test_calls_by_threshold_of_a_classifier_that_is_not_calibrated(tmp_path):
    folder = write_sample(tmp_path, 20)
    words = words_of(folder)
    for said in (
        "A contig is called viral if the mean score of its scored chunks is at least 0.5.",
        "The classifier mini-500 isn't calibrated: its scores are no probabilities",
        "virnucpro classifier calibrate adds a calibration to its file",
        "Chunks by score; the dashed line is the threshold.",
        "No contig is ambiguous.",
        "2 without a stop-free frame; partial_frames: true scores",
        "26 of 80 chunks (32.5 %) have none. 26 have no score, since",
    ):
        assert said in words, said
    for unsaid in ("prior", "preset balanced", "Calibration of the classifier", "estimated", "without a stop, in any"):
        assert unsaid not in words, unsaid
    change(folder, configuration={"fdr": 0.1})
    assert "So fdr has no effect." in words_of(folder)


def test_calls_by_a_threshold_in_spite_of_calibration(tmp_path):
    folder = change(write_sample(tmp_path, 20, calibrated=True), threshold=0.7, calls={"by": "threshold"})
    words = words_of(folder)
    assert "at least 0.7. Probabilities and q-values play no part in calls, since a threshold was given." in words
    assert "assume that 20 % of all contigs are viral" in words and "isn't calibrated" not in words
    assert "Chunks by score; the dashed line is the threshold." in words


def test_calls_by_a_preset(tmp_path):
    folder = write_sample(tmp_path, 40, calibrated=True)
    summary = json.loads((folder / "summary.json").read_text())
    words = words_of(folder)
    for said in (
        f"{summary['viral_records']} of 40 contigs are called viral, {summary['ambiguous_records']} ambiguous",
        "by the preset balanced: viral from a probability of 0.405 on (logit 1.00), which at most 5 % of the non-viral contigs",
        "non-viral below 0.084 (logit -1.00), where at most 1 % of its viral contigs are",
        "Probabilities assume that 20 % of all contigs are viral (prior).",
        "from the dashed line on they are called viral",
        "non-viral below the lower one (0.405 and 0.084)",
        "Fitted on 1,400 viral and 1,600 non-viral contigs of 90 and 120 groups",
        "The preset balanced on the development data",
        "36 chunks are scored by the longest stretch without a stop",
        "16 have no stretch of 60 bases without a stop either, and no score",
        "4 without a stop-free frame or a stretch of 60 bases",
        "lighter: scored by its longest stretch",
    ):
        assert said in words, said
    page = page_of(folder)
    assert page.count("<circle") == 2, "bins without contigs have no point"
    recall = re.search(r"\(recall\)</th>(.*?)</tr>", page).group(1)
    assert re.findall(r">([\d.]+ %)<", recall) == ["80.0 %", "71.0 %"]
    assert 'class="other partial"' in page and 'class="viral partial"' in page
    change(folder, calls={"fdr": 0.05, "min_length": 600, "min_chunks": 2})
    words = words_of(folder)
    assert "Contigs shorter than 600 bases or with fewer than 2 scored chunks are unscored." in words
    assert "must also have a q-value of at most 0.05 (fdr). There are none, so nothing is called viral." in words


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            {"value": 0.2, "low": 0.15, "high": 0.25},
            "An estimated 20 % of the 500 scored contigs are viral (95 % interval 15 % to 25 %",
        ),
        (
            {"value": 0.031, "low": 0.01, "high": 0.06},
            "The prior, 20 %, is above that interval: probabilities are too high",
        ),
        ({"value": 0.5, "low": 0.4, "high": 0.6}, "The prior, 20 %, is below that interval: probabilities are too low"),
        (
            {"value": 0.0, "low": 0.0, "high": 0.012},
            "is at its bound, 0 %: taken together, the 500 scored contigs speak for no viral ones (95 % interval 0 % to 1.2 %",
        ),
        (
            {"value": 1.0, "low": 0.97, "high": 1.0},
            "is at its bound, 100 %: taken together, the 500 scored contigs speak for no non",
        ),
        (
            {"value": 0.2, "low": 0.02, "high": 0.6, "reason": "an interval wider than 0.3"},
            "can't be told (an interval wider than 0.3: 500 scored, interval 2 % to 60 %), so there are no q-values.",
        ),
        (None, "No contig has a score, so nothing is known of the share that is viral, and there are no q-values."),
    ],
)
def test_prevalence_in_a_sentence(tmp_path, found, said):
    prevalence = found and {"contigs": 500, "reason": "", **found}
    folder = change(write_sample(tmp_path, 5, calibrated=True), prevalence=prevalence)
    assert said in words_of(folder)
    told = bool(found) and "reason" not in found
    assert ("was estimated by maximum likelihood" in paragraph_in(page_of(folder))) == told


def contigs_of(folder, **changes) -> None:
    """Change cells of contigs.tsv: a column's function of its row's number and cells."""
    header, *lines = (folder / "contigs.tsv").read_text().splitlines()
    rows = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
    for number, row in enumerate(rows):
        row.update({name: str(value(number, row)) for name, value in changes.items()})
    (folder / "contigs.tsv").write_text("\n".join([header, *("\t".join(row.values()) for row in rows)]) + "\n")


def test_expected_share_of_false_calls(tmp_path):
    """The highest q-value among those called viral, whatever others have."""
    folder = write_sample(tmp_path, 30, calibrated=True)
    contigs_of(folder, q_value=lambda number, row: 0.001 * number if row["call"] == "viral" else 0.9)
    viral = [n for n, row in enumerate((folder / "contigs.tsv").read_text().splitlines()[1:]) if "\tviral\t" in row]
    said = f"Of the {len(viral)} contigs called viral, an expected {0.1 * max(viral):.1f} % are false".replace(
        ".0 %", " %"
    )
    words = words_of(folder)
    assert len(viral) > 1 and said in words and "kinds of sequence that the calibration saw" in words
    contigs_of(folder, q_value=lambda *_: "")
    assert "an expected" not in words_of(folder)


def test_nothing_viral_since_fdr_is_0(tmp_path):
    folder = write_sample(tmp_path, 30, calibrated=True)
    contigs_of(
        folder,
        call=lambda _, row: "ambiguous" if row["call"] == "viral" else row["call"],
        q_value=lambda _, row: 0.01 if row["logit"] else "",
        reason=lambda _, row: "q_value" if row["call"] == "viral" else row["reason"],
    )
    summary = json.loads((folder / "summary.json").read_text())
    ambiguous = summary["ambiguous_records"] + summary["viral_records"]
    change(folder, calls={"fdr": 0}, viral_records=0, ambiguous_records=ambiguous)
    words = words_of(folder)
    assert f"0 of 30 contigs are called viral, {ambiguous} ambiguous" in words
    assert "Nothing is called viral, since fdr is 0: what would be is ambiguous." in words
    assert "viral by the preset alone; fdr is 0, so nothing is called viral." in words
    assert "an expected" not in words
    assert "since the rate of false discoveries was set to 0" in paragraph_in(page_of(folder))


@pytest.mark.parametrize("calibrated", [False, True])
def test_nothing_scored_is_a_page_without_curves(tmp_path, calibrated):
    folder = write_sample(tmp_path, 10, calibrated=calibrated)
    lines = (folder / "contigs.tsv").read_text().splitlines(keepends=True)
    (folder / "contigs.tsv").write_text(lines[0] + lines[10])
    lines = (folder / "chunks.tsv").read_text().splitlines(keepends=True)
    (folder / "chunks.tsv").write_text(lines[0] + "".join(lines[-4:]))
    none = dict.fromkeys(("viral_records", "ambiguous_records", "scored_chunks", "partial_chunks", "viral_chunks"), 0)
    change(folder, records=1, unscored_records=1, chunks=4, frames=0, virus_frames=0, prevalence=None, **none)
    page, words = page_of(folder), words_of(folder)
    assert page.count("<svg") == 1, "only the chunks by their stop-free frames"
    for said in (
        "No chunk has a score.",
        "No contig has a score.",
        "0 of 1 contig is called viral",
        "1 without a stop-free frame",
    ):
        assert said in words, said
    assert ("nothing is known of the share that is viral" in words) == calibrated


def test_unscored_by_choice(tmp_path):
    folder = change(
        write_sample(tmp_path, 12, calibrated=True), calls={"min_length": 3000, "min_chunks": 3, "shortest": 250}
    )
    contigs_of(
        folder,
        call=lambda *_: "unscored",
        reason=lambda number, _: ("few_chunks", "read")[number % 2] if number < 5 else "short",
    )
    change(folder, viral_records=0, ambiguous_records=0, unscored_records=12)
    words = words_of(folder)
    assert "0 of 12 contigs are called viral, 12 unscored, with" in words
    assert "7 shorter than 3,000 bases (min_length). 3 with fewer than 3 scored chunks (min_chunks)." in words
    assert "2 shorter than 250 bases, such as reads" in words
    assert "Sequences shorter than 3,000 bases or with fewer than 3 scored chunks were left unscored." in words


@pytest.mark.parametrize(
    ("cells", "advice"),
    [
        (
            {"reason": "between_thresholds"},
            "evidence for either side: search its proteins against viral and cellular ones.",
        ),
        (
            {"reason": "between_thresholds", "chunks": 40, "scored_chunks": 36, "viral_chunks": 7},
            "7 of 36 scored chunks are viral: a provirus, or another viral region? chunks.tsv says where.",
        ),
        (
            {"reason": "between_thresholds,few_chunks", "chunks": 1, "scored_chunks": 1},
            "one scored chunk: look for longer assemblies, or look at its genes.",
        ),
        (
            {"reason": "few_chunks", "chunks": 9, "scored_chunks": 2},
            "only two of 9 chunks have a score: look at its genes.",
        ),
        (
            {"reason": "low_complexity", "low_complexity": 0.72},
            "72 % of its words repeat: a tandem repeat or satellite?",
        ),
        ({"reason": "many_n", "n_share": 0.15}, "15 % of its letters aren't A, C, G or T: gaps of a scaffold?"),
        ({"reason": "q_value", "q_value": 0.2134}, "its q-value, 0.213, is above fdr (0.1): look at its genes."),
        (
            {"reason": "between_thresholds,unusual", "distance": 1.3456},
            "unlike what the classifier was trained on (distance 1.3; of sequences like those it is up to 1): look at its genes.",
        ),
        ({"reason": "no_q_value"}, "without the q-value that fdr asks for: it needs more contigs, or no fdr."),
        ({"reason": "between_thresholds", "gc": 0.19}, "GC is only 19 %, as in many organelles"),
        (
            {"reason": "low_complexity", "gc": 0.71},
            "; GC is 71 %: compare it with bacteria so rich in GC, and their phages.",
        ),
    ],
)
def test_what_to_look_at_next(tmp_path, cells, advice):
    folder = change(
        write_sample(tmp_path, 1, calibrated=True), ambiguous_records=1, viral_records=0, calls={"fdr": 0.1}
    )
    cells = {"call": "ambiguous", "low_complexity": 0.01, **cells}
    contigs_of(folder, **{name: lambda *_, value=value: value for name, value in cells.items()})
    assert advice in words_of(folder)


def test_viral_contigs_by_category_and_those_unlike_the_training_data(tmp_path):
    folder = change(write_sample(tmp_path, 30, calibrated=True), viral_records=11)
    contigs_of(
        folder,
        call=lambda number, row: row["call"] if number % 10 == 9 else "viral" if number < 12 else "non-viral",
        category=lambda number, _: "bacterium" if number >= 12 else "phage" if number % 4 else "plant virus",
        category_probability=lambda *_: 0.75,
        distance=lambda number, _: 1.5 if number in (3, 4, 20) else 1.0,
    )
    words = words_of(folder)
    assert "Of the contigs called viral, by the likeliest category: 8 phage, 3 plant virus." in words
    assert "Of the 11 contigs called viral, 2 are unlike what the classifier was trained on" in words
    contigs_of(folder, category=lambda *_: "", distance=lambda *_: "", category_probability=lambda *_: "")
    words = words_of(folder)
    assert "likeliest category" not in words and "unlike what" not in words


def test_every_reason_of_a_call_has_its_words(tmp_path):
    """Reasons as the rules give them, none of them seen as such by a reader."""
    rules = Rules(calibration=CALIBRATION)
    _, reasons = rules.contig_call(0.5, 0.0, 1, 0.9, 0.5, 1.2)
    assert reasons.count(",") == 4
    folder = change(write_sample(tmp_path, 1, calibrated=True), ambiguous_records=1, viral_records=0)
    contigs_of(folder, call=lambda *_: "ambiguous", reason=lambda *_: reasons, distance=lambda *_: 1.2)
    words = words_of(folder)
    assert not any(reason in words for reason in reasons.split(","))


def test_the_most_probable_ambiguous_contigs_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_AMBIGUOUS", 2)
    folder = write_sample(tmp_path, 60, calibrated=True)
    facts = tables.read_contigs(folder / "contigs.tsv", by_score=False)
    logits = [float(row["logit"]) for row in facts.listed if row["call"] == "ambiguous"]
    assert [float(row["logit"]) for row in facts.ambiguous] == logits[:2]
    count = json.loads((folder / "summary.json").read_text())["ambiguous_records"]
    assert f"The 2 most probable of {count} ambiguous contigs" in words_of(folder)


def test_methods_say_how_sequences_were_called(tmp_path):
    folder = write_sample(tmp_path, 20, calibrated=True)
    paragraph = html.unescape(paragraph_in(page_of(folder)))
    summary = json.loads((folder / "summary.json").read_text())
    for fact in (
        "in 18 chunks without any the longest stretch of at least 60 bases without a stop codon",
        "8 chunks had no score",
        "calibrated on labelled sequences (1,400 viral and 1,600 non-viral contigs of 90 and 120 groups",
        "viral from a logit of 1.000 on, non-viral below -1.000, and ambiguous between (preset balanced: at most 5 %",
        f"{summary['viral_records']} viral, {summary['ambiguous_records']} ambiguous, 2 without a score.",
    ):
        assert fact in paragraph, fact
    change(folder, calls={"fdr": 0.1})
    assert "or if its q-value was not at most 0.1" in paragraph_in(page_of(folder))


def test_no_number_of_contigs_helps_where_fdr_is_0(tmp_path):
    folder = change(write_sample(tmp_path, 1, calibrated=True), ambiguous_records=1, viral_records=0, calls={"fdr": 0})
    contigs_of(folder, call=lambda *_: "ambiguous", low_complexity=lambda *_: 0.01, reason=lambda *_: "no_q_value")
    words = words_of(folder)
    assert "viral by the preset alone; fdr is 0, so nothing is called viral." in words
    assert "it needs more contigs" not in words
