# Configuration, paths and the functions that the rules ask. Nothing here writes or computes.
import os
import re
import shlex
import sys
import time
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

from snakemake import __version__ as SNAKEMAKE
from snakemake.exceptions import InputOpenException, WorkflowError
from snakemake.logging import logger


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
from virnucpro.errors import InputError, VirNucProError
from virnucpro.gpu import visible_gpus
from virnucpro.models.registry import ROLES
from virnucpro.models.sources import KEYS, find
from virnucpro.outputs import EMBEDDINGS, REPORT, SAMPLE_FILES, TABLES, TARGETS, VIRAL
from virnucpro.outputs import check_clock, identity, refuse_foreign, refuse_inputs, without_future
from virnucpro.paths import check_file
from virnucpro.provenance import RunRecord
from virnucpro.report.run_summary import run_summary
from virnucpro.sequences.split import changed_inputs, read_manifest, read_sample, refusals
from virnucpro.sequences.units import units_of
from virnucpro.settings.configfile import check_config_file
from virnucpro.settings.environment import read_switches
from virnucpro.settings.samples import check_folders, name_samples, read_samples
from virnucpro.settings.validation import resolve

# Else another workflow uses this one as a module, gives its configuration, and may make the sequences.
MAIN = Path(workflow.basedir).resolve() == Path(str(workflow.current_basedir)).resolve().parent

installation.prepare_account(Path(".snakemake/cache").absolute())
installation.prepare_environment(alone=MAIN)
with user_errors():
    _found = MAIN and check_config_file("config/config.yaml")

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
# What doesn't change a result (device, batch size, cache, versions) reaches jobs here, and not as a param.
config["run"] = {"configuration": SETTINGS.as_dict(), "switches": SWITCHES, "snakemake": SNAKEMAKE}
# What the user gave, the sequences apart.
GIVEN = [
    path
    for path in (SETTINGS.samples, LABELLED, SETTINGS.labels, SETTINGS.evaluate_split, SETTINGS.check_published)
    if path
]
GIVEN += [path for source in SOURCES.values() if not source.published for path in source.files]

# A sample with a file that another rule is yet to make is split alone. Jobs, which read the workflow again, on another machine and
# when the file is there, are told.
UNMADE = "VIRNUCPRO_UNMADE_SAMPLES"
_unmade = {sample for sample, files in SAMPLES.items() if not all(map(os.path.exists, files))}
os.environ[UNMADE] = " ".join(sorted(_unmade.union(os.environ.get(UNMADE, "").split())))
# What is split together: a large sample, or several small ones.
UNITS = units_of(SAMPLES, SETTINGS.chunk_length, SETTINGS.shard_frames, os.environ[UNMADE].split())
UNIT_OF = {sample: unit for unit, samples in UNITS.items() for sample in samples}


envvars:
    UNMADE,
    *SWITCHES,


for _folder in (Path(OUT), *Path(OUT).parents):
    if os.path.exists(_folder) and not os.path.isdir(_folder):
        raise UserError(f"output_dir: {_folder} is a file. Name a folder.")
# Folders, as the shards: what embedding jobs take from them has no rule of its own, so that making a model file anew
# makes no embedding run. (Snakemake doesn't look for changes below a job that will run, also where all that leads there
# is `ancient`; so `ancient` is only for files without a rule.)
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
# What the target `check` found, for the report; None where it wasn't made.
CHECKED = Path(OUT, "check", "check.json").read_text() if Path(OUT, "check", "check.json").is_file() else None
EMBED_ENVIRONMENT = "../../envs/cpu.yaml" if SETTINGS.device == "cpu" else "../../envs/gpu.yaml"


def any_of(names):
    """The pattern of a wildcard that has one of these values."""
    return "|".join(map(re.escape, sorted(set(names))))


wildcard_constraints:
    unit="pooled/[^/]+|[^/]+",
    sample="[^/]+",
    key="[^/]+",
    shard="[0-9a-f]+",


def kept(path, *when):
    """An output that stays after the run if the configuration's ``keep`` is one of these, and else goes once it was used."""
    return path if SETTINGS.keep in when else temp(path)


def final_output():
    """Everything that a run makes for its samples."""
    names = [name for name in SAMPLE_FILES if name != EMBEDDINGS or SETTINGS.keep != "none"]
    made = [f"{OUT}/{sample}/{name}" for sample in SAMPLES for name in names]
    return [*made, f"{OUT}/{REPORT}"] if len(SAMPLES) > 1 else made


def current(paths):
    """Files as inputs of a rule, but those dated in the future: a param, their ``identity``, tells when they change."""
    return without_future(paths, time.time())


def unit_of(wildcards):
    """The unit that a sample is split in."""
    if wildcards.sample not in UNIT_OF:
        raise UserError(f"{OUT}/{wildcards.sample}: there is no sample '{wildcards.sample}'.")
    return UNIT_OF[wildcards.sample]


def samples_of(wildcards):
    """The samples of a job: a unit's, or the one."""
    if not hasattr(wildcards, "unit"):
        unit_of(wildcards)
        return [wildcards.sample]
    if wildcards.unit not in UNITS:
        raise UserError(f"{OUT}/{wildcards.unit}/shards: no sample is split there.")
    return UNITS[wildcards.unit]


def fastas_of(wildcards):
    """Param function: sample → its FASTA files, as text."""
    return {sample: [str(path) for path in SAMPLES[sample]] for sample in samples_of(wildcards)}


def fasta_of(wildcards):
    """Input function: the FASTA files of a job's samples; one that isn't there is an error, unless another workflow makes it."""
    paths = [path for sample in samples_of(wildcards) for path in SAMPLES[sample]]
    for path in paths if MAIN else ():
        with user_errors():
            check_file(path, LABELLED or SETTINGS.samples)
    return current(paths)


def identity_of(paths):
    """Param function: which files these are; those that aren't there yet are left out."""
    paths = list(paths)
    return lambda wildcards: identity(path for path in paths if os.path.exists(path))


def identity_of_fasta(wildcards):
    """Param function: the same of a job's FASTA files, except in a module: Snakemake knows those that a rule makes."""
    paths = (path for sample in samples_of(wildcards) for path in SAMPLES[sample])
    return identity(filter(os.path.exists, paths)) if MAIN else []


def shards_of(unit):
    """The names of a unit's shards, once it is split."""
    folder = checkpoints.split.get(unit=unit).output[0]
    try:
        return [shard["sha"] for shard in read_manifest(folder)["shards"]]
    except VirNucProError as error:
        raise purged(error) from None


def shards_of_sample(sample):
    """The names of the shards that hold a sample's frames, once it is split; none if it was refused."""
    folder = checkpoints.split.get(unit=UNIT_OF[sample]).output[0]
    try:
        return [piece["sha"] for piece in read_sample(folder, sample)["pieces"]]
    except InputError:  # `merge` says it
        return []
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

    folders = [folder for unit in UNITS if os.path.isdir(folder := f"{OUT}/{unit}/shards")]
    remedy = shlex.join(["rm", "-r", *filter(lacks_something, folders)])
    return UserError(f"{said} Vectors that are left are used again. Give this, then the same command again:\n{remedy}")


UNIT_OF_SHARD = {}  # filled by `vectors_of`; a cluster's job looks


def text_of(role):
    """Input function: the FASTA of a shard in an encoder's letters, of whichever unit has that shard."""

    def file(wildcards):
        units = [UNIT_OF_SHARD.get(wildcards.shard, ""), *UNITS]
        paths = (f"{OUT}/{unit}/shards/{wildcards.shard}.{ROLES[role].suffix}" for unit in units)
        if (found := next(filter(os.path.exists, paths), None)) is None:
            raise UserError(f"{OUT}: no sample has a shard {wildcards.shard}.")
        return found

    return file


def vectors_of(role):
    """Input function: shard vectors of one encoder, of a sample or, without one, of all; once models fit together.

    With training data there need not be a classifier that fits.
    """

    def files(wildcards):
        for each in ROLES:
            checkpoints.prepare_encoder.get(kind=SOURCES[each].kind, identifier=SOURCES[each].identifier)
        if not SETTINGS.training_data:
            checkpoints.prepare_classifier.get()
        try:
            spec = read_spec(MODELS[role])
        except VirNucProError as error:
            raise UserError(f"{error} Then give: rm -r {shlex.quote(PREPARED[role])}") from None
        folder = f"{SOURCES[role].kind}/{embedding_key(spec, SETTINGS.precision, SETTINGS.batching, SETTINGS.vectors)}"
        vectors = []
        for unit in [unit_of(wildcards)] if hasattr(wildcards, "sample") else UNITS:
            shards = shards_of_sample(wildcards.sample) if hasattr(wildcards, "sample") else shards_of(unit)
            for shard in shards:
                UNIT_OF_SHARD.setdefault(shard, unit)
                # Version 0.1 kept them with the sample.
                places = [f"{place}/embeddings/{folder}/{shard}.h5" for place in (OUT, f"{OUT}/{unit}")]
                vectors.append(next(filter(os.path.exists, places), places[0]))
                text = f"{OUT}/{unit}/shards/{shard}.{ROLES[role].suffix}"
                if not os.path.exists(text) and not os.path.exists(vectors[-1]):
                    raise purged(f"{text} is missing, and so are its vectors.")
        return list(dict.fromkeys(vectors))

    return files


def gpus_per_job():
    """GPUs that an embedding job asks for. ``--resources gpu=0`` makes it 0, and the job compute on the CPU."""
    return 0 if SETTINGS.device == "cpu" else 1


@cache
def gpus_here():
    """GPUs that this machine has for embedding jobs."""
    with user_errors():
        return 0 if SETTINGS.device == "cpu" else len(visible_gpus())


def cores_here():
    """Cores that jobs of this run share; None where a cluster gives each its own."""
    try:
        return workflow.cores
    except WorkflowError:
        return None


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


# Snakemake compares an input with its record of the run that read it. Where it has none (results that were moved, or made by the
# command) it goes by dates, and overlooks an older file; what was split says which files those were.
if MAIN:
    for _unit, _samples in UNITS.items():
        _folder = f"{OUT}/{_unit}/shards"
        for _sample in changed_inputs(_folder, {sample: SAMPLES[sample] for sample in _samples}):
            logger.warning(
                f"Sample {_sample}: its input isn't what was split before. If the jobs below don't include `split`, add: "
                f"--forcerun {shlex.quote(_folder)}"
            )

if not os.access(".snakemake" if os.path.isdir(".snakemake") else ".", os.W_OK):
    raise UserError(
        f"Working directory: {os.getcwd()} can't be written to. Mend that, or name another with --directory: a run keeps its "
        "own records there."
    )
