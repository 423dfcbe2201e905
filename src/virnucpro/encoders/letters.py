"""Tokens of protein encoders: a letter each, between <cls> and <eos>. No subprocess: tokenizing is a byte lookup."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from virnucpro.errors import InputError

UNKNOWN = 255  # more than any token


class LetterTokenizer:
    """<cls> residues <eos> for each of n ≥ 1 proteins: flat tokens (T,) uint8 and token counts (n,) int64.

    Raises InputError for a letter that the model has no token for; J, ``*`` and lower case are among them.
    """

    def __init__(self, model: str, alphabet: Sequence[str]) -> None:
        """For the model of that name and its tokens in order; those of one letter may be in a protein."""
        self.model, self.eos = model, alphabet.index("<eos>")
        # Between chains stands |, and a frame is one chain.
        self.letters = "".join(token for token in alphabet if len(token) == 1 and token != "|").encode()
        table = bytearray([UNKNOWN]) * 256
        table[0] = alphabet.index("<cls>")  # byte 0 stands between the sequences while they are joined
        for letter in self.letters:
            table[letter] = alphabet.index(chr(letter))
        self.table = bytes(table)

    def __call__(self, sequences: Sequence[bytes], ids: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences)) + 2
        joined = b"\0" + b"\0\0".join(sequences) + b"\0"
        tokens = np.frombuffer(bytearray(joined.translate(self.table)), dtype=np.uint8)
        ends = np.cumsum(lengths)
        if lengths.min() == 2 or tokens.max() == UNKNOWN or joined.count(0) != 2 * len(sequences):
            self._refuse(sequences, ids)
        tokens[ends - 1] = self.eos
        return tokens, lengths

    def _refuse(self, sequences: Sequence[bytes], ids: Sequence[str] | None) -> None:
        for index, sequence in enumerate(sequences):
            name = ids[index] if ids is not None else f"number {index + 1}"
            if not sequence:
                raise InputError(f"protein {name} is empty: {self.model} needs at least one residue")
            if unknown := sequence.translate(None, self.letters):
                position = sequence.index(unknown[:1]) + 1
                raise InputError(
                    f"protein {name} has {unknown[:1]!r} at residue {position}, which {self.model} has no token for; "
                    f"allowed are {self.letters.decode()} in upper case (write X for an unknown residue)"
                )
