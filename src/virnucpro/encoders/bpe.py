"""DNABERT-S's byte-pair tokenizer, here or in a subprocess.

A subprocess, because threads that tokenize keep the interpreter from the one that feeds the GPU. It is ``python -m
virnucpro.encoders.bpe``, which needs neither PyTorch nor anything of its parent's but two pipes of pickles: to it
(tokenizer.json, vocabulary) once, then lists of sequences; from it (tokens, token counts) for each list.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy as np

from virnucpro.errors import InputError, ModelError

PIPE_SIZE = 1 << 20  # bytes that a pipe holds: fewer turns at the interpreter for a slice's tokens


class Tokenizer:
    """The checkpoint's own byte-pair tokenizer, without the truncation and padding its file asks for."""

    def __init__(self, text: str, vocabulary: int) -> None:
        import tokenizers

        try:
            self.bpe = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"tokenizer.json can't be read ({error}); fetch the model folder again") from error
        self.bpe.no_truncation()
        self.bpe.no_padding()
        self.cls, self.sep = self.bpe.token_to_id("[CLS]"), self.bpe.token_to_id("[SEP]")
        if self.cls is None or self.sep is None:
            raise ModelError("tokenizer.json has no [CLS] and [SEP]; it is not DNABERT-S's tokenizer")
        if self.bpe.get_vocab_size() > vocabulary:
            raise ModelError(
                f"tokenizer.json has {self.bpe.get_vocab_size()} entries but the model embeds only {vocabulary}; "
                "take both from the same model folder"
            )

    def __call__(self, sequences: Sequence[bytes], ids: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """[CLS] tokens [SEP] for each sequence, one after the other. Letters outside ACGT become [UNK].

        Returns flat tokens (T,) int32 and token counts (n,) int64.
        """
        check_dna(sequences, ids)
        encodings = self.bpe.encode_batch_fast([s.decode("ascii") for s in sequences], add_special_tokens=False)
        lengths = np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings)) + 2
        flat = chain.from_iterable([self.cls, *encoding.ids, self.sep] for encoding in encodings)
        return np.fromiter(flat, dtype=np.int32, count=int(lengths.sum())), lengths


def check_dna(sequences: Sequence[bytes], ids: Sequence[str] | None) -> None:
    """InputError for the first sequence that the tokenizer can't read."""
    for index, sequence in enumerate(sequences):
        if not sequence or not sequence.isascii():
            name = ids[index] if ids is not None else f"number {index + 1}"
            raise InputError(f"DNA sequence {name} is {'not ASCII' if sequence else 'empty'}; correct the input")


class TokenizerProcess:
    """The same tokenizer in a subprocess: started at once, ended by ``end`` or with its parent."""

    def __init__(self, text: str, vocabulary: int) -> None:
        """Of a tokenizer.json and the number of tokens that the model embeds."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError, AttributeError):  # this user's pipes hold all they may, or it isn't Linux
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)  # type: ignore[arg-type]
        self._send((text, vocabulary))

    def end(self) -> None:
        self.process.kill()  # whatever it does is wanted no more
        self.process.communicate()

    def __call__(self, sequences: Sequence[bytes], ids: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As ``Tokenizer``; ModelError if the process is gone."""
        check_dna(sequences, ids)
        self._send(list(sequences))
        assert self.process.stdout is not None
        try:
            return pickle.load(self.process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise self._lost() from None

    def _send(self, message: Any) -> None:
        assert self.process.stdin is not None
        try:
            pickle.dump(message, self.process.stdin, protocol=5)
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._lost() from None

    def _lost(self) -> ModelError:
        status = self.process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return ModelError(
            f"the process that tokenizes for this job {how} (its own message, if any, is above); if memory was short, "
            "give the job more and run again"
        )


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with suppress(EOFError, pickle.UnpicklingError, BrokenPipeError):  # the parent is gone
        tokenizer = Tokenizer(*pickle.load(sys.stdin.buffer))
        while True:
            tokens = tokenizer(pickle.load(sys.stdin.buffer))
            pickle.dump(tokens, sys.stdout.buffer, protocol=5)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
