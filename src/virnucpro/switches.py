"""Environment switches: the one place that reads ``VIRNUCPRO_*``, once, while the workflow is parsed.

They override the configuration. Jobs get them as parameters and never look at their own environment.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from virnucpro.errors import ConfigError

PREFIX = "VIRNUCPRO_"
OTHERS = ("VIRNUCPRO_ESM_URL", "VIRNUCPRO_CLASSIFIER_URL", "VIRNUCPRO_TEST_TOKENIZER")
"""Variables of that prefix that aren't switches: where models are fetched from, and the tests'."""

_VALUES = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)


@dataclass(frozen=True)
class Switches:
    """Each field is ``VIRNUCPRO_`` and its name in capitals; None is a switch that isn't set."""

    v1_attention: bool | None = None
    disable_packing: bool | None = None
    disable_fp16: bool | None = None
    compile_model: bool | None = None

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Switches:
        """The switches set in an environment; an empty value is none.

        Raises:
            ConfigError: an unknown ``VIRNUCPRO_`` name, a value that is neither on nor off, a contradiction.
        """
        known = {PREFIX + field.name.upper(): field.name for field in fields(cls)}
        found = {}
        for name, value in environment.items():
            if not name.startswith(PREFIX) or name in OTHERS:
                continue
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
                hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}."
                raise ConfigError(f"Unknown environment switch {name}{hint} Unset it or correct its name.")
            if value:
                if value.lower() not in _VALUES:
                    raise ConfigError(f"Environment switch {name} can't be {value!r}: set it to 1 or 0, or unset it.")
                found[known[name]] = _VALUES[value.lower()]
        switches = cls(**found)
        other = "DISABLE_PACKING" if switches.disable_packing else "COMPILE_MODEL" if switches.compile_model else None
        if switches.v1_attention and other:
            raise ConfigError(
                f"VIRNUCPRO_V1_ATTENTION and VIRNUCPRO_{other} are both on, but the original's way of computing has "
                "its own batches and isn't compiled: unset one of them."
            )
        return switches

    @property
    def batching(self) -> str:
        """How sequences share a forward pass: ``packed``, ``single`` (one each), or as in the ``original``."""
        return "original" if self.v1_attention else "single" if self.disable_packing else "packed"

    @property
    def rna_as_dna(self) -> bool:
        """Whether U is read as T in RNA; the original leaves out codons with U."""
        return not self.v1_attention

    def precision(self, configured: str) -> str:
        """The precision to compute in, given the configuration's."""
        return "fp32" if self.v1_attention or self.disable_fp16 else configured

    def compile(self, configured: bool) -> bool:
        """Whether to compile, given what the configuration says."""
        if self.v1_attention:
            return False
        return configured if self.compile_model is None else self.compile_model

    def as_dict(self) -> dict[str, bool]:
        """Those that are set, by their names in the environment."""
        return {PREFIX + key.upper(): value for key, value in asdict(self).items() if value is not None}
