"""What the documentation says can be typed, found, and followed.

Every command in a code block is parsed. What runs it is in ``tests/blocks.yaml``: ``run``, this test, in the tier ci;
``tests/x.py, .ci/run``, these; or nothing can in CI, ``needs a GPU``.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from tests.documentation import PAGES, ROOT, blocks, first_lines, marks, prose
from virnucpro.cli import cli
from virnucpro.settings.validation import resolve

TARGETS = {"all", "all_dnabert_s", "all_esm2", "all_embeddings", "train", "evaluate", "calibrate", "check"}


def commands(text: str) -> list[list[str]]:
    """The words of each command in a shell text, pipes taken apart, without variables before it."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        command: list[str] = []
        for word in [*words, "|"]:
            if word in ("|", "&&", ";"):
                while command and re.fullmatch(r"[A-Z_0-9]+=.*", command[0]):
                    command.pop(0)
                found.append(command)
                command = []
            else:
                command.append(word)
    return [command for command in found if command]


def inline(page: Path) -> list[str]:
    """Commands in the text, which may leave arguments out."""
    return [" ".join(found.split()) for found in re.findall(r"`((?:virnucpro|snakemake|make) [^`]+)`", prose(page))]


def examples(command: click.Command = cli) -> list[str]:
    """The commands in the help texts."""
    inside = []
    if isinstance(command, click.Group):
        context = click.Context(command)
        inside = [t for name in command.list_commands(context) for t in examples(command.get_command(context, name))]
    lines = (line.split("   ")[0] for line in map(str.strip, (command.help or "").splitlines()))
    return [line for line in lines if re.match(r"(.*\| )?(virnucpro|snakemake) ", line)] + inside


EVERY = [
    pytest.param(words, whole, id=f"{page.relative_to(ROOT)}: {' '.join(words)[:60]}")
    for page in PAGES
    for whole, texts in ((True, [block.commands for block in blocks(page)]), (False, inline(page)))
    for words in (words for text in texts for words in commands(text))
    if Path(words[0]).name in ("virnucpro", "snakemake", "make", "pip")
] + [
    pytest.param(words, True, id=f"--help: {line}")
    for line in examples()
    for words in commands(line)
    if words[0] in ("virnucpro", "snakemake")
]


def test_commands_are_found():
    names = [Path(words[0]).name for words, _ in (parameter.values for parameter in EVERY)]
    assert names.count("virnucpro") > 20 and names.count("snakemake") > 5 and names.count("make") > 3


def test_every_block_says_what_runs_it():
    for page in PAGES:
        for block in blocks(page):
            assert block.mark, f"{page}: tests/blocks.yaml doesn't say who runs\n{block.text}"
    for page, lines in marks().items():
        for line, mark in lines.items():
            known = mark == "run" or mark.startswith("needs ")
            assert known or all((ROOT / name).is_file() for name in mark.split(", ")), f"{page}: {line}: {mark}"


def test_readers_see_no_marks():
    for page in PAGES:
        assert "<!-- test" not in page.read_text(), f"{page}: move it with `python -m tests.documentation`"
    for page, lines in marks().items():
        assert set(lines) <= first_lines(ROOT / page), f"tests/blocks.yaml, {page}: not there any more"


@pytest.mark.parametrize(("words", "whole"), EVERY)
def test_the_command_parses(words, whole):
    parse = {"virnucpro": parse_virnucpro, "snakemake": parse_snakemake, "make": parse_make, "pip": parse_pip}
    try:
        parse[Path(words[0]).name](words[1:])
    except click.MissingParameter:
        assert not whole


def parse_virnucpro(words: list[str]) -> None:
    own = words[: words.index("--")] if "--" in words else words
    if "--" in words:
        parse_snakemake(["--cores=1", *words[words.index("--") + 1 :]])
    context: click.Context | None = None
    command: click.Command = cli
    try:
        while True:
            context = command.make_context(command.name or "", list(own), parent=context, obj=[])
            if not isinstance(command, click.Group):
                break
            name, found, own = command.resolve_command(context, [*context._protected_args, *context.args])
            assert found is not None, name
            command = found
    except click.exceptions.Exit:  # --help, --version
        return
    except click.BadParameter as error:
        if "does not exist" not in error.message:  # a file of the reader's
            raise
        return
    given = {key: value for key, value in context.params.items() if value is not None}
    lists = {"precision", "attention"} if command.name == "benchmark" else set()
    keys = set(resolve({}).as_dict()) & set(given) - {"labels", "samples"} - lists
    resolve({key: given[key] for key in keys})


def parse_snakemake(words: list[str]) -> None:
    from snakemake.cli import get_argument_parser

    found = get_argument_parser([]).parse_args(words)
    assert set(found.targets) <= TARGETS, found.targets
    for word in found.config or []:
        key, _, value = word.partition("=")
        resolve({key: yaml.safe_load(value)} if value != "…" else {key: None})
    for profile in filter(None, [found.profile, found.workflow_profile]):
        assert "/" not in profile or (ROOT / profile).is_dir(), profile


def parse_make(words: list[str]) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert {word for word in words if "=" not in word} <= targets
    variables = re.findall(r"(\w+) \?=|\$\((\w+)\)", (ROOT / "Makefile").read_text())
    assert {word.split("=")[0] for word in words if "=" in word} <= {name for pair in variables for name in pair}


def parse_pip(words: list[str]) -> None:
    for extra in re.findall(r"\.\[(.*?)\]", " ".join(words)):
        text = (ROOT / "pyproject.toml").read_text()
        assert all(re.search(rf"^{name} = \[", text, flags=re.M) for name in extra.split(","))


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_messages_quote_what_is_said():
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "workflow").rglob("*.smk"), ROOT / "docs/how-it-works.md"]
    said = re.sub(r"\"\s*\n\s*f?\"", "", "\n".join(path.read_text() for path in sources))
    others = {
        "No space left on device",
        "Missing output files",
        "Directory cannot be locked",
        "Nothing to be done",
        "invalid choice: 'slurm'",
        "could not determine the home directory",
        "ModuleNotFoundError",
        "cannot import name",
    }  # not ours
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/faq.md").read_text(), flags=re.M)
    quoted = [words for row in rows for words in re.findall(r"`(.+?)`", row)]
    assert len(quoted) > 30
    assert [words for words in quoted if words not in said and words not in others] == []


@pytest.mark.ci
def test_the_site_is_built(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.html")}
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs").with_suffix(".html")) in pages
    assert {"configuration.html", "contributing.html", "changelog.html"} <= pages
    assert "models/mini.html" in (tmp_path / "site/index.html").read_text()


def followed(page: Path) -> list[str]:
    """The lines that a reader types, without comments."""
    text = "\n".join(block.text for block in blocks(page) if block.mark == "run")
    return [re.sub(r" +# .*", "", line) for line in text.splitlines()]


@pytest.mark.ci
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.mark == "run" for block in blocks(page))], ids=lambda page: page.name
)
def test_the_page_can_be_followed(page, tmp_path):
    """In a folder with what a clone has and the reader's own files, which are small."""
    contigs = (ROOT / "resources/example/contigs.fa").read_text()[1:].split("\n>")
    short = sorted(contigs, key=len)[:3]
    (tmp_path / "contigs.fa").write_text(f">{short[0]}\n>{short[1]}\n")
    (tmp_path / "more.fa.gz").write_bytes(gzip.compress(f">{short[2]}\n".encode()))
    (tmp_path / "samples.tsv").write_text("sample\tfasta\ngut\tmore.fa.gz\n")
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    earlier = {command for other in PAGES[: PAGES.index(page)] for command in followed(other)}
    # The doctor measures for half a minute and leaves nothing behind.
    text = "\n".join(line for line in followed(page) if not ("doctor" in line and line in earlier))
    init = "config init my.yaml\n"  # a reader then names samples in it
    text = text.replace(init, init + "sed -i 's/^samples: null/samples: samples.tsv/' my.yaml\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", text],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_citation_is_the_one_in_reports():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    works = json.loads((ROOT / "src/virnucpro/report/references.json").read_text())
    (work,) = (work for work in works if work["key"] == "virnucpro")
    preferred = citation["preferred-citation"]
    assert [preferred["doi"], preferred["year"], preferred["title"]] == [work["doi"], work["year"], work["title"]]
    assert " and ".join(f"{a['family-names']}, {a['given-names']}" for a in preferred["authors"]) == work["authors"]


def test_the_model_card_has_the_files_digests():
    card = (ROOT / "docs" / "models" / "mini.md").read_text()
    for path in (ROOT / "resources" / "models").glob("*.safetensors"):
        (row,) = (line for line in card.splitlines() if line.startswith("| `") and f"`{path.name}`" in line)
        assert f"`{hashlib.sha256(path.read_bytes()).hexdigest()}`" in row, path.name
        assert f"{path.stat().st_size:,}" in row, path.name
