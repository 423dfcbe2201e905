"""The documentation's pages, their code blocks, and who runs each block.

A block in ``console`` is a session: its commands begin with ``$ ``, below each stands what it prints, and
``test_docs_shown.py`` compares that with what comes out. Who runs another block of commands is in ``blocks.yaml`` beside
this file, by page and the block's first line, so that readers see nothing of it: ``run`` (``test_docs.py`` does), the tests
that do, or ``needs ...``, why none can. ``python -m tests.documentation`` moves marks that stand in the pages
(``<!-- test: ... -->`` above a block) into that file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from virnucpro import installation

ROOT = installation.root()
MARKS = Path(__file__).with_name("blocks.yaml")
FOLDERS = ("config", "containers", "training")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / folder / "README.md" for folder in FOLDERS)]
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.M | re.S)
_MARKED = re.compile(r"^<!-- test: ([^\n]*) -->\n(```\w*\n([^\n]*)\n)", flags=re.M)


@dataclass
class Block:
    language: str
    text: str
    mark: str | None
    """Who runs it; none is known: None."""

    @property
    def commands(self) -> str:
        """What a reader types."""
        if self.language != "console":
            return self.text
        return "".join(f"{command}\n" for command, _ in self.session)

    @property
    def session(self) -> list[tuple[str, list[str]]]:
        """(command, lines of its output) of a session."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
        return found


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def marks() -> dict[str, dict[str, str]]:
    return yaml.safe_load(MARKS.read_text())


def blocks(page: Path) -> list[Block]:
    """The page's code blocks that are shell; others name their language."""
    known = marks().get(name(page), {})
    found = []
    for language, text in _BLOCK.findall(page.read_text()):
        if language in ("", "bash", "sh", "console"):
            found.append(Block(language, text, "session" if language == "console" else known.get(first_line(text))))
    return found


def first_line(text: str) -> str:
    """A block's first line without its comment."""
    return re.sub(r" +# .*", "", text.split("\n", 1)[0])


def first_lines(page: Path) -> set[str]:
    """Of all its code blocks, whatever their language."""
    return {first_line(text) for _, text in _BLOCK.findall(page.read_text())}


def prose(page: Path) -> str:
    """The page's text without code blocks and comments."""
    return re.sub(r"<!--.*?-->", "", _BLOCK.sub("", page.read_text()), flags=re.S)


def words(page: Path) -> int:
    """Words that a reader reads: of the text and its tables, not of code blocks, addresses and rulers."""
    text = re.sub(r"\]\([^)]*\)", "]", prose(page))
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def move_marks() -> None:
    known = marks() if MARKS.exists() else {}
    kept = {}
    for page in PAGES:
        text = page.read_text()
        for mark, _, line in _MARKED.findall(text):
            known.setdefault(name(page), {})[first_line(line)] = mark
        if (changed := _MARKED.sub(r"\2", text)) != text:
            page.write_text(changed)
        there = first_lines(page)
        kept[name(page)] = {line: mark for line, mark in known.get(name(page), {}).items() if line in there}
    head = "# Who runs the documentation's blocks of commands: tests/documentation.py says how it is read.\n"
    found = {page: lines for page, lines in kept.items() if lines}
    MARKS.write_text(head + yaml.safe_dump(found, sort_keys=False, width=1000))


if __name__ == "__main__":
    move_marks()
