# Configuration, paths and the functions that the rules ask. Nothing here writes or computes.
import os
import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

from snakemake import __version__ as SNAKEMAKE
from snakemake.exceptions import WorkflowError

# In a clone the library lies beside the workflow.
_library = Path(str(workflow.current_basedir)).parents[1] / "src"
if _library.is_dir():
    sys.path.insert(0, str(_library))

# What the library needs to read the workflow; Snakemake brings the rest, and jobs may have environments of their own.
for _package in ("Bio", "filelock", "h5py", "numpy", "tqdm", "zstandard"):
    if find_spec(_package) is None:
        raise WorkflowError(
            f"The environment that Snakemake runs in has no package {_package}. Install the workflow there (in the clone: "
            "pip install .), or with --sdm conda what reading it needs: biopython, filelock, h5py, numpy, tqdm, zstandard."
        )

from virnucpro import __version__ as VERSION
from virnucpro import installation, models, planning
from virnucpro.classifier.labels import has_fasta, read_labelled_fasta
from virnucpro.configuration import missing_fasta, name_samples, read_samples, resolve
from virnucpro.embeddings.key import embedding_key
from virnucpro.embeddings.shard import EmbedOptions
from virnucpro.encoders.canonical import read_spec
from virnucpro.errors import VirNucProError
from virnucpro.files import sha256_file
from virnucpro.gpu import visible_gpus
from virnucpro.provenance import RunRecord
from virnucpro.report.ending import ending
from virnucpro.sequences.split import read_manifest
from virnucpro.switches import Switches

installation.prepare_environment()
try:
    SETTINGS = resolve(config)
    SWITCHES = Switches.read(os.environ)
    # A table of labelled files takes the place of the sample sheet: each of its files is a sample.
    LABELLED = SETTINGS.training_data or (SETTINGS.labels if SETTINGS.labels and has_fasta(SETTINGS.labels) else None)
    if LABELLED and SETTINGS.samples:
        raise VirNucProError(f"Both 'samples' and a table of labelled files ({LABELLED}) are given: give one of them.")
    if LABELLED:
        SAMPLES = name_samples(row.fasta for row in read_labelled_fasta(LABELLED))
    else:
        SAMPLES = read_samples(SETTINGS.samples)
    SOURCES = {
        family: models.find(family, name, SETTINGS.models_dir)
        for family, name in (
            ("dnabert_s", SETTINGS.dnabert_model),
            ("esm2", SETTINGS.esm_model),
            ("classifier", SETTINGS.classifier),
        )
    }
except VirNucProError as error:
    raise WorkflowError(str(error)) from None

# Jobs parse the workflow again, on another machine too.
workflow.register_envvars(*SWITCHES.as_dict())
OUT = SETTINGS.output_dir
for _folder in (Path(OUT), *Path(OUT).parents):
    if _folder.exists() and not _folder.is_dir():
        raise WorkflowError(f"output_dir: {_folder} is a file. Name a folder.")
# Folders, as the shards: what embedding jobs take from them has no rule of its own, so that making a model file anew
# makes no embedding run. (Snakemake doesn't look for changes below a job that will run, also where all that leads there
# is `ancient`; so `ancient` is only for files without a rule.)
PREPARED = {family: f"{OUT}/models/{family}/{SOURCES[family].identifier}" for family in ("dnabert_s", "esm2")}
# What is prepared from: the user's own files, or for a published model the record of its digests, which says that it
# is fetched and unchanged; the model itself lies in a folder that runs share, so it is no rule's output.
CHECKPOINTS = {
    family: [f"{OUT}/models/{family}/{source.identifier}.sha256"] if source.published else source.files
    for family, source in SOURCES.items()
}
MODELS = {family: f"{PREPARED[family]}/model.safetensors" for family in PREPARED}
CLASSIFIER = f"{OUT}/models/classifier/{SOURCES['classifier'].identifier}.safetensors"
RESULTS = {
    "predictions": "predictions.tsv",
    "chunks": "chunks.tsv",
    "contigs": "contigs.tsv",
    "results": "prediction_results.txt",
    "highest": "prediction_results_highestscore.csv",
    "summary": "summary.json",
}
# Targets in place of rules whose jobs aren't all planned before the input is split, which `--until` would leave out.
INSTEAD_OF_UNTIL = {
    **{f"embed_{family}": f"all_{family}" for family in PREPARED},
    "merge": "all_embeddings",
    "predict": " ".join(f"{OUT}/{sample}/contigs.tsv" for sample in [*SAMPLES][:3]) + " …" * (len(SAMPLES) > 3),
}
EMBED_ENVIRONMENT = "../../envs/cpu.yaml" if SETTINGS.device == "cpu" else "../../envs/gpu.yaml"

# A cluster's job is given its own GPUs in this form: they are no limit, and may be 0 where the site counts otherwise.
GPU_LIMIT = None if workflow.remote_exec else getattr(workflow.global_resources.get("gpu"), "value", None)
if GPU_LIMIT == 0 and SETTINGS.device == "cuda":
    raise WorkflowError("The configuration says device: cuda, but --resources gpu=0 leaves no GPU. Drop one of them.")
DEVICE = "cpu" if GPU_LIMIT == 0 else SETTINGS.device

RUN = RunRecord(SETTINGS.as_dict(), SWITCHES.as_dict(), SNAKEMAKE)
# Neither is one of Snakemake's plain types, so that batch size, device, compile and cache, which don't change
# what is computed, don't make anything run again; what does change it is in the file's path.
EMBED_OPTIONS = EmbedOptions.of(SETTINGS.as_dict(), SWITCHES, device=DEVICE, run=RUN)


wildcard_constraints:
    sample="|".join(re.escape(sample) for sample in SAMPLES),
    key="[^/]+",
    shard="[0-9a-f]+",


def final_output():
    """Everything that a run makes for its samples."""
    files = (*RESULTS.values(), "embeddings.h5", "viral.fasta.gz", "report.html")
    made = [f"{OUT}/{sample}/{name}" for sample in SAMPLES for name in files]
    return [*made, f"{OUT}/report.html"] if len(SAMPLES) > 1 else made


def fasta_of(wildcards):
    """The FASTA files of a sample; one that nobody makes is an error here, before any job."""
    made = [known.is_producer for known in workflow.rules]
    for path in SAMPLES[wildcards.sample]:
        if not path.exists() and not any(makes(str(path)) for makes in made):
            raise WorkflowError(str(missing_fasta(path, LABELLED or SETTINGS.samples)))
    return [str(path) for path in SAMPLES[wildcards.sample]]


def embeddings_of(family):
    """Input function: shard embeddings of one encoder, of a sample or, without one, of all; once models fit together.

    With training data there need not be a classifier that fits.
    """

    def files(wildcards):
        for name in workflow.dag_settings.until & INSTEAD_OF_UNTIL.keys():
            raise WorkflowError(
                f"--until {name} would do nothing, or too little: which shards there are is known once the input is split. "
                f"Name a target instead: snakemake {INSTEAD_OF_UNTIL[name]}"
            )
        checkpoints.prepare_dnabert_s.get()
        checkpoints.prepare_esm2.get()
        if not SETTINGS.training_data:
            checkpoints.prepare_classifier.get()
        key = embedding_key(read_spec(MODELS[family]), EMBED_OPTIONS.precision, EMBED_OPTIONS.batching)
        return [
            f"{OUT}/{sample}/embeddings/{family}/{key}/{shard['sha']}.h5"
            for sample in ([wildcards.sample] if hasattr(wildcards, "sample") else SAMPLES)
            for shard in read_manifest(checkpoints.split.get(sample=sample).output[0])["shards"]
        ]

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
    try:
        count = len(visible_gpus())
    except VirNucProError as error:
        raise WorkflowError(str(error)) from None
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


def path_of(family):
    """Param function: where a checkpoint lies, whether it is an input or not."""
    return lambda wildcards: str(SOURCES[family].path)


def preparing_memory(family):
    """Memory request; more at each attempt."""
    return lambda wildcards, attempt: attempt * planning.preparing_memory(SOURCES[family].megabytes)


def embedding_memory(family, bytes_per_frame):
    """Memory request; more at each attempt."""

    def mem_mb(wildcards, attempt):
        size = SOURCES[family].megabytes
        return attempt * planning.embedding_memory(size, SETTINGS.shard_frames, bytes_per_frame)

    return mem_mb


def embedding_minutes(family):
    """Time request in minutes; more at each attempt."""

    def runtime(wildcards, attempt):
        size = SOURCES[family].megabytes
        return attempt * planning.embedding_minutes(size, SETTINGS.shard_frames, gpu=gpus_per_job() > 0)

    return runtime


def table_or_error(key):
    """Input function: the table that a configuration key names; an error where the key isn't set."""

    def file(wildcards):
        if getattr(SETTINGS, key) is None:
            raise WorkflowError(
                f"This target needs the configuration key '{key}': --config {key}=TABLE. See docs/training.md."
            )
        return getattr(SETTINGS, key)

    return file


def require_writable(folder, name, remedy):
    """Make a folder, or say that it can't be written to."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise WorkflowError(
            f"{name}: {Path(folder).absolute()} can't be written to ({error.strerror}). {remedy}"
        ) from None


if workflow.is_main_process:
    require_writable(
        ".snakemake",
        "Working directory",
        "Mend that, or name another with --directory: a run keeps its own records there.",
    )
