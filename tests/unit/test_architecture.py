"""The folder tree is the architecture: imports go one way, files stay small, jobs stay light."""

from __future__ import annotations

import ast
import getpass
import os
import re
import subprocess
import sys
from pathlib import Path

from virnucpro import installation

ROOT = installation.root()
PACKAGE = ROOT / "src" / "virnucpro"
LAYERS = [
    "errors",
    "locks",
    "paths",
    "files",
    "settings",
    "outputs",
    "rendering",
    "skeleton",
    "planning",
    "provenance",
    "sequences",
    "encoders",
    "gpu",
    "embeddings",
    "classifier",
    "check",
    "benchmark",
    "report",
    "models",
    "downloads",
    "doctor",
    "cli",
]
BESIDE = {"__init__", "__main__", "installation", "joblog"}


def imports(file: Path) -> set[str]:
    """First-level modules of the package that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("virnucpro.")}
    return found


def test_imports_go_one_way():
    for file in PACKAGE.rglob("*.py"):
        layer = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if layer in BESIDE:
            continue
        assert layer in LAYERS, f"{file}: give the new module its place in LAYERS"
        allowed = set(LAYERS[: LAYERS.index(layer) + 1]) | BESIDE
        assert imports(file) <= allowed, f"{file} imports {imports(file) - allowed}"


def test_nothing_below_the_workflow_knows_snakemake():
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        names = {getattr(node, "module", None) or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not any(name.partition(".")[0] in ("snakemake", "transformers", "esm") for name in names), file


def test_size():
    files = [
        path for folder in (PACKAGE, ROOT / "workflow") for path in folder.rglob("*") if path.suffix in (".py", ".smk")
    ]
    assert max(len(file.read_text().splitlines()) for file in files) <= 400


def test_parsing_the_workflow_needs_no_torch():
    code = (
        "import sys; import virnucpro.settings.validation, virnucpro.models, virnucpro.embeddings.key, virnucpro.embeddings.shard;"
        "import virnucpro.encoders.canonical, virnucpro.sequences.split;"
        "sys.exit(str([m for m in ('torch', 'transformers', 'esm', 'Bio.SeqIO') if m in sys.modules]) if 'torch' in sys.modules else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_parsing_the_workflow_needs_what_it_asks_for():
    """With `--sdm conda`, Snakemake runs where only its own requirements and these packages are."""
    common = (ROOT / "workflow/rules/common.smk").read_text()
    (asked,) = re.findall(r"for _package in \((.*)\):", common)
    assert set(re.findall(r'"(\w+)"', asked)) == {"Bio", "filelock", "h5py", "numpy", "tqdm", "zstandard"}
    others = ["torch", "safetensors", "matplotlib", "sklearn", "tokenizers", "huggingface_hub", "psutil", "click"]
    hidden = f"import sys; sys.modules.update(dict.fromkeys({others}))\n"
    imports = "\n".join(re.findall(r"^from virnucpro.*", common, flags=re.M))
    subprocess.run([sys.executable, "-c", hidden + imports], check=True)
    page = (ROOT / "docs/quickstart-workstation.md").read_text()
    assert all(f"`{name}`" in page for name in ("biopython", "filelock", "h5py", "numpy", "tqdm", "zstandard"))


def test_a_shard_job_imports_neither_reference():
    code = (
        "import sys; import virnucpro.encoders.embed, virnucpro.encoders.esm2, virnucpro.encoders.dnabert;"
        "assert not {'transformers', 'esm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_jobs_share_what_the_first_one_compiled(tmp_path, monkeypatch):
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "PYTHONPATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    installation.prepare_environment()
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "virnucpro" / "kernels" / "triton")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith(str(tmp_path))
    monkeypatch.delenv("TRITON_CACHE_DIR")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/no")
    installation.prepare_environment()
    assert "TRITON_CACHE_DIR" not in os.environ and os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"


def test_a_run_needs_neither_a_home_nor_a_name_of_its_user(tmp_path, monkeypatch):
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "XDG_CACHE_HOME", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    installation.prepare_account(tmp_path)
    assert (getpass.getuser(), Path.home()) == (str(os.getuid()), tmp_path)
    monkeypatch.setenv("HOME", "/dev/null")
    installation.prepare_account(tmp_path / "mine")
    assert os.environ["XDG_CACHE_HOME"] == os.environ["MPLCONFIGDIR"] == str(tmp_path / "mine")
    assert os.environ["HOME"] == "/dev/null"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    installation.prepare_account(tmp_path / "other")
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "cache")


def test_building_a_model_loads_no_compiler():
    """Random numbers for a tensor without memory would: seconds of each job."""
    code = (
        "import sys; from virnucpro.encoders.canonical import build_encoder; from virnucpro.classifier.model import Classifier;"
        "from virnucpro.encoders.esm2 import ESM2, ESM2Config; from virnucpro.skeleton import skeleton;"
        "build_encoder('esm2', {'layers': 1, 'width': 16, 'heads': 1, 'ffn': 16},"
        " ESM2(ESM2Config(layers=1, width=16, heads=1, ffn=16)).state_dict(), None, '');\n"
        "with skeleton(): model = Classifier(16, 4)\n"
        "assert all(value.is_meta for value in model.parameters());"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
