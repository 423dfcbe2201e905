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
from virnucpro.models.registry import ARCHITECTURES

ROOT = installation.root()
PACKAGE = ROOT / "src" / "virnucpro"
PLUGIN = ROOT / "src" / "snakemake_logger_plugin_virnucpro"
"""Knows Snakemake, and so lies beside the package."""
LAYERS = [
    "errors",
    "locks",
    "paths",
    "processes",
    "io",
    "settings",
    "outputs",
    "result_tables",
    "rendering",
    "planning",
    "models",
    "provenance",
    "sequences",
    "encoders",
    "gpu",
    "embeddings",
    "classifier",
    "calls",
    "check",
    "benchmark",
    "handover",
    "report",
    "results",
    "downloads",
    "doctor",
    "cli",
]
BESIDE = {"__init__", "__main__", "installation", "logging"}


def imports(file: Path) -> set[str]:
    """Dotted names of all that a file imports anywhere, by ``import_module`` with a string, too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            found |= {each.value for each in node.args if isinstance(each, ast.Constant)}
    return found


def modules(file: Path) -> set[str]:
    """First-level modules of the package that a file imports."""
    names = {name.split(".")[1] for name in imports(file) if name.startswith("virnucpro.")}
    return {name for name in names if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}


def test_imports_are_seen_in_every_form(tmp_path):
    forms = ["import virnucpro.doctor", "from virnucpro import doctor", "from virnucpro.doctor import Case"]
    forms += ["import importlib\nimportlib.import_module('virnucpro.doctor')", "import_module('virnucpro.doctor')"]
    for form in forms:
        (tmp_path / "x.py").write_text(f"def f():\n    {form.replace(chr(10), chr(10) + '    ')}\n")
        assert modules(tmp_path / "x.py") == {"doctor"}, form


def test_imports_go_one_way():
    for file in PACKAGE.rglob("*.py"):
        layer = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if layer in BESIDE:
            continue
        assert layer in LAYERS, f"{file}: give the new module its place in LAYERS"
        allowed = set(LAYERS[: LAYERS.index(layer) + 1]) | BESIDE
        assert modules(file) <= allowed, f"{file} imports {modules(file) - allowed}"


def test_the_logger_plugin_takes_what_lies_beside_the_layers_alone():
    """Every Snakemake run with it imports it first, so nothing heavy."""
    for file in PLUGIN.rglob("*.py"):
        assert modules(file) <= BESIDE, f"{file} imports {modules(file) - BESIDE}"
        assert max(map(len, file.read_text().splitlines())) <= 120, f"{file}: lines of more than 120 letters"


REFERENCES = {"check/reference.py": {"esm"}}
"""Where another implementation of an encoder is compared with, if it is installed."""


def test_nothing_below_the_workflow_knows_snakemake():
    for file in PACKAGE.rglob("*.py"):
        found = {name.partition(".")[0] for name in imports(file)} & {"snakemake", "transformers", "esm"}
        assert found <= REFERENCES.get(str(file.relative_to(PACKAGE)), set()), file


def test_the_names_of_architectures_stand_in_the_registry():
    """What depends on an architecture asks there; its own module and presets may name it, and rules are called after it."""
    own = {entry.module.rpartition(".")[2] + ".py" for entry in ARCHITECTURES.values()} | {"registry.py"}
    name = re.compile(rf"(?<![\w.-])({'|'.join(ARCHITECTURES)})(?![\w.])")
    for file in (*PACKAGE.rglob("*.py"), *PLUGIN.rglob("*.py")):
        tree = ast.parse(file.read_text())
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in prose]
        found = [text for text in texts if isinstance(text, str) and name.search(text)]
        assert not found or file.name in own, f"{file} has {found}: ask models.registry"
    for file in (ROOT / "workflow").rglob("*"):
        if file.suffix in (".smk", ".py") or file.name == "Snakefile":
            code = "\n".join(line.split("#")[0] for line in file.read_text().splitlines())
            assert not name.search(re.sub(r'""".*?"""', "", code, flags=re.S)), f"{file}: ask models.registry"


def test_size():
    folders = (PACKAGE, PLUGIN, ROOT / "workflow")
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".smk")]
    assert max(len(file.read_text().splitlines()) for file in files) <= 400


def test_parsing_the_workflow_needs_no_torch():
    code = (
        "import sys; import virnucpro.settings.validation, virnucpro.models.sources, virnucpro.embeddings.key, virnucpro.embeddings.shard;"
        "import virnucpro.encoders.spec, virnucpro.sequences.split;"
        "sys.exit(' '.join({'torch', 'transformers', 'esm', 'tokenizers', 'matplotlib', 'sklearn'} & sys.modules.keys()) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_parsing_the_workflow_needs_what_it_asks_for():
    """With `--sdm conda`, Snakemake runs where only its own requirements and these packages are."""
    common = (ROOT / "workflow/rules/common.smk").read_text()
    (asked,) = re.findall(r"for _package in \((.*)\):", common)
    named = set(re.findall(r'"(\w+)"', asked))
    assert named == {"Bio", "filelock", "h5py", "numpy", "safetensors", "tqdm", "zstandard"}
    others = ["torch", "matplotlib", "sklearn", "tokenizers", "huggingface_hub", "psutil", "click"]
    hidden = f"import sys; sys.modules.update(dict.fromkeys({others}))\n"
    imports = "\n".join(re.findall(r"^from virnucpro.*", common, flags=re.M))
    subprocess.run([sys.executable, "-c", hidden + imports], check=True)
    page = (ROOT / "docs/quickstart-workstation.md").read_text()
    needed = ("biopython", "filelock", "h5py", "numpy", "safetensors", "tqdm", "zstandard")
    assert all(f"`{name}`" in page for name in needed)


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
    installation.prepare_environment(alone=True)
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "virnucpro" / "kernels" / "triton")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith(str(tmp_path))
    monkeypatch.delenv("TRITON_CACHE_DIR")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/no")
    installation.prepare_environment(alone=True)
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
        "import sys; from virnucpro.encoders.loading import build_encoder; from virnucpro.classifier.model import Classifier;"
        "from virnucpro.encoders.esm2 import ESM2, ESM2Config; from virnucpro.models.empty_weights import init_empty_weights;"
        "build_encoder('esm2', {'layers': 1, 'width': 16, 'heads': 1, 'ffn': 16},"
        " ESM2(ESM2Config(layers=1, width=16, heads=1, ffn=16)).state_dict(), None, '');\n"
        "with init_empty_weights(): model = Classifier(16, 4)\n"
        "assert all(value.is_meta for value in model.parameters());"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
