"""How far all embedding jobs of a run are together: one line now and then, whatever runs them and where.

Nothing but the files says it: vectors that are there are done, and a job's log says how much of its shard is. Vectors that
went once they were used (``keep``) are done, too, by the log of the job that made them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from virnucpro.embeddings.progress import LINE

FIRST, EVERY = 10.0, 30.0
"""Seconds until the first line, and between two."""
LOOKING = 0.05
"""Share of the time that is spent looking, at most: with thousands of shards on a slow file system lines are rarer."""
_TAIL = 4096  # bytes of a log that are looked at
_DONE = re.compile(r" INFO done\n\Z")  # the end of a job's log, see ``virnucpro.logging``


@dataclass
class _Expected:
    """A file of vectors."""

    log: Path
    frames: int
    work: float
    share: float  # of it done
    before: float  # share done when it was first heard of


@dataclass
class RunProgress:
    """Told what a run is to make, says how far it is; start with ``start``, end with ``stop``.

    Attributes:
        say: is given each line.
        encoders: frames are embedded once by each.
        bases: of the run's sequences, by sample.
    """

    say: Callable[[str], None]
    encoders: int = 2
    bases: dict[str, int] = field(default_factory=dict)
    _files: dict[Path, _Expected] = field(default_factory=dict)
    _began: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def expect(self, path: str, log: str, frames: int, work: float) -> None:
        """A file of vectors will be made, or is there; ``work`` compares it with others, in any unit."""
        if (file := Path(path)) not in self._files:
            done = float(file.exists() or self._share_in_log(Path(log)) == 1)
            self._files[file] = _Expected(Path(log), frames, work, done, done)

    def start(self) -> None:
        """Say it from now on, in a thread that ends with the process."""
        self._began = time.time()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Say it a last time, if anything was embedded since the start."""
        self._ended.set()
        if self._thread:
            self._thread.join()
            self._thread = None
            if line := self.line():
                self.say(line)

    def line(self) -> str:
        """How far it is; empty before the first shard is done in part, and where all was there already."""
        files = list(self._files.items())  # which another thread adds to
        for path, each in files:
            share = 1.0 if path.exists() else self._share_in_log(each.log, self._began)
            each.share = each.before if share is None else share  # None: no job of this run has it
            if each.share < each.before:  # it is made again
                each.before = 0.0
        work = sum(each.work for _, each in files)
        done = sum(each.work * each.share for _, each in files)
        now = done - sum(each.work * each.before for _, each in files)
        if not work or now <= 0:
            return ""
        seconds = time.time() - self._began
        frames, finished = (
            round(sum(each.frames * share for share, each in shares) / self.encoders)
            for shares in ([(1.0, each) for _, each in files], [(each.share, each) for _, each in files])
        )
        bases = sum(self.bases.values())
        speed = f", {now / work * bases / 1e6 / (seconds / 60):,.1f} Mbp/min" if bases else ""
        rest = tqdm.format_interval((work - done) / now * seconds)
        left = f", {rest} left" if done < work else f" in {tqdm.format_interval(seconds)}"
        return f"embedded {finished:,} of {frames:,} frames ({100 * done / work:.0f} %){speed}{left}"

    def _watch(self) -> None:
        wait = FIRST
        while not self._ended.wait(wait):
            began = time.monotonic()
            line = self.line()
            if line and any(each.share < 1 for each in list(self._files.values())):  # else the last time says it
                self.say(line)
            wait = max(EVERY, (time.monotonic() - began) / LOOKING)

    @staticmethod
    def _share_in_log(log: Path, since: float = 0.0) -> float | None:
        """What the job of a log has done, by the last line that says so, 0 if none does; None if it is older than ``since``."""
        try:
            if log.stat().st_mtime < since:
                return None
            with log.open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - _TAIL))
                text = file.read().decode(errors="replace")
        except OSError:
            return None
        if _DONE.search(text):
            return 1.0
        said = re.findall(LINE, text)
        return int(said[-1][0]) / max(1, int(said[-1][1])) if said else 0.0
