"""What is odd in a file, through the whole workflow: RNA, and names that other programs stumble over."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tables import column, read
from tests.workflow.conftest import coding, fasta
from tests.workflow.runner import ROOT, snakemake
from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.sequences.read import read_fasta

NAMES = ["NA", "nan", '"q', "'s", '""', "#1", "=cmd|x", "a,b;c", "1e3", "007", "None", "\\n", "<b>&amp;", "{}", "%s"]
NAMES += ["e\u0301\U0001f9a0", "a\ufeffb", "\ufeff", "\u200b", "\u202ex", "\U000e0001", "n" * 200_000]
SEQUENCES = {name: coding(seed, 400 + seed) for seed, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    dna = {f"r{seed}": coding(seed, 700) for seed in range(3)}
    (folder / "dna.fa").write_text(fasta(dna))
    (folder / "rna.fa").write_text(fasta(dna).replace("T", "U"))
    (folder / "names.fa").write_text(fasta({f"{name} words \x01\x85x": text for name, text in SEQUENCES.items()}))
    names = ("dna", "rna", "names")
    (folder / "samples.tsv").write_text("sample\tfasta\n" + "".join(f"{name}\t{name}.fa\n" for name in names))
    snakemake(folder, config=tiny.config() | {"samples": "samples.tsv", "threshold": 0.0}).ok()
    return folder


def tables(folder: Path, sample: str) -> list[str]:
    names = ("contigs.tsv", "chunks.tsv", "predictions.tsv", "prediction_results.txt")
    return [(folder / "results" / sample / name).read_text() for name in names]


def test_names_survive_every_file(folder):
    result = folder / "results" / "names"
    for name in ("contigs.tsv", "chunks.tsv", "predictions.tsv"):
        assert list(dict.fromkeys(column(result / name, "record"))) == NAMES
    assert [row["chunk_id"] for row in read(result / "chunks.tsv")][::2] == [f"{name}_chunk_1" for name in NAMES]
    frames = column(result / "predictions.tsv", "frame_id")
    assert column(result / "prediction_results.txt", "Sequence_ID") == frames
    chunks = dict.fromkeys(frame[:-2] for frame in frames)
    assert column(result / "prediction_results_highestscore.csv", "Modified_ID") == sorted(chunks)
    merged = MergedEmbeddings(result / "embeddings.h5")
    assert merged.read(slice(0, merged.count))[0] == frames
    with gzip.open(result / "viral.fasta.gz") as file:
        assert file.read().count(b" words \x01\xc2\x85x\n") == len(NAMES)
    assert {r.id: r.sequence.decode() for r in read_fasta(result / "viral.fasta.gz")} == SEQUENCES
    page = (result / "report.html").read_text()
    data = page.split('id="data">')[1].split("</script>")[0]
    assert sorted(json.loads(data)["record"]) == sorted(NAMES)


def test_names_survive_in_pandas_as_the_manual_reads_them(folder, monkeypatch):
    monkeypatch.chdir(folder)
    section = (ROOT / "docs" / "outputs.md").read_text().split("## Reading the tables\n")[1]
    snippet = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    results = folder / "results" / "names"
    for name in ("contigs", "chunks", "predictions"):
        found: dict[str, Any] = {}
        exec(snippet.replace("results/gut/contigs.tsv", f"results/names/{name}.tsv"), found)
        frame = found["contigs"]
        assert frame["record"].tolist() == column(results / f"{name}.tsv", "record")
        assert frame.columns.tolist() == list(read(results / f"{name}.tsv")[0])
        texts = {"record", "call", "chunk_id", "best_frame", "frame_id", "strand", "frame", "label"} | {
            "kind",
            "reason",
            "category",
        }
        assert all((frame[key].dtype.kind in "if") != (key in texts) for key in frame.columns), frame.dtypes


@pytest.mark.soak
def test_rna_is_scored_as_its_dna_and_as_the_original_does_with_its_switch(folder, tiny):
    assert tables(folder, "rna") == tables(folder, "dna")
    made = tables(folder, "rna")
    config = tiny.config() | {"samples": "samples.tsv", "threshold": 0.0}

    def counts():
        summary = json.loads((folder / "results" / "rna" / "summary.json").read_text())
        return [summary[key] for key in ("rna_records", "u_ignored_records")]

    assert counts() == [3, 0]
    logs = (folder / "results" / "logs" / "split").rglob("*.log")
    assert any("read 3 records as RNA" in log.read_text() for log in logs)
    assert "3 are RNA" in (folder / "results" / "rna" / "report.html").read_text()
    snakemake(folder, config=config, VIRNUCPRO_V1_ATTENTION="1").ok()
    assert counts() == [0, 3] and tables(folder, "rna") != made
    back = snakemake(folder, config=config).ok()
    assert counts() == [3, 0] and tables(folder, "rna") == made
    assert back.computed == {"embed_dnabert_s": 0, "embed_esm2": 0}
