"""Every option of the workflow, once; schema, defaults, manual, command line and what jobs get are made from it.

After a change, `python -m virnucpro.settings` writes the files of the repository that state options anew.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from functools import cache, partial
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from virnucpro.errors import ConfigError
from virnucpro.settings.presets import DEFAULT_MODELS_DIR, PRESETS

TITLE = "VirNucPro configuration"


def option(
    section: str, default: Any, description: str, more: str = "", *, command: bool = False, **limits: Any
) -> Any:
    """A field of ``Settings``.

    Args:
        section: of the manual.
        default: None is for an option that may be null in a file, also where resolving fills it in.
        description: what it is for, with `code` as in Markdown; for the schema, the command's help and the manual.
        more: what only the manual says.
        command: whether it is an option of the commands that start the workflow, too.
        limits: JSON schema's keywords; ``format`` is ``path``, or ``model`` for a model's name or path.
    """
    facts = {"section": section, "description": description, "more": more, "command": command, "limits": limits}
    return field(**({"default_factory": dict} if default == {} else {"default": default}), metadata=facts)


_model = partial(option, "With which models", command=True)
_input = partial(option, "What to predict")
_compute = partial(option, "How to compute", command=True)
_gpu = partial(option, "How to compute")
_train = partial(option, "Training and evaluating")
_check = partial(option, "Checking")


@dataclass(frozen=True)
class TrainOptions:
    """How to train. The defaults are those of the original's ``train.py``, class balance apart (it had none)."""

    # fmt: off
    hidden: int = _train(512, "Width of the hidden layer.", minimum=1)
    dropout: float = _train(0.5, "Share of the hidden layer that is left out in training.", minimum=0, maximum=0.99)
    optimiser: str = _train(
        "sgd", "With momentum 0.9; for `adam`, `learning_rate: 1e-3` and `batch_size: 512` do well.",
        enum=["sgd", "adam"])
    learning_rate: float = _train(2e-4, "Falls to its 0.85-fold every 10 epochs.", exclusiveMinimum=0)
    weight_decay: float = _train(0.0, "L2 penalty.", minimum=0)
    batch_size: int = _train(32, "Frames per step; BatchNorm compares them.", minimum=2)
    epochs: int = _train(200, "At most.", minimum=1)
    patience: int = _train(5, "Epochs without a better validation loss that end the training.", minimum=1)
    balance: str = _train(
        "weights", "`sampling` draws equally many frames of both classes each epoch; `weights` gives both classes "
        "equal weight in the loss; `categories` also each category within its class; `groups` also each genome within its "
        "category; `none` takes frames as they come.",
        enum=["sampling", "weights", "categories", "groups", "none"])
    label_smoothing: float = _train(
        0.0, "Share of a frame's label that is spread over both classes in the training loss.", minimum=0,
        exclusiveMaximum=1)
    standardise: bool = _train(False, "Columns to mean 0, deviation 1 over the training part; kept in the file.")
    validation: float = _train(0.1, "Share of the genomes for early stopping and calibration.", minimum=0, maximum=0.9)
    test: float = _train(0.1, "Share of the genomes that is measured at the end.", minimum=0, maximum=0.9)
    seed: int = _train(0, "Of the split, the weights and the order.")
    half: bool = _train(False, "Store matrices as float16.")
    # fmt: on
    device: str = "cpu"

    def __post_init__(self) -> None:
        for each in options(TrainOptions):
            value, limits = getattr(self, each.name), each.metadata["limits"]
            if value not in (known := limits.get("enum", [value])):
                raise ConfigError(f"{each.name} can't be {value!r}; choose one of {', '.join(known)}.")
        if self.batch_size < 2:
            raise ConfigError("batch_size must be at least 2, since BatchNorm compares the rows of a batch.")


@dataclass(frozen=True)
class Settings:
    """The options with their values: the defaults, or with ``validation.resolve`` those of a run, validated.

    Only ``precision``, ``batching`` and ``vectors`` change what a vector is, and so the name it is kept under.
    """

    # fmt: off
    preset: str = _model(
        "mini-500", "Named set of models and chunk length; it fills whichever of the next four keys are null.",
        "The first two are bundled, the others published.", enum=[*PRESETS])
    chunk_length: int = _model(
        None, "Chunk length in bases; the length that the classifier was trained on.", minimum=30, maximum=100_000)
    dnabert_model: str = _model(
        None, "DNA encoder with the DNABERT-S architecture. A bundled name (`mini-dnabert-s`), a published name "
        "(`DNABERT-S`) or a path.",
        "A Hugging Face id is fine; a path is that of a DNABERT folder (weights, `config.json`, `tokenizer.json`) or "
        "of a prepared file.", format="model")
    esm_model: str = _model(
        None, "Protein encoder, ESM-2 or ESM C. A bundled name (`mini-esm2`), a published name or size (`8M`, `35M`, "
        "`150M`, `650M`, `3B`, `15B`, `esm2_t33_650M_UR50D`, `ESMC-300M`) or a path.",
        "A Hugging Face id is fine; a path is that of a fair-esm `.pt`, a Hugging Face folder or a prepared file.",
        format="model")
    classifier: str = _model(
        None, "Classifier over both vectors. A bundled name (`mini-500`, `mini-300`), a published name "
        "(`virnucpro-500`, `virnucpro-300`) or a path.",
        "A path is that of a classifier file, or of the original's `.pth`.", format="model")
    models_dir: str = _model(
        None, f"Folder of the published models, which are fetched to it. Null means `{DEFAULT_MODELS_DIR}`.",
        "See [docs/models.md](../docs/models.md).", format="path")

    samples: str | None = _input(
        None, "Tab-separated table with the columns `sample` and `fasta`, a row per file or pattern (several may share "
        "a sample). Relative paths start at the table's folder. Null means the bundled example.",
        "A pattern (`reads/*.fq.gz`) stands for its files. Record ids must be unique in a sample. Files are FASTA or "
        "FASTQ, plain or compressed with gzip, bgzip or zstd. [docs/inputs.md](../docs/inputs.md) says which tables "
        "are read.", format="path")
    output_dir: str = _input("results", "Folder for results, intermediates and logs.", format="path")
    empty_records: str = _input(
        "error", "What to do with a record without sequence; stop with an error, or skip it with a counted warning.",
        enum=["error", "skip"], command=True)
    partial_frames: str = _input(
        "auto", "Whether a chunk without a stop-free frame is scored by its longest stretch without a stop. `auto` follows "
        "the classifier's file.",
        "The bundled classifiers were validated for them, the published ones weren't: with those, scores of such chunks "
        "are marked. A classifier that is trained gets them among its data, unless it is `false`. A stretch has at least 60 "
        "bases.", enum=["auto", "true", "false"], command=True)
    calls: str = _input(
        "balanced", "Which contigs are called viral; at most 1, 5 or 10 % of the non-viral ones of the classifier's development "
        "data (`strict`, `balanced`, `sensitive`).",
        "Below the logit that 99 % of the viral ones reach a contig is non-viral; what lies between is `ambiguous`. For a "
        "classifier that isn't calibrated `threshold` decides. None of these options computes a vector again. See docs/accuracy.md.",
        enum=["strict", "balanced", "sensitive"], command=True)
    fdr: float | None = _input(
        None, "If set, a viral contig must have a q-value of at most this, too; others are `ambiguous`.",
        "With 0 nothing is called viral.", minimum=0, maximum=1, command=True)
    prior: float = _input(
        0.2, "Share of viral sequences that probabilities assume.", exclusiveMinimum=0, exclusiveMaximum=1, command=True)
    min_length: int = _input(0, "Shorter contigs are unscored, in bases.", minimum=0, command=True)
    min_chunks: int = _input(1, "Contigs with fewer scored chunks are unscored.", minimum=1, command=True)
    controls: int = _input(
        0, "How many contigs of each sample are shuffled and scored beside it, to see how many are called viral; each with its codons "
        "and with its dinucleotides kept. 0: none.",
        "They are chosen at random, equal ones for equal input. The report and `controls.tsv` have the shares. See "
        "[docs/controls.md](../docs/controls.md).", minimum=0, command=True)
    control_fasta: str | None = _input(
        None, "FASTA or FASTQ file with sequences of your own that are known not to be viral, such as pieces of the host's genome; they "
        "are scored once, beside the samples.", "No id may be in a sample, too.", format="path", command=True)
    threshold: float | None = _input(
        None, "Score from which a chunk or contig is called viral, in place of `calls`.",
        "From 0 to 1; contigs by the mean score of their scored chunks. Without it 0.5 is the threshold of frames, and of "
        "all else with a classifier that isn't calibrated.", minimum=0, maximum=1, command=True)
    regions: bool = _input(
        True, "Whether the viral parts of contigs are looked for.",
        "They are in `regions.tsv`, `regions.gff3`, `regions.bed` and `viral_regions.fasta.gz`; reads have none. No vector is "
        "computed for them.", command=True)

    precision: str = _compute(
        "auto", "Arithmetic of the encoders. `auto` is fp16 on a GPU; on a CPU bf16 if it multiplies bf16 numbers, else fp32.",
        "A CPU has `fp32`, and with AVX512-BF16 or AMX `bf16`, for products, attention and GELU (the layers' sum, LayerNorm "
        "and means stay fp32); it takes `fp32` for `auto` with `compile`. The others need a GPU. `int8` is for ESM-2's "
        "products: compute capability 8.0 or later, checked against half precision at the start of each job; see "
        "docs/performance.md.",
        enum=["auto", "fp32", "fp16", "bf16", "tf32", "int8"])
    compile: bool = _compute(
        False, "Compile each encoder block with `torch.compile`. Pays only for long runs; needs a C++ compiler on a "
        "CPU.")
    attention: str = _compute(
        "auto", "Attention backend. `auto` picks the best one that the device supports.",
        "One that can't run is an error.", enum=["auto", "triton", "flash-attn", "sdpa"])
    batching: str = _compute(
        "packed", "How sequences share a forward pass. `packed` is the fast way, `single` takes one each, `original` "
        "computes as the original did.",
        "`single`: no vector depends on its neighbours, not in the last bit either. `original`: fp32; ESM-2 in padded "
        "batches of 2,048 tokens with fair-esm's attention formula; DNABERT-S one sequence a call; U not read as T in "
        "RNA; `precision`, `attention`, `tokens_per_batch` and `compile` play no part. Both are slow, and their "
        "vectors are kept apart from the others (their folder's name ends in `-single`, `-original`).",
        enum=["packed", "single", "original"], command=False)
    tokens_per_batch: int | str = _compute(
        "auto", "Tokens in one forward pass, or auto.",
        "`auto` on a GPU is what its free memory allows, measured, up to 32,768 (DNABERT-S 65,536).",
        minimum=16, pattern="^auto$")
    vectors: str = _compute(
        "float32", "How vectors are stored. `float16` takes half the space.",
        "`float16` changes scores by less than 1e-3, which the target `check` measures; a vector with values that it "
        "can't hold is an error. Such vectors are kept apart from the others (their folder's name ends in `-float16`).",
        enum=["float32", "float16"])
    keep: str = _compute(
        "shards", "Which vectors stay when a sample's tables are made. `shards`: those of the shards, which "
        "`embeddings.h5` refers to; `merged`: a copy in each sample's `embeddings.h5` instead; `none`: none.",
        "With `none` the same input needs no job, but a new classifier computes all vectors again. See "
        "[docs/outputs.md](../docs/outputs.md#what-may-be-deleted).", enum=["shards", "merged", "none"])
    shard_frames: int = _compute(
        100_000, "Largest number of frames in a shard, the unit of work that a kill can lose.",
        "Changing it splits anew.", minimum=1)
    device: str = _compute(
        "auto", "Where the encoders run. `auto` takes a GPU where there is one.",
        "`cuda` insists on a GPU.", enum=["auto", "cpu", "cuda"])
    cache_dir: str | None = _compute(
        None, "Optional folder that keeps embeddings across runs, samples and users. Null means none.",
        "`virnucpro cache list` and `prune` look after it.", format="path")
    gpu_lease: bool = _gpu(
        True, "Whether each embedding job has a GPU of its own. False where jobs may share one, as with MPS.",
        "See [docs/gpus.md](../docs/gpus.md).")
    gpu_lease_timeout: float = _gpu(
        1440, "Minutes that a job waits for a free GPU before it fails.",
        "The error names who holds them.", minimum=0)
    gpu_lease_dir: str = _gpu(
        "/tmp/virnucpro-gpu", "Folder for the lock files of the GPUs; of this machine alone, and the same for all its "
        "users.", format="path")

    training_data: str | None = _train(
        None, "For the target train. Tab-separated table with the columns `fasta` and `label` (`viral` or `non-viral`, "
        "`1` or `0`), and if wanted `group` and `category`; each file is a sample.",
        "A `group` is the genome that a file's records belong to; `@header` reads `group=NAME` from each header; "
        "otherwise each record is a genome. Samples are named after their files.", format="path")
    training: dict[str, Any] = _train(  # noqa: RUF009
        {}, "For the target train. How to train; keys that aren't given keep the original's values.",
        "The keys are in the table below.")
    labels: str | None = _train(
        None, "For the targets evaluate and calibrate. Tab-separated table with the columns `fasta` and `label` (as training_data), "
        "or `id` and `label` for the records of the samples; `category` and `group` if wanted.", format="path")
    evaluate_split: str | None = _train(
        None, "For the targets evaluate and calibrate. The `split.tsv` of a training; only the records of its test part are measured.",
        format="path")
    contrasts: dict[str, list[str]] = _train(  # noqa: RUF009
        {}, "For the target evaluate. Name: list of categories that are measured apart from the others.",
        additionalProperties={"type": "array", "items": {"type": "string"}, "minItems": 1})

    check_frames: int = _check(
        200, "For the target check. How many frames of the samples are compared, partial ones included.", minimum=1)
    check_published: str | None = _check(
        None, "For the target check. Vectors that were published (`.npz`, with their sequences beside it) to compare "
        "with as well.", format="path")
    # fmt: on

    @property
    def rna_as_dna(self) -> bool:
        """Whether U is read as T in RNA; the original leaves out codons with U."""
        return self.batching != "original"

    def as_dict(self) -> dict[str, Any]:
        """Plain mapping, for YAML and JSON."""
        return asdict(self)


def options(of: type = Settings) -> list[Field]:
    """The fields that a user can set."""
    return [each for each in fields(of) if each.metadata]


def default(of: Field) -> Any:
    """An option's default, as a file would give it."""
    return of.default if of.default_factory is MISSING else of.default_factory()


def defaults() -> dict[str, Any]:
    """Every key with its default."""
    return {each.name: default(each) for each in options()}


def path_keys() -> list[str]:
    """The keys that take a path; those that take a model's name or its path are in ``models.KEYS``."""
    return [each.name for each in options() if each.metadata["limits"].get("format") == "path"]


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of a configuration file."""
    properties = _properties(Settings)
    for each in options():
        properties[each.name]["default"] = default(each)
    closed = {"type": "object", "additionalProperties": False}
    properties["training"] |= closed | {"properties": _properties(TrainOptions)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": TITLE,
        "description": "Every key of the workflow, with its default. Keys not listed here are errors.",
        **closed,
        "properties": properties,
    }


_KINDS = {int: "integer", float: "number", bool: "boolean", str: "string", dict: "object", type(None): "null"}


def _properties(of: type) -> dict[str, dict[str, Any]]:
    """Options in JSON schema's words."""
    hints, found = get_type_hints(of), {}
    for each in options(of):
        hint, limits = hints[each.name], each.metadata["limits"]
        alternatives = get_args(hint) if isinstance(hint, UnionType) else [hint]
        kinds = [_KINDS[get_origin(kind) or kind] for kind in alternatives]
        if default(each) is None and "null" not in kinds:  # resolving fills it in
            kinds.append("null")
        found[each.name] = {"description": each.metadata["description"].replace("`", "")}
        if "enum" not in limits:
            found[each.name]["type"] = kinds if len(kinds) > 1 else kinds[0]
        found[each.name] |= limits
    return found
