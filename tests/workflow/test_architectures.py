"""Rules, files and the report follow the architecture of what `esm_model` names: here ESM C, as a Hugging Face folder."""

import pytest
import torch
from transformers import EsmcConfig, EsmcModel

from tests.workflow.project import Project


@pytest.mark.soak
def test_another_protein_encoder(tiny, tmp_path):
    torch.manual_seed(0)
    config = EsmcConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    EsmcModel(config).save_pretrained(tmp_path / "esm_c")
    project = Project(tmp_path, tiny, count=3)
    run = project.run(esm_model=tmp_path / "esm_c")
    shards = project.shards()
    assert run.computed == {"embed_dnabert_s": shards, "embed_esm2": 0, "embed_esmc": shards}
    results = tmp_path / "results"
    assert {path.name for path in (results / "embeddings").iterdir()} == {"dnabert_s", "esmc"}
    assert {path.name for path in (results / "models").iterdir()} == {"classifier", "dnabert_s", "esmc"}
    page = (results / "s" / "report.html").read_text()
    assert "esm_c (ESM C architecture, 1 layers" in page and "DNABERT-S architecture [2]" in page
    assert "embed_esmc" in page and "embed_esm2" not in page and "Evolutionary-scale prediction" not in page
    assert project.run(esm_model=tmp_path / "esm_c").nothing_to_do
    again = project.run(extra=("all_esm2",)).computed
    assert again == {"embed_dnabert_s": 0, "embed_esm2": shards}, "back to an ESM-2"
