# Configuration, paths and the functions that the rules ask. Nothing here writes or computes.
import logging
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
from virnucpro.classifier.spec import scores_partial, spec_or_none
from virnucpro.embeddings.key import embedding_key
from virnucpro.embeddings.run_progress import RunProgress
from virnucpro.encoders.spec import read_spec
from virnucpro.errors import InputError, VirNucProError
from virnucpro.gpu import gpus_to_use
from virnucpro.logging import QUIET
from virnucpro.models.ahead import about_to_run, record_of_digests
from virnucpro.models.registry import ROLES
from virnucpro.models.sources import KEYS, find
from virnucpro.outputs import CONTROL_SETS, CONTROLS, EMBEDDINGS, GIVEN_CONTROLS, REGIONS, REPORT, SAMPLE_FILES
from virnucpro.outputs import TABLES, TARGETS, VIRAL
from virnucpro.outputs import check_clock, identity, refuse_foreign, refuse_inputs, without_future
from virnucpro.paths import check_file
from virnucpro.provenance import RunRecord, other_options
from virnucpro.rendering import how_many
from virnucpro.report.run_summary import run_summary
from virnucpro.sequences.shards import FRAMES, KINDS
from virnucpro.sequences.split import changed_inputs, read_manifest, read_sample, refusals, shard_folder, shards_of_kind
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
    if SETTINGS.control_fasta:
        check_file(Path(SETTINGS.control_fasta), "the configuration (control_fasta)")
    # By role: dna, protein, classifier. Rules and files are named by what the encoder in a role is.
    SOURCES = {role: find(role, getattr(SETTINGS, key), SETTINGS.models_dir) for role, key in KEYS.items()}
OUT = SETTINGS.output_dir
# What doesn't change a result (device, batch size, cache, versions) reaches jobs here, and not as a param.
config["run"] = {"configuration": SETTINGS.as_dict(), "switches": SWITCHES, "snakemake": SNAKEMAKE}
# What the user gave, the sequences apart.
GIVEN = [
    path
    for path in (
        *(SETTINGS.samples, LABELLED, SETTINGS.labels, SETTINGS.evaluate_split, SETTINGS.check_published),
        SETTINGS.control_fasta,
    )
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
# What is split, embedded and scored as a sample is, each alone, and isn't one: name → files.
SHUFFLED = {f"{CONTROL_SETS}/{sample}": [f"{OUT}/{CONTROL_SETS}/{sample}/controls.fasta"] for sample in SAMPLES}
CONTROLLED = (SHUFFLED if SETTINGS.controls else {}) | (
    {GIVEN_CONTROLS: [SETTINGS.control_fasta]} if SETTINGS.control_fasta else {}
)
UNIT_OF |= {name: name for name in CONTROLLED}
FASTAS = SAMPLES | CONTROLLED
ALL_UNITS = UNITS | {name: (name,) for name in CONTROLLED}


envvars:
    UNMADE,
    *SWITCHES,


for _folder in (Path(OUT), *Path(OUT).parents):
    if os.path.exists(_folder) and not os.path.isdir(_folder):
        raise UserError(f"output_dir: {_folder} is a file. Name a folder.")
# The arguments of calls.rules.Rules.
RULES = {
    "chunk_length": SETTINGS.chunk_length,
    "threshold": SETTINGS.threshold,
    "preset": SETTINGS.calls,
    "fdr": SETTINGS.fdr,
    "prior": SETTINGS.prior,
    "min_length": SETTINGS.min_length,
    "min_chunks": SETTINGS.min_chunks,
}
# Folders, as the shards: what embedding jobs take from them has no rule of its own, so that making a model file anew
# makes no embedding run. (Snakemake doesn't look for changes below a job that will run, also where all that leads there
# is `ancient`; so `ancient` is only for files without a rule.)
PREPARED = {role: f"{OUT}/models/{SOURCES[role].kind}/{SOURCES[role].identifier}" for role in ROLES}
# What is prepared from: the user's own files, or for a published model the record of its digests, which says that it
# is fetched and unchanged; the model itself lies in a folder that runs share, so it is no rule's output.
CHECKPOINTS = {
    role: [str(record_of_digests(source, OUT))] if source.published else source.files
    for role, source in SOURCES.items()
}
# What `calibrate` made is an input like any other once it is the run's classifier: then nothing makes it.
CALIBRATED = f"{OUT}/calibration/classifier.safetensors"
CALIBRATES = SETTINGS.labels and os.path.realpath(CALIBRATED) != os.path.realpath(SOURCES["classifier"].path)
TO_BE_MADE = [
    name
    for name, made in (
        ("training", SETTINGS.training_data),
        ("evaluation", SETTINGS.labels),
        ("calibration", CALIBRATES),
    )
    if made
]
with user_errors():
    refuse_inputs(
        OUT,
        SAMPLES,
        [*(path for files in SAMPLES.values() for path in files), *GIVEN],
        [*PREPARED.values(), *(f"{OUT}/{target}/{name}" for target in TO_BE_MADE for name in TARGETS[target])],
    )
MODELS = {role: f"{folder}/model.safetensors" for role, folder in PREPARED.items()}
CLASSIFIER = f"{OUT}/models/classifier/{SOURCES['classifier'].identifier}.safetensors"
# The kinds of frames that are embedded, from the classifier that was given, or what was prepared of it if it's gone. One that
# isn't there yet, or is the original's, isn't for partial frames; one that is to be trained is.
_specs = (spec_or_none(path) for path in (SOURCES["classifier"].path, CLASSIFIER))
if SETTINGS.training_data:
    EMBEDDED = (FRAMES,) if SETTINGS.partial_frames == "false" else KINDS
else:
    EMBEDDED = KINDS if scores_partial(SETTINGS.partial_frames, next(filter(None, _specs), None)) else (FRAMES,)
# What the target `check` found, for the report; None where it wasn't made.
CHECKED = Path(OUT, "check", "check.json").read_text() if Path(OUT, "check", "check.json").is_file() else None
EMBED_ENVIRONMENT = "../../envs/cpu.yaml" if SETTINGS.device == "cpu" else "../../envs/gpu.yaml"


def any_of(names):
    """The pattern of a wildcard that has one of these values."""
    return "|".join(map(re.escape, sorted(set(names))))


wildcard_constraints:
    unit=f"(?:pooled/|{CONTROL_SETS}/)?[^/]+",
    sample="[^/]+",
    key="[^/]+",
    shard="[0-9a-f]+",


# Snakemake compares an input with its record of the run that read it. Where it has none (results that were moved, or made by the
# command) it goes by dates, and overlooks an older file; what was split says which files those were. No word on what is
# made again anyhow: by --forcerun, which the command gives by itself.
_forced = {word.removeprefix("--forcerun=") for word in sys.argv}
if MAIN:
    for _unit, _samples in (UNITS | {name: (name,) for name in CONTROLLED if name == GIVEN_CONTROLS}).items():
        _folder = f"{OUT}/{_unit}/shards"
        if _forced.intersection(("split", _folder)):
            continue
        for _sample in changed_inputs(_folder, {sample: FASTAS[sample] for sample in _samples}):
            logger.warning(
                f"Sample {_sample}: its input isn't what was split before. If the jobs below don't include `split`, add: "
                f"--forcerun {shlex.quote(_folder)}"
            )
    _results = {} if _forced.intersection(("predict", "measure")) else SAMPLES  # the latter reads none
    _results = [sample for sample in _results if f"{OUT}/{sample}/{TABLES['contigs']}" not in _forced]
    if _other := [sample for sample in _results if other_options(Path(OUT, sample), SETTINGS.as_dict())]:
        logger.warning(
            f"Results of other options: {how_many(len(_other), 'sample')} ({', '.join(_other[:3])}{' …' * (len(_other) > 3)}). If the "
            "jobs below don't include `predict`, as where the folder was moved, add: --forcerun merge predict"
            + " score_controls" * bool(CONTROLLED)
        )

_records = Path(".snakemake").absolute()
if not (os.access(_records, os.W_OK) and _records.is_dir() if os.path.lexists(_records) else os.access(".", os.W_OK)):
    raise UserError(
        f"Working directory: {_records} can't be written to. Mend that, or name another with --directory: a run keeps its "
        "own records there."
    )
