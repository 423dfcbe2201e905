"""Conda environments, containers, constraints and the package's own dependencies say the same."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from virnucpro import installation

ROOT = installation.root()
PACKAGE = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMES = {"pytorch-cpu": "torch", "pytorch-gpu": "torch", "matplotlib-base": "matplotlib"}  # conda's → PyPI's
ONLY_FOR_THE_COMMAND = {"snakemake", "click", "psutil", "pygments"}
"""Not needed by jobs; containers add them."""


def needed() -> dict[str, SpecifierSet]:
    requirements = map(Requirement, PACKAGE["project"]["dependencies"])
    return {canonicalize_name(each.name): each.specifier for each in requirements}


def environment(device: str) -> dict[str, str]:
    """Package → conda's version specification, by PyPI's names."""
    content = yaml.safe_load((ROOT / "envs" / f"{device}.yaml").read_text())
    assert content["channels"] == ["conda-forge", "nodefaults"]
    assert all(isinstance(entry, str) for entry in content["dependencies"]), "pip packages: into <env>.post-deploy.sh"
    pairs = (entry.split(" ", 1) for entry in content["dependencies"])
    return {canonicalize_name(NAMES.get(name, name)): version for name, version in pairs}


def admits(specification: str, version: Version) -> bool:
    """Whether conda's ``=3.12`` or ``>=2.10`` admits a version."""
    if re.fullmatch(r"=[\d.]+", specification):
        specification = f"={specification}.*"
    return SpecifierSet(specification).contains(version)


def constraints() -> dict[str, Version]:
    pairs = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    return {canonicalize_name(name): Version(version) for name, version in pairs}


@pytest.mark.parametrize(("device", "more"), [("cpu", {"python"}), ("gpu", {"python", "flash-attn", "gcc"})])
def test_an_environment_holds_what_jobs_import(device, more):
    assert set(needed()) > ONLY_FOR_THE_COMMAND
    assert set(environment(device)) == set(needed()) - ONLY_FOR_THE_COMMAND | more
    assert admits(environment(device)["python"], Version("3.12.1"))
    assert Version("3.12") in SpecifierSet(PACKAGE["project"]["requires-python"])


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_pins_agree_with_the_constraints(device):
    pinned = constraints()
    for name, specification in environment(device).items():
        if name in ("python", "flash-attn", "gcc") or (device, name) == ("gpu", "torch"):
            continue
        assert admits(specification, pinned[name]), f"{name} {specification}, constraints.txt has {pinned[name]}"
        assert specification == str(needed()[name]), f"{name}: pyproject.toml has another lower bound"


def test_the_gpu_environment_pins_the_pytorch_of_flash_attn():
    gpu = environment("gpu")
    assert (gpu["torch"], gpu["flash-attn"]) == ("=2.12", "=2.8.3"), "conda-forge's flash-attn recipe has this pair"
    assert Version("2.12.0") in needed()["torch"]


def test_every_rule_names_an_environment_that_is_there():
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    named = set(re.findall(r'"\.\./\.\./(envs/[^"]+)"', rules))
    assert named == {"envs/cpu.yaml", "envs/gpu.yaml"}
    assert all((ROOT / name).is_file() for name in named)


def test_containers_match():
    docker = (ROOT / "containers" / "Dockerfile").read_text()
    apptainer = (ROOT / "containers" / "apptainer.def").read_text()
    install = (ROOT / "containers" / "install.sh").read_text()
    (base,) = set(re.findall(r"^(?:FROM|From:) (\S+)$", docker + apptainer, re.MULTILINE))
    assert re.fullmatch(r"mambaorg/micromamba:\d+\.\d+\.\d+", base)
    carried = {
        "docker": set(re.findall(r"^COPY --chown=\S+ (.*) \S+$", docker, re.MULTILINE)),
        "apptainer": set(re.findall(r"^    (\S+) /opt/virnucpro/\1$", apptainer, re.MULTILINE)),
    }
    carried["docker"] = {name for line in carried["docker"] for name in line.split()}
    wheel = PACKAGE["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    built_from = {"pyproject.toml", PACKAGE["project"]["readme"], *PACKAGE["project"]["license-files"], "src", *wheel}
    assert carried["docker"] == carried["apptainer"] == built_from | {"containers"}
    assert 'containers/install.sh "$DEVICE"' in docker and 'containers/install.sh "{{ DEVICE }}"' in apptainer
    assert 'envs/$1.yaml"' in install
    pinned = {name: Version(version) for name, version in re.findall(r"(\S+)==(\S+)", install)}
    assert pinned == {name: constraints()[name] for name in ONLY_FOR_THE_COMMAND}


def test_catalogue_layout():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["software-stack-deployment"]["conda"] is True and usage["report"] is True
    for path in ("workflow/Snakefile", "config/README.md", "config/config.yaml", "README.md", "LICENSE"):
        assert (ROOT / path).is_file()
