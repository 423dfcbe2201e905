"""A working directory with one sample, run again and again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tests.workflow.conftest import Models, coding, fasta
from tests.workflow.runner import Run, snakemake

NONE = {"embed_dnabert_s": 0, "embed_esm2": 0}
RECORDS = 6
"""Of a sample: as few as make three shards of 24 frames, since every shard costs a run two jobs."""
TABLES = ("predictions.tsv", "chunks.tsv", "contigs.tsv", "prediction_results.txt")


def records(count: int = RECORDS) -> dict[str, str]:
    return {f"r{number}": coding(number, 1500) for number in range(count)}


class Project:
    """A working directory with one sample, or its finished run."""

    def __init__(self, folder: Path, models: Models, arguments: tuple[str, ...] = (), count: int = RECORDS):
        self.folder, self.models, self.arguments = folder, models, arguments
        self.fasta = folder / "input.fa"
        if not self.fasta.exists():
            self.write(records(count))
            (folder / "samples.tsv").write_text("sample\tfasta\ns\tinput.fa\n")

    def write(self, content: dict[str, str]) -> None:
        time.sleep(0.01)
        self.fasta.write_text(fasta(content))

    def config(self, *models: str, **changes) -> dict:
        return self.models.config(*models) | {"samples": "samples.tsv"} | changes

    def run(self, *models: str, extra: tuple[str, ...] = (), **changes) -> Run:
        return snakemake(self.folder, *self.arguments, *extra, config=self.config(*models, **changes)).ok()

    def unlock(self) -> None:
        """Remove the lock that a killed run left."""
        snakemake(self.folder, "--unlock", config=self.config()).ok()

    def tables(self) -> dict[str, bytes]:
        return {name: (self.folder / "results" / "s" / name).read_bytes() for name in TABLES}

    def shards(self) -> int:
        return len(list((self.folder / "results" / "s" / "shards").glob("*.fna")))


def copy_of(project: Project, folder: Path, arguments: tuple[str, ...] = ()) -> Project:
    """The same finished run in another working directory, times kept."""
    shutil.copytree(project.folder, folder, dirs_exist_ok=True)
    return Project(folder, project.models, arguments)
