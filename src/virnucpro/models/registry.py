"""The architectures of encoders, one entry each, and the published models. Needs no PyTorch.

Rules, tables, report, command line, benchmark, check and cache ask here. Another architecture takes an entry in
``ARCHITECTURES`` and a module in ``virnucpro.encoders`` with its PyTorch code, its tokenizer and its converter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Role:
    """What an encoder reads; a run has one encoder for each."""

    name: str
    key: str  # of the configuration, which chooses the model
    suffix: str  # of a shard's FASTA files
    unit: str  # what a sequence's letters are called
    letters_per_frame: int  # of a chunk of 500 bases
    tokens_per_frame: int  # about
    bytes_per_frame: int  # of memory for a frame's text and vector, with room to spare
    composition: Mapping[str, float]  # letters of natural sequences, in any unit


AMINO_ACIDS = {  # per thousand residues in UniProtKB/Swiss-Prot
    "L": 97, "A": 83, "G": 71, "V": 69, "E": 67, "S": 66, "I": 59, "K": 58, "R": 55, "D": 55,
    "T": 54, "P": 47, "N": 41, "Q": 39, "F": 39, "Y": 29, "M": 24, "H": 23, "C": 14, "W": 11,
}  # fmt: skip
DNA = Role("dna", "dnabert_model", "fna", "bases", 500, 110, 6_000, dict.fromkeys("ACGT", 1))
PROTEIN = Role("protein", "esm_model", "faa", "residues", 166, 168, 16_000, AMINO_ACIDS)
ROLES = {role.name: role for role in (DNA, PROTEIN)}


class Publisher(NamedTuple):
    """Where single files are fetched from."""

    variable: str  # of the environment, which names a mirror
    url: str


class Published(NamedTuple):
    """A model that can be fetched: as a Hugging Face repository, or else as a single file from its publisher."""

    places: tuple[str, ...]  # what it may be called in the models folder, what is fetched first
    repository: str | None = None
    megabytes: int = 0  # of the download, about; memory is asked for by it before the files are there
    publisher: Publisher | None = None


class Shape(NamedTuple):
    """What makes an encoder large."""

    layers: int
    width: int
    heads: int
    ffn: int


@dataclass(frozen=True)
class Architecture:
    """An encoder's architecture, and what others need to know of it."""

    name: str  # in names of files and rules, and in HDF5 attributes
    role: Role
    title: str  # in prose
    module: str  # with its PyTorch code
    encoder: str  # the class there, an ``encoders.encoder.Encoder``
    model_types: tuple[str, ...]  # what config.json of a Hugging Face folder calls it
    shapes: Mapping[str, Shape]  # published sizes, by a name that its models' names contain
    published: Mapping[str, Published] = field(default_factory=dict)  # by the names that users may give
    bundled: tuple[str, ...] = ()
    citation: str | None = None  # key in report/references.json
    max_tokens: int = 32768  # of a packed batch on a GPU, as auto: more are no faster
    alibi: bool = False  # attention with ALiBi's bias, which a backend must know
    cuda_graphs: bool = False  # many short kernels: launched one by one they come too slowly
    int8: bool = False  # ``encoders.int8`` knows its blocks

    def shape_of(self, name: str) -> Shape | None:
        """The shape that a published model's name tells, if it does."""
        words = re.split(r"_|--|\.pt$", name)
        return next((shape for size, shape in self.shapes.items() if size in words), None)


_FAIR_ESM = Publisher("VIRNUCPRO_ESM_URL", "https://dl.fbaipublicfiles.com/fair-esm/models")
_ESM2 = {
    "8M": ("esm2_t6_8M_UR50D", 30, Shape(6, 320, 20, 1280)),
    "35M": ("esm2_t12_35M_UR50D", 130, Shape(12, 480, 20, 1920)),
    "150M": ("esm2_t30_150M_UR50D", 590, Shape(30, 640, 20, 2560)),
    "650M": ("esm2_t33_650M_UR50D", 2600, Shape(33, 1280, 20, 5120)),
    "3B": ("esm2_t36_3B_UR50D", 5700, Shape(36, 2560, 40, 10240)),
    "15B": ("esm2_t48_15B_UR50D", 30300, Shape(48, 5120, 40, 20480)),
}
"""Size → name, megabytes of fair-esm's file (the largest two are in fp16), shape."""
_DNABERT_S = "zhihan1996/DNABERT-S"

ESM2 = Architecture(
    name="esm2",
    role=PROTEIN,
    title="ESM-2",
    module="virnucpro.encoders.esm2",
    encoder="ESM2",
    model_types=("esm",),
    shapes={size: shape for size, (_, _, shape) in _ESM2.items()},
    published={
        alias: Published((f"{name}.pt", name), None, megabytes, _FAIR_ESM)
        for size, (name, megabytes, _) in _ESM2.items()
        for alias in (size, name)
    }
    | {
        f"facebook/{name}": Published((name, f"{name}.pt"), f"facebook/{name}", megabytes)
        for name, megabytes, _ in _ESM2.values()
    },
    bundled=("mini-esm2",),
    citation="esm2",
    int8=True,
)
DNABERT_S = Architecture(
    name="dnabert_s",
    role=DNA,
    title="DNABERT-S",
    module="virnucpro.encoders.dnabert",
    encoder="DNABERT",
    model_types=("bert",),
    shapes={"DNABERT-S": Shape(12, 768, 12, 3072)},
    published={alias: Published(("DNABERT-S",), _DNABERT_S, 470) for alias in ("DNABERT-S", _DNABERT_S)},
    bundled=("mini-dnabert-s",),
    citation="dnabert_s",
    max_tokens=65536,
    alibi=True,
    cuda_graphs=True,
)
ESMC = Architecture(
    name="esmc",
    role=PROTEIN,
    title="ESM C",
    module="virnucpro.encoders.esmc",
    encoder="ESMC",
    model_types=("esmc",),
    shapes={
        "ESMC-300M": Shape(30, 960, 15, 2560),
        "ESMC-600M": Shape(36, 1152, 18, 3072),
        "ESMC-6B": Shape(80, 2560, 40, 6912),
    },
    published={  # as transformers' documentation names them; megabytes as in fp32
        alias: Published((f"biohub--{name}",), f"biohub/{name}", megabytes)
        for name, megabytes in (("ESMC-300M", 1330), ("ESMC-6B", 25400))
        for alias in (name, f"biohub/{name}")
    },
)
ARCHITECTURES = {each.name: each for each in (DNABERT_S, ESM2, ESMC)}
"""By name; a role's first one is taken where nothing tells which it is."""

CLASSIFIER = "classifier"
"""Stands beside the roles wherever a run's models are counted."""
_CLASSIFIERS = Publisher("VIRNUCPRO_CLASSIFIER_URL", "https://github.com/Li-Jing-1997/VirNucPro/raw/HEAD")
CLASSIFIERS = {
    f"virnucpro-{length}": Published((f"{length}_model.pth",), None, 7, _CLASSIFIERS) for length in (500, 300)
}
"""Published classifiers by name."""
BUNDLED_CLASSIFIERS = ("mini-500", "mini-300")


def architectures(role: str) -> list[Architecture]:
    """Those of a role, the default one first."""
    return [each for each in ARCHITECTURES.values() if each.role.name == role]
