"""Conda environments, containers, constraints and the package's own dependencies say the same."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib

import jinja2
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import virnucpro
from virnucpro import installation

ROOT = installation.root()
PACKAGE = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONDA = {"pytorch": "torch", "matplotlib-base": "matplotlib", "snakemake-minimal": "snakemake"}
NAMES = {"pytorch-cpu": "torch", "pytorch-gpu": "torch", "matplotlib-base": "matplotlib"}  # conda's → PyPI's
ONLY_FOR_THE_COMMAND = {"snakemake", "click", "psutil", "pygments"}
"""Not needed by jobs."""


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
    """Both recipes carry what the package is built from and its pins, and hand ``install.sh`` the same arguments."""
    docker = (ROOT / "containers" / "Dockerfile").read_text()
    apptainer = (ROOT / "containers" / "apptainer.def").read_text()
    defaults = dict(re.findall(r"^ARG (\w+)=(.*)$", docker, re.MULTILINE))
    section = apptainer.partition("%arguments\n")[2].partition("%files")[0]
    assert dict(re.findall(r"^    (\w+)=(.*)$", section, re.MULTILINE)) == defaults | {
        "BASE": defaults["BASE"].rpartition("/")[2]
    }
    carried = {
        "docker": set(" ".join(re.findall(r"^COPY (.*) \S+$", docker, re.MULTILINE)).split()),
        "apptainer": set(re.findall(r"^    (\S+) /opt/virnucpro/\1$", apptainer, re.MULTILINE)),
    }
    wheel = PACKAGE["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    built_from = {"pyproject.toml", PACKAGE["project"]["readme"], *PACKAGE["project"]["license-files"], "src", *wheel}
    assert carried["docker"] == carried["apptainer"] == built_from | {"containers", "constraints.txt"}
    assert all((ROOT / name).exists() for name in carried["docker"])
    arguments = ["DEVICE", "TORCH_INDEX", "FLASH_ATTN"]
    assert {"BASE", *arguments} == set(defaults)
    assert "RUN containers/install.sh " + " ".join(f'"${name}"' for name in arguments) in docker
    assert "/containers/install.sh " + " ".join(f'"{{{{ {name} }}}}"' for name in arguments) in apptainer
    for recipe in (docker, apptainer):
        assert "PATH=/opt/venv/bin:$PATH LANG=C.UTF-8" in recipe


def test_images_hold_what_the_constraints_pin():
    install = ROOT / "containers" / "install.sh"
    assert os.access(install, os.X_OK)
    text = install.read_text()
    assert "python3 -m venv /opt/venv" in text and "PIP_CONSTRAINT=$PWD/constraints.txt" in text
    assert not re.search(r"[\w-]==", text), "versions are constraints.txt's"
    assert needed().keys() <= constraints().keys()
    for name, specification in needed().items():
        assert specification.contains(constraints()[name])


@pytest.mark.parametrize("device", ["", "rocm"])
def test_an_image_for_another_device_is_refused(device, tmp_path):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))  # and no apt-get, so that this machine stays as it is
    command = [shutil.which("bash"), str(ROOT / "containers" / "install.sh"), device]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert done.returncode == 2 and f"DEVICE is '{device}', but there are cpu and gpu" in done.stderr


def test_the_conda_recipe_needs_what_the_package_does():
    text = (ROOT / "recipe" / "meta.yaml").read_text()
    names = {"PYTHON": "python", "pin_subpackage": lambda name, max_pin: f"{name} {max_pin}"}
    recipe = yaml.safe_load(jinja2.Template(text, undefined=jinja2.StrictUndefined).render(names))
    assert recipe["package"] == {"name": PACKAGE["project"]["name"], "version": virnucpro.__version__}
    pairs = (entry.split(" ", 1) for entry in recipe["requirements"]["run"])
    run = {canonicalize_name(CONDA.get(name, name)): specification for name, specification in pairs}
    assert run.pop("python") == PACKAGE["project"]["requires-python"]
    assert run == {name: str(specification) for name, specification in needed().items()}
    assert PACKAGE["build-system"]["requires"] == ["hatchling"] and "hatchling" in recipe["requirements"]["host"]
    (script,) = recipe["build"]["entry_points"]
    assert dict([script.split(" = ")]) == PACKAGE["project"]["scripts"]
    about = recipe["about"]
    assert about["license"] == PACKAGE["project"]["license"] and (ROOT / about["license_file"]).is_file()
    assert about["summary"] == PACKAGE["project"]["description"]
    for command in recipe["test"]["commands"]:
        assert command.split()[0] in PACKAGE["project"]["scripts"]


def test_actions_run_what_is_there():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "main.yml").read_text())
    jobs = workflow["jobs"].values()
    commands = "\n".join(step["run"] for job in jobs for step in job["steps"] if "run" in step)
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", commands):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert (ROOT / ".test" / "config" / "config.yaml").is_file() and "--directory .test" in commands
    matrices = [job["strategy"]["matrix"]["python"] for job in jobs if "strategy" in job]
    stated = re.findall(r":: Python :: (3\.\d+)", "\n".join(PACKAGE["project"]["classifiers"]))
    assert matrices == [stated] * len(matrices) and len(matrices) == 2
    assert f">={stated[0]}" == PACKAGE["project"]["requires-python"]


def test_only_the_demo_leaves_compiling_to_the_first_use(tmp_path):
    """An installation that others read can't be added to, and would be compiled at each start."""
    for target, left_out in (("demo", True), ("install", False)):
        words = ["make", "--dry-run", f"--file={ROOT / 'Makefile'}", target]
        for name in ("pyproject.toml", "constraints.txt"):
            (tmp_path / name).touch()
        said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        assert "pip install" in said and ("--no-compile" in said) == left_out


def test_types_are_shipped():
    assert (ROOT / "src" / "virnucpro" / "py.typed").is_file()
    assert "Typing :: Typed" in PACKAGE["project"]["classifiers"]


def test_catalogue_layout():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["software-stack-deployment"]["conda"] is True and usage["report"] is True
    for path in ("workflow/Snakefile", "config/README.md", "config/config.yaml", "README.md", "LICENSE"):
        assert (ROOT / path).is_file()
