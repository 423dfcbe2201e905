import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from tests.unit.encoder_fixtures import bpe_json, dna, dnabert_tokenizer, random_dnabert
from virnucpro.encoders import embedder, tokenizing
from virnucpro.encoders.bpe import Tokenizer, TokenizerProcess
from virnucpro.encoders.embed import embed
from virnucpro.encoders.tokenizing import tokens_ahead
from virnucpro.errors import ConfigError, InputError, ModelError


def test_tokens_have_specials_but_no_padding_and_no_truncation():
    import tokenizers

    text = bpe_json()
    sequences = [*dna([1, 7, 500]), *dna([12000]), *dna([40], letters=b"ACGTN")]
    tokens, lengths = Tokenizer(text, 256)(sequences)
    library = tokenizers.Tokenizer.from_str(text)
    library.no_padding()
    library.no_truncation()
    expected = [library.encode(s.decode()).ids for s in sequences]
    assert lengths.tolist() == [len(e) for e in expected] and lengths.max() > 2002
    assert tokens.tolist() == [i for e in expected for i in e]
    assert (expected[0][0], expected[0][-1]) == (1, 2) and 0 in expected[4]


def test_the_models_own_tokenizer():
    tokens, lengths = Tokenizer(dnabert_tokenizer(), 4096)(dna([500] * 20))
    assert 85 < lengths.mean() < 120
    assert tokens[0] == 1 and tokens[-1] == 2 and tokens.max() < 4096


@pytest.mark.parametrize(("bad", "why"), [(b"", "empty"), ("AC\u00c5".encode(), "not ASCII")])
def test_unusable_sequences_are_refused_by_name(bad, why):
    with pytest.raises(InputError, match=f"sequence second is {why}"):
        Tokenizer(bpe_json(), 256)([b"ACGT", bad], ["first", "second"])


def test_a_tokenizer_that_does_not_fit_is_refused():
    with pytest.raises(ModelError, match="256 entries but the model embeds only 100"):
        Tokenizer(bpe_json(), 100)
    with pytest.raises(ModelError, match="can't be read"):
        Tokenizer("{}", 256)
    without = json.loads(bpe_json())
    without["added_tokens"] = []
    del without["model"]["vocab"]["[CLS]"]
    without["post_processor"] = None
    with pytest.raises(ModelError, match=r"no \[CLS\] and \[SEP\]"):
        Tokenizer(json.dumps(without), 256)
    with pytest.raises(ModelError, match="without its tokenizer"):
        random_dnabert().tokenize([b"ACGT"])


@contextmanager
def process():
    """The tokenizer's process, ended at the end."""
    apart = TokenizerProcess(bpe_json(), 256)
    try:
        yield apart
    finally:
        apart.end()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(bpe_json(), 256)


def test_a_process_gives_the_same_tokens(tokenizer):
    with process() as apart:
        for sequences in ([*dna([1, 7, 500]), *dna([40], letters=b"ACGTN")], dna([500] * 3000), dna([12000])):
            for ours, theirs in zip(apart(sequences), tokenizer(sequences), strict=True):
                assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
        with pytest.raises(InputError, match="sequence second is empty"):
            apart([b"ACGT", b""], ["first", "second"])
        assert apart([b"ACGT"])[1].tolist() == tokenizer([b"ACGT"])[1].tolist(), "goes on after a refusal"
    assert apart.process.poll() is not None


def test_a_process_that_is_killed_is_named():
    with process() as apart:
        os.kill(apart.process.pid, signal.SIGKILL)
        with pytest.raises(ModelError, match="tokenizes for this job was killed by signal 9"):
            apart(dna([500] * 1000))


def test_a_process_ends_with_its_parent():
    code = (
        "import os, sys; from virnucpro.encoders.bpe import *\n"
        "apart = TokenizerProcess(sys.stdin.read(), 256)\n"
        "print(apart.process.pid, len(apart([b'ACGT'])[0]), flush=True); os.kill(os.getpid(), 9)"
    )
    parent = subprocess.run([sys.executable, "-c", code], input=bpe_json(), capture_output=True, text=True)
    pid, tokens = map(int, parent.stdout.split())
    assert parent.returncode == -signal.SIGKILL and tokens >= 3
    deadline = time.monotonic() + 20
    while running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_slices_of_a_job_that_waits_begin_small(monkeypatch):
    encoder = random_dnabert(tokenizer=bpe_json())
    sequences = dna(list(range(20, 80)))
    ids = [str(i) for i in range(len(sequences))]
    here = embed(encoder, ids, sequences).vectors
    calls = counted(monkeypatch)
    monkeypatch.setattr(embedder, "SUBPROCESS_SEQUENCES", 59)
    monkeypatch.setattr(embedder, "FIRST_SLICE_SIZE", 8)
    monkeypatch.setattr(tokenizing, "SLICE_SIZE", 30)
    assert np.allclose(embed(encoder, ids, sequences).vectors, here, atol=1e-5)
    assert calls == [8, 16, 30, 6]
    sequences[50] = b""
    with pytest.raises(InputError, match="sequence 50 is empty"):
        embed(encoder, ids, sequences)


def test_a_shard_is_tokenized_ahead_of_its_job(monkeypatch):
    """By a process that begins at once, with slices of full size, and ends with the block."""
    encoder = random_dnabert(tokenizer=bpe_json())
    sequences = dna(list(range(20, 80)))
    ids = [str(i) for i in range(len(sequences))]
    here = embed(encoder, ids, sequences).vectors
    calls, spec = counted(monkeypatch), SimpleNamespace(tokenizer=bpe_json(), config={"vocabulary": 256})
    with tokens_ahead(spec, ids, sequences) as none:
        assert none is None, "too few"
    monkeypatch.setattr(tokenizing, "SUBPROCESS_SEQUENCES", 59)
    with tokens_ahead(SimpleNamespace(tokenizer=None), ids, sequences) as none:
        assert none is None, "no byte pairs"
    with tokens_ahead(spec, ids, sequences, wanted=False) as none:
        assert none is None
    with tokens_ahead(spec, ids, sequences) as slices:
        deadline = time.monotonic() + 20
        while not calls:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        monkeypatch.setattr(type(encoder), "tokenize", None)  # nobody tokenizes again
        assert np.allclose(embed(encoder, ids, sequences, tokens=slices).vectors, here, atol=1e-5)
    assert calls == [60]
    with pytest.raises(ZeroDivisionError), tokens_ahead(spec, ids, sequences) as slices:
        raise ZeroDivisionError
    assert slices.tokenize.process.poll() is not None


def test_a_job_that_does_not_begin_ends_its_process(monkeypatch):
    encoder, ended = random_dnabert(tokenizer=bpe_json()), []
    monkeypatch.setattr(embedder, "SUBPROCESS_SEQUENCES", 1)
    monkeypatch.setattr(TokenizerProcess, "end", lambda self: ended.append(self.process.pid) or self.process.kill())
    with pytest.raises(ConfigError, match="not available"):
        embed(encoder, ["a", "b"], dna([50, 60]), attention="triton")
    assert len(ended) == 1


def counted(monkeypatch) -> list[int]:
    """How many sequences each call of a tokenizer's process is for, as they come."""
    calls = []
    real = TokenizerProcess.__call__

    def count(self, sequences, ids=None):
        calls.append(len(sequences))
        return real(self, sequences, ids)

    monkeypatch.setattr(TokenizerProcess, "__call__", count)
    return calls
