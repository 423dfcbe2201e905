# Configuration, paths and the functions that the rules ask. Nothing here writes or computes.
import os
import re
import shlex
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

from snakemake import __version__ as SNAKEMAKE
from snakemake.exceptions import InputOpenException, WorkflowError


class UserError(WorkflowError, InputOpenException):
    """What a user can mend. Snakemake prints the message alone, with none of the lines of code that it adds to others.

    Those it takes from the traceback; and what an input function raises it wraps into an error that shows one, but for an
    InputOpenException. That one means a file which storage may have, and so nothing here: asked for it, this raises itself.
    """

    __traceback__ = property(lambda self: None, lambda self, value: None)

    @property
    def iofile(self):
        raise self

    @iofile.setter
    def iofile(self, value):
        pass


@contextmanager
def user_errors():
    """What the library says of a user's mistake, as Snakemake shows it."""
    try:
        yield
    except VirNucProError as error:
        raise UserError(str(error)) from None


# In a clone the library lies beside the workflow.
_library = Path(str(workflow.current_basedir)).parents[1] / "src"
if _library.is_dir():
    sys.path.insert(0, str(_library))

# What the library needs to read the workflow; Snakemake brings the rest, and jobs may have environments of their own.
for _package in ("Bio", "filelock", "h5py", "numpy", "safetensors", "tqdm", "zstandard"):
    if find_spec(_package) is None:
        raise UserError(
            f"The environment that Snakemake runs in has no package {_package}. Install the workflow there (in the clone: "
            "pip install .), or with --sdm conda what reading it needs: biopython, filelock, h5py, numpy, safetensors, "
            "tqdm, zstandard."
        )

from virnucpro import __version__ as VERSION
from virnucpro import installation, planning
from virnucpro.classifier.labels import has_fasta, read_labelled_fasta
from virnucpro.embeddings.key import embedding_key
from virnucpro.encoders.spec import read_spec
from virnucpro.errors import VirNucProError
from virnucpro.io import sha256_file
from virnucpro.gpu import visible_gpus
from virnucpro.models.registry import ROLES
from virnucpro.models.sources import KEYS, find
from virnucpro.outputs import EMBEDDINGS, REPORT, SAMPLE_FILES, TABLES, TARGETS, VIRAL
from virnucpro.outputs import check_clock, identity, refuse_foreign, refuse_inputs, without_future
from virnucpro.paths import check_file
from virnucpro.provenance import RunRecord
from virnucpro.report.run_summary import run_summary
from virnucpro.sequences.split import changed_input, read_manifest
from virnucpro.settings.configfile import check_config_file, read_config
from virnucpro.settings.environment import read_switches
from virnucpro.settings.samples import check_folders, name_samples, read_samples
from virnucpro.settings.validation import resolve

installation.prepare_account(Path(".snakemake/cache").absolute())
_strict = not workflow.modifier.skip_configfile  # else a module, whose configuration the other workflow gives
installation.prepare_environment(alone=_strict)
with user_errors():
    for _file in workflow.config_settings.configfiles if _strict else ():  # Snakemake takes a key that is twice there
        if _file.suffix != ".json":
            read_config(_file)
    _found = _strict and check_config_file("config/config.yaml")

# Without the file (another --directory, or a module) the schema's defaults hold.
if _found:

    configfile: "config/config.yaml"


with user_errors():
    SWITCHES = read_switches(os.environ)
    SETTINGS = resolve(config, SWITCHES)
    # A table of labelled files takes the place of the sample sheet: each of its files is a sample.
    LABELLED = SETTINGS.training_data or (SETTINGS.labels if SETTINGS.labels and has_fasta(SETTINGS.labels) else None)
    if LABELLED and SETTINGS.samples:
        raise VirNucProError(f"Both 'samples' and a table of labelled files ({LABELLED}) are given: give one of them.")
    if LABELLED:
        SAMPLES = name_samples(row.fasta for row in read_labelled_fasta(LABELLED))
    else:
        SAMPLES = read_samples(SETTINGS.samples)
    check_folders(SAMPLES, SETTINGS.output_dir)
    # By role: dna, protein, classifier. Rules and files are named by what the encoder in a role is.
    SOURCES = {role: find(role, getattr(SETTINGS, key), SETTINGS.models_dir) for role, key in KEYS.items()}
OUT = SETTINGS.output_dir
# What the user gave, the sequences apart.
GIVEN = [
    path
    for path in (SETTINGS.samples, LABELLED, SETTINGS.labels, SETTINGS.evaluate_split, SETTINGS.check_published)
    if path
]
GIVEN += [path for source in SOURCES.values() if not source.published for path in source.files]

# Jobs parse the workflow again, on another machine too.
workflow.register_envvars(*SWITCHES)
for _folder in (Path(OUT), *Path(OUT).parents):
    if os.path.exists(_folder) and not os.path.isdir(_folder):
        raise UserError(f"output_dir: {_folder} is a file. Name a folder.")
# Folders, as the shards: what embedding jobs take from them has no rule of its own, so that making a model file anew
# makes no embedding run. (Snakemake doesn't look for changes below a job that will run, also where all that leads there
# is `ancient`; so `ancient` is only for files without a rule.)
vectors_file = temp if SETTINGS.keep == "none" else str  # of an output
PREPARED = {role: f"{OUT}/models/{SOURCES[role].kind}/{SOURCES[role].identifier}" for role in ROLES}
# What is prepared from: the user's own files, or for a published model the record of its digests, which says that it
# is fetched and unchanged; the model itself lies in a folder that runs share, so it is no rule's output.
CHECKPOINTS = {
    role: [f"{OUT}/models/{source.kind}/{source.identifier}.sha256"] if source.published else source.files
    for role, source in SOURCES.items()
}
TO_BE_MADE = [name for name, key in (("training", "training_data"), ("evaluation", "labels")) if getattr(SETTINGS, key)]
with user_errors():
    refuse_inputs(
        OUT,
        SAMPLES,
        [*(path for files in SAMPLES.values() for path in files), *GIVEN],
        [*PREPARED.values(), *(f"{OUT}/{target}/{name}" for target in TO_BE_MADE for name in TARGETS[target])],
    )
MODELS = {role: f"{folder}/model.safetensors" for role, folder in PREPARED.items()}
CLASSIFIER = f"{OUT}/models/classifier/{SOURCES['classifier'].identifier}.safetensors"
# Targets in place of rules whose jobs aren't all planned before the input is split, which `--until` would leave out.
INSTEAD_OF_UNTIL = {
    "embed_dnabert_s": "all_dnabert_s",
    "embed_esm2": "all_esm2",
    "merge": "all_embeddings",
    "predict": " ".join(f"{OUT}/{sample}/contigs.tsv" for sample in [*SAMPLES][:3]) + " …" * (len(SAMPLES) > 3),
}
EMBED_ENVIRONMENT = "../../envs/cpu.yaml" if SETTINGS.device == "cpu" else "../../envs/gpu.yaml"

# A cluster's job is given its own GPUs in this form: they are no limit, and may be 0 where the site counts otherwise.
GPU_LIMIT = None if workflow.remote_exec else getattr(workflow.global_resources.get("gpu"), "value", None)
if GPU_LIMIT == 0 and SETTINGS.device == "cuda":
    raise UserError("The configuration says device: cuda, but --resources gpu=0 leaves no GPU. Drop one of them.")
DEVICE = "cpu" if GPU_LIMIT == 0 else SETTINGS.device

RUN = RunRecord(SETTINGS.as_dict(), SWITCHES, SNAKEMAKE)
# Neither is of Snakemake's plain types, so that batch size, device, compile and cache, which don't change what is
# computed, don't make anything run again; what does change it is in the file's path.
JOB_SETTINGS = replace(SETTINGS, device=DEVICE)


def any_of(names):
    """The pattern of a wildcard that has one of these values."""
    return "|".join(map(re.escape, sorted(set(names))))


wildcard_constraints:
    sample=any_of(SAMPLES),
    key="[^/]+",
    shard="[0-9a-f]+",


def final_output():
    """Everything that a run makes for its samples."""
    names = set(SAMPLE_FILES) - ({EMBEDDINGS} if SETTINGS.keep == "none" else set())
    made = [f"{OUT}/{sample}/{name}" for sample in SAMPLES for name in SAMPLE_FILES if name in names]
    return [*made, f"{OUT}/{REPORT}"] if len(SAMPLES) > 1 else made


def current(paths):
    """Files as inputs of a rule, but those dated in the future: a param, their ``identity``, tells when they change."""
    return without_future(paths, time.time())


def made(path):
    """Whether a rule makes this file, one of another workflow that uses this one as a module."""
    return any(rule.is_producer(str(path)) for rule in workflow.rules)


def fasta_of(wildcards):
    """The FASTA files of a sample; one that nobody makes is an error here, before any job."""
    for path in SAMPLES[wildcards.sample]:
        if os.path.isfile(path) or not made(path):
            with user_errors():
                check_file(path, LABELLED or SETTINGS.samples)
    return current(SAMPLES[wildcards.sample])


def fasta_to_split(wildcards):
    """Input function: the same, and the order to split them if the shards were made from others.

    Snakemake compares an input with its record of the run that read it. Where it has none (the results were moved, or made by
    the command or from another folder) it goes by dates, and overlooks an older file; the manifest knows.
    """
    shards = f"{OUT}/{wildcards.sample}/shards"
    if changed_input(shards, SAMPLES[wildcards.sample]):
        workflow.dag.forcefiles.add(shards)
    return fasta_of(wildcards)


def identity_of_fasta(wildcards):
    """Param function: which files those of a sample are; of those that a rule makes Snakemake knows."""
    return identity(path for path in SAMPLES[wildcards.sample] if path.exists() and not made(path))


def identity_of(paths):
    """Param function: the same for other files; those that aren't there yet are left out."""
    paths = list(paths)
    return lambda wildcards: identity(path for path in paths if os.path.exists(path))


def shards_of(sample):
    """The manifest's entries of the shards of a sample, once it is split."""
    folder = checkpoints.split.get(sample=sample).output[0]
    try:
        return read_manifest(folder)["shards"]
    except VirNucProError as error:
        raise purged(error) from None


def purged(said):
    """The error where files of shard folders are gone, as some scratch file systems remove old ones one by one."""

    def lacks_something(folder):
        try:
            shards = read_manifest(folder)["shards"]
        except VirNucProError:
            return True
        names = {entry.name for entry in os.scandir(folder)}
        return not names.issuperset(f"{shard['sha']}.{role.suffix}" for shard in shards for role in ROLES.values())

    folders = [folder for sample in SAMPLES if os.path.isdir(folder := f"{OUT}/{sample}/shards")]
    remedy = shlex.join(["rm", "-r", *filter(lacks_something, folders)])
    return UserError(f"{said} Vectors that are left are used again. Give this, then the same command again:\n{remedy}")


def embeddings_of(role):
    """Input function: shard embeddings of one encoder, of a sample or, without one, of all; once models fit together.

    With training data there need not be a classifier that fits.
    """

    def files(wildcards):
        for name in workflow.dag_settings.until & INSTEAD_OF_UNTIL.keys():
            raise UserError(
                f"--until {name} would do nothing, or too little: which shards there are is known once the input is split. "
                f"Name a target instead: snakemake {INSTEAD_OF_UNTIL[name]}"
            )
        for each in ROLES:
            checkpoints.prepare_encoder.get(kind=SOURCES[each].kind, identifier=SOURCES[each].identifier)
        if not SETTINGS.training_data:
            checkpoints.prepare_classifier.get()
        try:
            spec = read_spec(MODELS[role])
        except VirNucProError as error:
            raise UserError(f"{error} Then give: rm -r {shlex.quote(PREPARED[role])}") from None
        key = embedding_key(spec, SETTINGS.precision, SETTINGS.batching, SETTINGS.vectors)
        vectors = []
        for sample in [wildcards.sample] if hasattr(wildcards, "sample") else SAMPLES:
            for shard in shards_of(sample):
                vectors.append(f"{OUT}/{sample}/embeddings/{SOURCES[role].kind}/{key}/{shard['sha']}.h5")
                text = f"{OUT}/{sample}/shards/{shard['sha']}.{ROLES[role].suffix}"
                if not os.path.exists(text) and not os.path.exists(vectors[-1]):
                    raise purged(f"{text} is missing, and so are its vectors.")
        return vectors

    return files


def check_digest():
    """SHA-256 of what the target `check` found; None where it wasn't made."""
    found = Path(OUT) / "check" / "check.json"
    return sha256_file(found) if found.is_file() else None


def gpus_per_job():
    """GPUs that an embedding job asks for; where there is none, it computes on the CPU."""
    return 0 if DEVICE == "cpu" else 1


@cache
def gpus_here():
    """GPUs that embedding jobs can have on this machine at the same time."""
    if DEVICE == "cpu":
        return 0
    with user_errors():
        count = len(visible_gpus())
    return count if GPU_LIMIT is None else min(count, GPU_LIMIT)


def cores_here():
    """Cores that jobs of this run share; None where each is given its own by a cluster, also within such a job."""
    return None if workflow.remote_exec else workflow.resource_settings.cores


def threads_beside_embedding(wildcards=None):
    """Cores that embedding jobs on GPUs leave to others; a fixed number on a cluster."""
    return planning.threads_beside_embedding(cores_here())


def threads_per_embedding(wildcards):
    """The other cores divided by GPUs, so that embedding jobs run side by side; a fixed number on a cluster."""
    return planning.threads_per_embedding(cores_here(), gpus_here() if cores_here() else 0)


def role_of(wildcards):
    """The role of the model that a job fetches or prepares."""
    wanted = (wildcards.kind, wildcards.identifier)
    return next(role for role, source in SOURCES.items() if (source.kind, source.identifier) == wanted)


def how_to_find(wildcards):
    """Param function: the arguments of ``models.sources.find``."""
    role = role_of(wildcards)
    return {"role": role, "name": SOURCES[role].name, "models_dir": str(SOURCES[role].path.parent)}


def identity_of_model(role):
    """Which files a checkpoint of the user's is; a published one has a record of its digests."""
    return identity(() if SOURCES[role].published else SOURCES[role].files)


def preparing_memory(role):
    """Memory request."""
    return planning.preparing_memory(SOURCES[role].megabytes)


def embedding_memory(role):
    """Memory request; more at each attempt."""

    def mem_mb(wildcards, attempt):
        size = SOURCES[role].megabytes
        return attempt * planning.embedding_memory(size, SETTINGS.shard_frames, ROLES[role].bytes_per_frame)

    return mem_mb


def embedding_minutes(role):
    """Time request in minutes; more at each attempt."""

    def runtime(wildcards, attempt):
        size = SOURCES[role].megabytes
        return attempt * planning.embedding_minutes(size, SETTINGS.shard_frames, gpu=gpus_per_job() > 0)

    return runtime


def table_or_error(key):
    """Input function: the table that a configuration key names; an error where the key isn't set."""

    def file(wildcards):
        if getattr(SETTINGS, key) is None:
            raise UserError(
                f"This target needs the configuration key '{key}': --config {key}=TABLE. See docs/training.md."
            )
        return current([getattr(SETTINGS, key)])

    return file


def require_writable(folder, name, remedy):
    """Make a folder; returns what its file system's clock says. A UserError, if it can't be written to."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError as error:
        raise UserError(f"{name}: {Path(folder).absolute()} can't be written to ({error.strerror}). {remedy}") from None


def before_the_first_job():
    """The output folder can be written to, holds nobody else's files, and its clock is right.

    Not asked while the workflow is parsed, for a finished run can be read-only.
    """
    clock = require_writable(OUT, "output_dir", "Name another folder.")
    with user_errors():
        refuse_foreign(OUT, SAMPLES, TO_BE_MADE)
        check_clock(OUT, clock, [*(path for files in SAMPLES.values() for path in files), *GIVEN], time.time())


if workflow.is_main_process:
    require_writable(
        ".snakemake",
        "Working directory",
        "Mend that, or name another with --directory: a run keeps its own records there.",
    )
