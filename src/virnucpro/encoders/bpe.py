"""DNABERT-S's byte-pair tokenizer, here or in a process of its own.

A process, because threads that tokenize keep the interpreter from the one that feeds the GPU. ``python -m
virnucpro.encoders.bpe`` is that process: it needs neither PyTorch nor anything of its parent's but two pipes. Messages
are a header of 64-bit integers, then arrays:

    to it     bytes of tokenizer.json, vocabulary; tokenizer.json     once
              n, bytes; lengths (n,) int64; the sequences             for each call
    from it   n, T; token counts (n,) int64; tokens (T,) int32        for each call
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import IO

import numpy as np

from virnucpro.errors import InputError, ModelError

PIPE = 1 << 20  # bytes that a pipe holds: fewer turns at the interpreter for a window's tokens
_HEADER = struct.Struct("<qq")


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
    """The same tokenizer in a process of its own: started at once, ended by ``end`` or with its parent."""

    def __init__(self, text: str, vocabulary: int) -> None:
        """Of a tokenizer.json and the number of tokens that the model embeds."""
        path = os.pathsep.join(filter(None, sys.path))
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        for pipe in filter(None, (self.process.stdin, self.process.stdout)):
            with suppress(OSError, AttributeError):  # this user's pipes hold all they may, or it isn't Linux
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)
        self._send(_HEADER.pack(len(text.encode()), vocabulary), text.encode())

    def end(self) -> None:
        self.process.kill()  # whatever it does is wanted no more
        self.process.communicate()

    def __call__(self, sequences: Sequence[bytes], ids: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As ``Tokenizer``; ModelError if the process is gone."""
        check_dna(sequences, ids)
        letters = b"".join(sequences)
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        self._send(_HEADER.pack(len(lengths), len(letters)), lengths.tobytes(), letters)
        assert self.process.stdout is not None
        header = _read(self.process.stdout, _HEADER.size)
        count, total = _HEADER.unpack(header) if header else (0, 0)
        counts = np.frombuffer(_read(self.process.stdout, 8 * count), np.int64)
        tokens = np.frombuffer(_read(self.process.stdout, 4 * total), np.int32)
        if count != len(sequences) or len(counts) != count or len(tokens) != counts.sum():
            self._lost()
        return tokens, counts

    def _send(self, *parts: bytes) -> None:
        assert self.process.stdin is not None
        try:
            for part in parts:
                self.process.stdin.write(part)
            self.process.stdin.flush()
        except BrokenPipeError:
            self._lost()

    def _lost(self) -> None:
        status = self.process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise ModelError(
            f"the process that tokenizes for this job {how} (its own message, if any, is above); if memory was short, "
            "give the job more and run again"
        )


def _read(pipe: IO[bytes], size: int) -> bytes:
    """So many bytes, or none if the other side is gone."""
    data = pipe.read(size)
    return data if len(data) == size else b""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    size, vocabulary = _HEADER.unpack(requests.read(_HEADER.size))
    tokenizer = Tokenizer(requests.read(size).decode(), vocabulary)
    while header := _read(requests, _HEADER.size):
        count, size = _HEADER.unpack(header)
        ends = np.cumsum(np.frombuffer(requests.read(8 * count), np.int64))
        letters = requests.read(size)
        tokens, counts = tokenizer([letters[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)])
        replies.write(_HEADER.pack(count, len(tokens)) + counts.tobytes() + tokens.tobytes())
        replies.flush()


if __name__ == "__main__":
    main()
