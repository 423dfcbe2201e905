"""``virnucpro doctor``: what it finds, and that each mistake is a finding with a remedy."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import namedtuple
from importlib import metadata

import numpy as np
import pytest
from click.testing import CliRunner

from virnucpro import doctor, installation
from virnucpro.cli import cli
from virnucpro.doctor import NOTE, OK, PROBLEM, Case
from virnucpro.encoders.device import Device
from virnucpro.encoders.embed import Embedded
from virnucpro.encoders.spec import read_spec
from virnucpro.settings.samples import read_samples
from virnucpro.settings.validation import resolve

EXAMPLE = read_samples(None)


def case(samples=EXAMPLE, **given) -> Case:
    return Case(resolve(given), samples)


def only(findings):
    (finding,) = findings
    return finding


def test_the_bundled_example_can_be_run_and_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "MEASURE", 1.0)
    answer = CliRunner().invoke(cli, ["doctor", "--json", "--device=cpu", f"--output={tmp_path / 'out'}"], obj=[])
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    assert told["works"] and not [finding for finding in told["findings"] if finding["state"] == PROBLEM]
    said = {finding["about"]: finding["found"] for finding in told["findings"]}
    assert said["precision of mini-esm2"] == "fp32 on cpu: the best here"
    assert said["attention of mini-esm2"].startswith("sdpa: the best here, head size 32 (not triton: it needs a GPU;")
    assert "head size 32 with ALiBi" in said["attention of mini-dnabert-s"]
    assert "mini-500 takes 160 + 160 inputs, 500-base chunks" in said["fit"]
    assert "snakemake 9" in said["packages"]
    assert re.search(
        r" 193 stop-free frames and 284 partial frames; embedding takes (a minute|about \d).* on one cpu device .* measured",
        said["time"],
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("rate", "took"), [(20, "a minute or less"), (1, "about 16 min"), (0.04, "about 6.6 h")])
def test_how_long_it_takes(monkeypatch, rate, took):
    monkeypatch.setattr(doctor, "_frames_per_second", lambda *_: rate)  # 477 frames through each of two encoders
    assert (
        f"193 stop-free frames and 284 partial frames; embedding takes {took} on one cpu device"
        in only(doctor.duration(case(device="cpu"))).found
    )


def test_problems_end_with_status_1(tmp_path):
    answer = CliRunner().invoke(cli, ["doctor", "--classifier=mini-300", "--chunk-length=500", "--no-measure"], obj=[])
    assert answer.exit_code == 1
    assert "PROBLEM Classifier: " in answer.output and "trained on chunks of 300 bases" in answer.output
    assert "1 problem: the run can't work." in answer.output


def test_one_mistake_is_one_finding():
    findings = list(doctor.examine(case(esm_model="absent.pt")))
    assert ["absent.pt" in finding.found for finding in findings].count(True) == 1


def test_models_that_will_be_fetched_are_noted(tmp_path):
    one = case(preset="virnucpro-500", models_dir=str(tmp_path))
    assert [finding.state for finding in doctor.checkpoints(one)] == [NOTE] * 3
    assert all("virnucpro models fetch" in finding.remedy for finding in doctor.checkpoints(one))
    assert "checked first thing" in only(doctor.fit(one)).found
    said = {finding.about: finding.found for finding in doctor.arithmetic(one)}
    assert "head size 64 with ALiBi" in said["attention of DNABERT-S"] and "head size 64" in said["attention of 3B"]
    assert [shape.width for _, shape in one.shapes.values()] == [768, 2560]


def test_models_that_are_not_here_are_timed_with_random_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "MEASURE", 1.0)
    one = case(esm_model="35M", dnabert_model="DNABERT-S", models_dir=str(tmp_path), device="cpu")
    said = only(doctor.duration(one)).found
    assert "DNABERT-S" in said and "35M" in said and "measured with random weights" in said

    def took(model, ids, *_):  # a millisecond a frame and block
        layers.append(read_spec(model).config["layers"])
        return Embedded(np.empty((0, 0)), {"seconds": len(ids) * layers[-1] / 1000})

    layers = []
    monkeypatch.setattr(doctor, "compute", took)
    whole = doctor._frames_per_second(one, "protein")
    monkeypatch.setattr(doctor, "DRAWN", 3 * 12 * 480**2)
    assert whole == pytest.approx(1000 / 12) == doctor._frames_per_second(one, "protein"), (
        "the time of 3 blocks is scaled"
    )
    assert (layers[0], layers[-1]) == (12, 3)
    (tmp_path / "own.pt").touch()
    unknown = case(esm_model=str(tmp_path / "own.pt"), models_dir=str(tmp_path))
    assert "has yet to prepare" in only(doctor.duration(unknown)).found


def test_what_will_be_compiled_is_timed_in_its_precision(monkeypatch):
    def took(model, ids, sequences, settings, device):
        timed.append((settings.precision, settings.compile))
        return Embedded(np.empty((0, 0)), {"seconds": len(ids)})

    timed = []
    monkeypatch.setattr(Device, "has_bf16_products", True)
    monkeypatch.setattr(doctor, "compute", took)
    for compile, precision in ((False, "bf16"), (True, "fp32")):
        one = case(device="cpu", compile=compile)
        assert f"{precision} on cpu" in next(doctor.arithmetic(one)).found
        doctor._frames_per_second(one, "protein")
        assert timed.pop() == (precision, False)


def test_a_classifier_for_other_encoders_is_told_before_anything_is_fetched(tmp_path):
    for given in ({"preset": "virnucpro-500", "esm_model": "650M"}, {"esm_model": "facebook/esm2_t6_8M_UR50D"}):
        finding = only(doctor.fit(case(models_dir=str(tmp_path), **given)))
        assert finding.state == PROBLEM and "inputs, but the encoders give" in finding.found


def test_an_input_that_a_run_would_refuse_is_a_problem(tmp_path):
    (tmp_path / "x.fa").write_text(">a\nACGTACGT\n>b\n")
    samples = {"x": [tmp_path / "x.fa"]}
    found = [finding for finding in doctor.examine(case(samples)) if finding.state == PROBLEM]
    assert only(found).about == "Input" and "record 'b' has no sequence" in only(found).found
    reads = only(doctor.sequences(case(samples, empty_records="skip")))
    assert reads.state == NOTE and "docs/inputs.md" in reads.remedy
    assert only(doctor.sequences(case())).state == OK


def test_a_disk_that_is_too_small(monkeypatch, tmp_path):
    disk, scratch = doctor.space(case(output_dir=str(tmp_path)))
    assert (disk.state, scratch.state) == (OK, OK) and disk.found.startswith(f"{tmp_path}: ")
    later, _ = doctor.space(case(output_dir=str(tmp_path / "far" / "out")))
    assert later.found.startswith(f"{tmp_path}, where a run makes far/out: "), "the disk that it will be on"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(1000))
    disk, scratch = doctor.space(case(output_dir=str(tmp_path)))
    assert (disk.state, scratch.state) == (PROBLEM, NOTE)
    assert "--output" in disk.remedy


def test_models_that_memory_cannot_hold(monkeypatch, tmp_path):
    assert only(doctor.memory(case(device="cpu"))).state == OK
    large = case(device="cpu", esm_model="15B", models_dir=str(tmp_path))
    for gigabytes, state, remedy in ((16, PROBLEM, "smaller ESM-2"), (62, PROBLEM, "smaller ESM-2"), (63, OK, "")):
        monkeypatch.setattr(doctor.os, "sysconf", {"SC_PAGE_SIZE": 1000, "SC_PHYS_PAGES": gigabytes * 10**6}.get)
        finding = only(doctor.memory(large))
        assert finding.found == f"{gigabytes}.0 GB, 62.4 GB will do"
        assert finding.state == state and remedy in finding.remedy
    monkeypatch.setattr(Device, "has_bf16_products", True)
    assert only(doctor.memory(large)).found.endswith(" 92.6 GB will do"), "weights in fp32 and in bf16"


def test_partitions_of_a_cluster(monkeypatch, tmp_path):
    for name in ("sbatch", "sinfo"):
        (tmp_path / name).write_text("#!/bin/sh\nseq -f 'part%g' 12\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(doctor, "package_version", lambda _: "2.8")
    finding = only(doctor.cluster(case()))
    assert finding.state == OK and finding.found.startswith("sinfo: part1, part2, ")
    assert finding.found.endswith("part10, and 2 more")
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho 'no controller\nmore of it' >&2\nexit 1\n")
    finding = only(doctor.cluster(case()))
    assert (finding.state, finding.found) == (NOTE, "sinfo: no controller") and "controller" in finding.remedy
    monkeypatch.setattr(doctor, "package_version", lambda _: None)
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho part1\n")
    assert "pip install" in only(doctor.cluster(case())).remedy


def test_long_inputs_are_read_in_part(monkeypatch, tmp_path):
    path = tmp_path / "x.fa"
    path.write_text("".join(f">r{number}\n{'ATGGCC' * 500}\n" for number in range(4000)))
    whole, part = case({"x": [path]}).work, None
    monkeypatch.setattr(doctor, "ENOUGH", 3_000_000)
    part = case({"x": [path]}).work
    assert whole.share_read == 1 and part.share_read < 0.5
    assert part.open_frames == pytest.approx(whole.open_frames, rel=0.2)


def test_a_gpu_that_pytorch_cannot_use(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(installation, "has_gpu", lambda: True)
    for device, state in (("auto", NOTE), ("cuda", PROBLEM), ("cpu", OK)):
        assert only(doctor.devices(case(device=device))).state == state
    remedy = only(doctor.devices(case())).remedy
    assert ("CPU build" if torch.version.cuda is None else "driver") in remedy


def test_compile_needs_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert only(doctor.compiler(case(device="cpu"))).state == OK
    finding = only(doctor.compiler(case(device="cpu", compile=True)))
    assert finding.state == PROBLEM and "compile is on; no " in finding.found and "g++" in finding.found


def test_packages_that_are_missing_or_old(monkeypatch):
    monkeypatch.setattr(
        metadata, "requires", lambda _: ["numpy>=99", "no-such-package>=1", "click>=8", 'x; extra == "test"']
    )
    findings = {finding.about: finding for finding in doctor.programs(case())}
    assert findings["numpy"].state == findings["no-such-package"].state == PROBLEM
    assert "but >=99 is needed" in findings["numpy"].found
    assert "click 8" in findings["packages"].found and "numpy" not in findings["packages"].found


@pytest.mark.parametrize(
    ("status", "said", "state"), [(0, "cpu*\ngpu\n", OK), (1, "Unable to contact slurm controller", NOTE)]
)
def test_slurm(monkeypatch, status, said, state):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor, "package_version", lambda _: "2.8")
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, status, said * (not status), said)
    )
    finding = only(doctor.cluster(case()))
    assert finding.state == state and said.split()[0] in finding.found
