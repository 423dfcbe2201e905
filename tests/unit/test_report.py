"""The pages' facts; what a browser makes of them is in tests/browser."""

from __future__ import annotations

import html
import json
import re

import h5py
import pytest

from tests.unit.report_fixtures import ARCHITECTURES, page_of, paragraph_in, write_sample
from virnucpro.errors import StorageError
from virnucpro.report import methods, tables, timing
from virnucpro.report.page import duration, write_run_page


def data_in(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page).group(1))


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_page_holds_its_facts_and_asks_nobody(tmp_path, calibrated):
    page = page_of(write_sample(tmp_path, 30, calibrated=calibrated))
    data = data_in(page)
    assert len(data["record"]) == 30 and data["reason"][-1] == "no_scored_chunk"
    order = data["logit" if calibrated else "mean_score"]
    values = [value for value in order if value is not None]
    assert values == sorted(values, reverse=True) and order[-3:] == [None] * 3
    text = html.unescape(page)
    for fact in ("/data/reads & contigs.fa", "VIRNUCPRO_DISABLE_FP16", "9.1.2", "c" * 64, "10.1093/bib/bbaf224"):
        assert fact in text
    fetched = re.findall(r"""(?:(?:src|href)=|url\(|@import )\s*["']?([^"'\s>)]+)""", page)
    assert all(target.startswith(("#", "data:", "https://doi.org/")) for target in fetched), fetched


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>", "<!--<b>", "ü'\"&"])
def test_names_cannot_leave_their_place(tmp_path, name):
    page = page_of(write_sample(tmp_path, 12, name=name))
    assert f"{name}_0" in data_in(page)["record"]
    assert page.count("<script") == 2 and "<b>" not in page


@pytest.mark.parametrize("contigs", [0, 1, 9])
def test_few_contigs(tmp_path, contigs):
    assert len(data_in(page_of(write_sample(tmp_path, contigs)))["record"]) == contigs


def test_time_per_rule_is_what_jobs_measured_of_themselves():
    jobs = [{"job_seconds": 7.5, "max_rss": 400.0}, {"job_seconds": 80.0, "max_rss": 444.4}, {}]  # {}: of an older file
    shards = [{"encoder": "dna", **(job and {"cpu_seconds": 5.25, **job})} for job in jobs]
    shards += [{"encoder": "protein"}]
    provenance = {"jobs": {"split": {"job_seconds": 0.3}, "merge": {}}, "shards": shards}
    split, embed = timing.rule_times(provenance, ARCHITECTURES)
    assert (split.rule, split.jobs, split.seconds, split.max_rss) == ("split", 1, 0.3, None)
    assert (embed.rule, embed.jobs, embed.seconds, embed.longest) == ("embed_dnabert_s", 2, 87.5, 80)
    assert (embed.max_rss, embed.cpu_seconds) == (444.4, 10.5)


def test_throughput_and_how_busy_the_gpus_were(tmp_path):
    busy = [{"gpu_name": "H9", "gpu_seconds": 27.0, "seconds": 30.0}, {"gpu_name": "H9", "seconds": 10.0}]
    busy += [{"gpu_name": "H8", "gpu_seconds": 5.0, "seconds": 10.0}, {"seconds": 50.0}]
    shards = [{"encoder": "protein", "device": "cpu", "frames": 5, "tokens": 100, **one} for one in busy]
    (speed,) = timing.throughput(shards)
    assert (speed.encoder, speed.devices, speed.frames, speed.tokens) == ("protein", "H8, H9, cpu", 20, 400)
    assert speed.seconds == 100 and speed.utilisation == pytest.approx(0.8)
    page = page_of(write_sample(tmp_path, 2))
    assert page.count("88 %") == 2
    assert "1,234 MB" in page and page.count("1 min 23 s") == 3, "of its rule, all and the longest, and of its shard"


def test_vectors_that_were_known_count_for_no_speed(tmp_path):
    folder = write_sample(tmp_path, 2)
    with h5py.File(folder / "embeddings.h5", "r+") as file:
        provenance = json.loads(file["provenance"][()])
        shards = provenance["shards"]
        shards[0]["computed"] = 40
        known = {"device": "none", "frames": 60, "computed": 0, "tokens": 0, "seconds": 0.0, "job_seconds": 0.5}
        shards.append({"shard": "ab" * 16, "encoder": "dna", "key": "k", "cpu_seconds": 0.1, "max_rss": 9.0, **known})
        del file["provenance"]
        file["provenance"] = json.dumps(provenance)
    dna, protein = timing.throughput(shards)
    assert (dna.frames, dna.devices, protein.frames) == (140, "cpu", 200)
    page = page_of(folder)
    assert "Without 120 vectors of frames that equal another one" in page and "ab" * 6 not in page
    assert timing.throughput(shards[-1:]) == []
    assert "Without" not in page_of(write_sample(tmp_path, 2, sample="t"))


def test_a_contig_longer_than_its_picture(tmp_path):
    folder = write_sample(tmp_path, 2, chunks=2000)
    chosen = tables.read_contigs(folder / "contigs.tsv", by_score=True).drawn
    chunks = tables.read_chunks(folder / "chunks.tsv", chosen, by_score=True)
    for drawn in chunks.drawn:
        assert len(drawn.bars) == tables.MAX_BARS
        assert sum(bar.chunks for bar in drawn.bars) == 2000
        assert max(bar.score or 0 for bar in drawn.bars) == float(drawn.row["best_score"])
        assert [bar.start for bar in drawn.bars] == sorted(bar.start for bar in drawn.bars)
    assert sum(chunks.stop_free_frames) == 4000 and chunks.stop_free_frames[0] == 2


def test_the_table_is_bounded_in_rows_and_bytes(tmp_path, monkeypatch):
    folder = write_sample(tmp_path, 50)
    everything = tables.read_contigs(folder / "contigs.tsv", by_score=True)
    monkeypatch.setattr(tables, "MAX_LISTED_BYTES", 1000)
    some = tables.read_contigs(folder / "contigs.tsv", by_score=True)
    assert 1 < len(some.listed) < 12 and some.listed == everything.listed[: len(some.listed)]
    assert some.scores.counts == everything.scores.counts and sum(some.scores.totals) == 45
    monkeypatch.setattr(tables, "MAX_LISTED_CONTIGS", 3)
    assert len(tables.read_contigs(folder / "contigs.tsv", by_score=True).listed) == 3
    assert "The 3 contigs with the highest mean score of 50" in page_of(folder)


def test_a_table_with_other_columns(tmp_path):
    folder = write_sample(tmp_path, 2)
    (folder / "contigs.tsv").write_text("record\tlength\n")
    with pytest.raises(StorageError, match=r"contigs\.tsv: its columns aren't record, length, chunks"):
        page_of(folder)
    (folder / "contigs.tsv").write_text("\t".join(tables.CONTIG_COLUMNS) + "\na\t5\n")
    with pytest.raises(StorageError, match=r"contigs\.tsv, line 2: has 2 columns"):
        page_of(folder)


def test_methods_say_what_ran(tmp_path):
    folder = write_sample(tmp_path, 20)
    page = html.unescape(page_of(folder))
    summary = json.loads((folder / "summary.json").read_text())
    paragraph = paragraph_in(page)
    for fact in (
        "The 20 sequences (40,000 bases)",
        "Snakemake 9.1.2",
        "PyTorch 2.12.7",
        "mini-dna (",
        "mini-protein (",
        "in fp32 with sdpa",
    ):
        assert fact in paragraph
    assert f"at least 0.5: {summary['viral_records']} sequences" in paragraph
    cited = sorted(int(number) for number in re.findall(r"\[(\d)\]", paragraph))
    assert cited == list(range(1, len(methods.references(ARCHITECTURES.values())) + 1))


def test_numerics_of_a_check_of_the_same_models_only(tmp_path):
    folder = write_sample(tmp_path, 5)
    assert "Not checked with these models" in page_of(folder)
    summary = json.loads((folder / "summary.json").read_text())
    row = {"chosen": True, "encoder": "dna", "precision": "fp16", "backend": "sdpa", "batching": "packed",
           "reference": "own", "relative_l2": 1.5e-4, "relative_l2_rest": 1e-4, "cosine": 0.9999, "score_change": 2e-5,
           "label_flips": 3, "passed": False}  # fmt: skip
    both = {key: row[key] for key in ("chosen", "encoder", "precision", "reference", "score_change", "passed")}
    check = {"passed": False, "frames": 200, "device": "H9", "rows": [row, both]}
    check |= {part: summary[part] for part in ("dna_encoder", "protein_encoder", "classifier")}
    (tmp_path / "check.json").write_text(json.dumps(check))
    page = page_of(folder)
    assert "<strong>FAILED</strong>: 200 frames on H9" in page and "1.5e-04" in page and "0.9999000" in page
    check["classifier"] = {"weights_sha256": "another"}
    (tmp_path / "check.json").write_text(json.dumps(check))
    assert "Not checked with these models" in page_of(folder)


def test_bibtex_entries_are_whole():
    for work in methods.references(ARCHITECTURES.values()):
        entry = work.bibtex()
        assert entry.count("{") == entry.count("}")
        assert re.fullmatch(r"10\.\d{4,}/\S+", work.doi) and f"doi = {{{work.doi}}}" in entry
    esm2 = next(work for work in methods.references(ARCHITECTURES.values()) if work.key == "esm2")
    assert "journal = {Science},\n  volume = {379(6637)},\n  pages = {1123--1130}" in esm2.bibtex()


def test_what_is_cited_is_what_ran(tmp_path):
    """Also where a run of the first version wrote the summary."""
    summary = json.loads((write_sample(tmp_path, 5) / "summary.json").read_text())
    for role in ARCHITECTURES:
        encoder = summary[f"{role}_encoder"]
        encoder["family"] = encoder.pop("architecture")
    assert methods.architectures(summary) == ARCHITECTURES
    assert "DNABERT-S architecture [2]" in methods.methods(summary, 1) and "ESM-2 architecture [3]" in methods.methods(
        summary, 1
    )
    assert [work.key for work in methods.references(["dnabert_s"])] == [
        "virnucpro",
        "dnabert_s",
        "snakemake",
        "pytorch",
    ]


def test_page_of_a_run(tmp_path):
    folders = {"a": write_sample(tmp_path, 10, "a"), "b": write_sample(tmp_path, 20, "b", calibrated=True)}
    write_run_page({name: folder / "summary.json" for name, folder in folders.items()}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r'<a href="(\w/report.html)">', page) == ["a/report.html", "b/report.html"]
    ambiguous = json.loads((folders["b"] / "summary.json").read_text())["ambiguous_records"]
    assert ambiguous and f'title="{ambiguous} ({5 * ambiguous:.1f} %) ambiguous"' in page


def test_small_encoders_are_a_first_look(tmp_path):
    own = write_sample(tmp_path, 3)
    assert "A first look:" in page_of(own)
    summary = json.loads((own / "summary.json").read_text())
    for role in ("dna", "protein"):
        summary[f"{role}_encoder"]["name"] = role
    (own / "summary.json").write_text(json.dumps(summary))
    assert "A first look:" not in page_of(own)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (245, "4 min 05 s"), (3599.7, "1 h 00 min"), (9e4, "25 h 00 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
