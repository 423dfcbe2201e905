"""What a run is about to fetch, and whether its models want a GPU that isn't here: said before its first job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from virnucpro import planning
from virnucpro.models.sources import ModelSource
from virnucpro.rendering import text_table

_SAMPLE = 100_000
"""Frames of about 100 Mbp of contigs."""
_DAY = 24 * 60


def about_to_run(sources: Iterable[ModelSource], output: str | Path, gpus: int | None) -> str:
    """Lines to print; empty if nothing is fetched and there is nothing to warn of.

    Args:
        sources: the models that the run needs.
        output: its folder of results, which says what an earlier run has fetched and prepared.
        gpus: how many its embedding jobs have here, or None where a cluster will have them.
    """
    sources = list(sources)
    lines: list[str] = []
    absent = [source for source in sources if source.published and not source.path.exists()]
    if missing := [source for source in absent if not record_of_digests(source, output).exists()]:
        lines += _fetching(missing)
    slow = [source for source in sources if planning.embedding_minutes(source.megabytes, _SAMPLE, gpu=False) > _DAY]
    if slow and gpus == 0:
        lines.append(
            f"Without a GPU, {slow[0].name} takes days for 100 Mbp of contigs; the default preset, mini-500, takes less than "
            "an hour, and nothing is fetched. `virnucpro doctor` measures either."
        )
    return "\n".join(lines)


def record_of_digests(source: ModelSource, output: str | Path) -> Path:
    """A file in a run's folder of results, made when a published model was fetched or checked for it."""
    return Path(output, "models", source.kind, f"{source.identifier}.sha256")


def fetch_command(*sources: ModelSource) -> str:
    """What to type to fetch models, all to one folder."""
    return f"virnucpro models fetch {' '.join(source.name for source in sources)} --models-dir {_folder(sources)}"


def _fetching(missing: list[ModelSource]) -> list[str]:
    total = sum(source.megabytes for source in missing)
    rows = [[f"  {source.name}", _size(source.megabytes), source.origin] for source in missing]
    table = text_table(rows, left=3)
    return [
        f"Models that aren't here are fetched first, {_size(total)} to {_folder(missing)}:",
        table,
        f"If this machine has no internet access, fetch them on one that has: {fetch_command(*missing)}",
    ]


def _folder(sources: Sequence[ModelSource]) -> Path:
    return sources[0].path.parent.absolute()


def _size(megabytes: int) -> str:
    return f"{megabytes / 1000:,.1f} GB" if megabytes >= 1000 else f"{megabytes} MB" if megabytes else "size unknown"
