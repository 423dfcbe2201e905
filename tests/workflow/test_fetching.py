"""Published models through the real command: fetched before anything else, by a local job, from a hub on this machine."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from tests.hub import Hub, serving
from tests.unit.encoder_fixtures import bpe_json, dnabert_folder, fair_esm, fair_esm_checkpoint, random_dnabert
from tests.workflow.conftest import coding, fasta
from tests.workflow.runner import PARITY, snakemake


@pytest.fixture
def hub(tmp_path):
    """Tiny models of the published names: 96 + 32 inputs for the classifier."""
    folder = tmp_path / "hub"
    for name in ("fair-esm", "classifiers", "zhihan1996"):
        (folder / name).mkdir(parents=True)
    fair_esm_checkpoint(fair_esm(2, 32, 2), folder / "fair-esm" / "esm2_t6_8M_UR50D.pt")
    dnabert_folder(random_dnabert(width=96, heads=6), folder / "zhihan1996" / "DNABERT-S", bpe_json())
    shutil.copy(PARITY / "tiny_model.pth", folder / "classifiers" / "500_model.pth")
    (tmp_path / "input.fa").write_text(fasta({"r1": coding(1, 700)}))
    (tmp_path / "samples.tsv").write_text("sample\tfasta\ns\tinput.fa\n")
    with serving(folder) as hub:
        yield hub


CONFIG = {"preset": "virnucpro-500", "esm_model": "8M", "models_dir": "models", "samples": "samples.tsv"}


def test_published_models_are_fetched_first_and_once(tmp_path, hub: Hub):
    dry = snakemake(tmp_path, "--dry-run", config=CONFIG, **hub.environment).ok()
    assert "fetch_model" in dry.text and not hub.requests, "while the workflow is parsed, nothing touches the network"
    beginning = ("--until", "split", "fetch_model")
    run = snakemake(tmp_path, *beginning, "--cores", "1", config=CONFIG, **hub.environment).ok()
    rules = re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):", run.text, re.MULTILINE)
    assert rules[:3] == 3 * ["fetch_model"] and rules[3] == "split"
    names = ("esm2_t6_8M_UR50D.pt", "DNABERT-S", "500_model.pth")
    assert {path.name for path in (tmp_path / "models").glob("[!.]*")} == {
        *names,
        *(f"{name}.sha256" for name in names),
    }
    assert len(hub.downloads(names[0])) == 1
    hub.requests.clear()
    assert snakemake(tmp_path, *beginning, config=CONFIG, **hub.environment).ok().nothing_to_do
    shutil.rmtree(tmp_path / "models")
    again = snakemake(tmp_path, *beginning, "--forcerun", "split", config=CONFIG, **hub.environment).ok()
    assert "fetched first" in run.text and "fetched first" not in again.text, "it was said, and nothing fetched"
    assert not hub.requests


@pytest.mark.ci
def test_a_whole_run_with_published_models(tmp_path, hub: Hub):
    run = snakemake(tmp_path, config=CONFIG, **hub.environment).ok()
    assert run.computed == {"embed_dnabert_s": 1, "embed_esm2": 1}
    assert snakemake(tmp_path, config=CONFIG).ok().nothing_to_do


def test_without_internet_nothing_is_computed_and_the_login_node_is_named(tmp_path, hub: Hub):
    offline = hub.environment | {"HF_HUB_OFFLINE": "1"}
    run = snakemake(tmp_path, "--cores", "1", config=CONFIG, **offline)
    assert run.status != 0 and "Traceback" not in run.text
    assert "login node" in run.text and "virnucpro models fetch" in run.text
    assert not (tmp_path / "results" / "s").exists(), "not even the input is split before"
    (tmp_path / "t.tsv").write_text("fasta\tlabel\ninput.fa\tviral\n")
    config = {key: value for key, value in CONFIG.items() if key != "samples"} | {"training_data": "t.tsv"}
    train = snakemake(tmp_path, "train", "--cores", "1", config=config, **offline)
    assert "virnucpro models fetch 8M DNABERT-S --models-dir" in train.text, "it fetches no classifier, and says none"


def test_a_large_model_without_a_gpu_is_remarked_though_the_machine_has_one(tmp_path, hub: Hub):
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-aaaa)'\n")
    program.chmod(0o755)
    variables = hub.environment | {"HF_HUB_OFFLINE": "1", "PATH": f"{program.parent}:{os.environ['PATH']}"}
    said = [
        snakemake(tmp_path, "--cores", "1", *limit, config=CONFIG | {"esm_model": "3B"}, **variables).text
        for limit in ((), ("--resources", "gpu=0"))
    ]
    assert ["Without a GPU, 3B takes days" in text for text in said] == [False, True]
