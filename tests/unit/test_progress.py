"""How far a shard job is: every sequence counts once; lines for a log."""

import logging
import re

import numpy as np

from tests.unit.encoder_fixtures import proteins, random_esm2
from virnucpro.embeddings import progress as module
from virnucpro.embeddings.progress import progress
from virnucpro.encoders.embed import embed


def test_every_sequence_is_reported_once():
    sequences, seen = proteins([5, 90, 33, 7, 60] * 10), []
    embed(random_esm2(), [str(i) for i in range(50)], sequences, tokens_per_batch=128, progress=seen.append)
    assert len(seen) > 5, "pack by pack"
    assert sorted(np.concatenate(seen)) == list(range(50))


def test_a_line_now_and_then_in_the_log(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    with progress("a.faa", 200, "residues") as advance:
        advance(50)
    assert not caplog.messages, "a moment has passed"
    monkeypatch.setattr(module, "INTERVAL", 0)
    with progress("a.faa", 200, "residues") as advance:
        advance(50)
        advance(100)
    assert [line.partition(" (")[0] for line in caplog.messages] == [f"a.faa: {n} of 200 residues" for n in (50, 150)]
    assert caplog.messages[1].endswith(" left") and "(75 %)" in caplog.messages[1]
    assert re.findall(module.LINE, "\n".join(caplog.messages)) == [("50", "200"), ("150", "200")]
