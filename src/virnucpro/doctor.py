"""Will a run work on this machine, with what, and how long will it take? A function per question, listed in CHECKS."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from itertools import chain, cycle, islice
from pathlib import Path

from packaging.requirements import Requirement

from virnucpro import downloads, installation
from virnucpro.classifier.importer import prepare_classifier
from virnucpro.configuration import Settings
from virnucpro.embeddings.shard import EmbedOptions, compute, resolve_device
from virnucpro.encoders.attention import choose_backend
from virnucpro.encoders.canonical import EncoderSpec, read_spec
from virnucpro.encoders.embed import compute_dtype, resolve_precision
from virnucpro.errors import ModelError, VirNucProError
from virnucpro.models import KEYS, ModelSource, find
from virnucpro.sequences.fasta import read_fasta
from virnucpro.sequences.frames import open_frames_of
from virnucpro.sequences.survey import Survey, survey
from virnucpro.switches import Switches

OK, NOTE, PROBLEM = "ok", "note", "problem"
ENOUGH = 20_000_000  # bases of a sample that are counted; the rest is taken to be alike
MEASURE = 10.0  # seconds of embedding per encoder, about
_PUBLISHED_WIDTHS = {"dnabert_s": 768, "esm2": 2560}  # until the encoder has been prepared


@dataclass(frozen=True)
class Finding:
    """One answer. With a ``problem`` the run can't work; a ``note`` may cost time or need something later."""

    about: str
    state: str
    found: str
    remedy: str = ""


@dataclass
class Case:
    """What is asked about."""

    settings: Settings
    samples: dict[str, list[Path]]
    measure: bool = True

    @cached_property
    def switches(self) -> Switches:
        return Switches.read(os.environ)

    @cached_property
    def options(self) -> EmbedOptions:
        return EmbedOptions(
            precision=self.switches.precision(self.settings.precision),
            attention=self.settings.attention,
            tokens_per_batch=self.settings.tokens_per_batch,
            compile=self.switches.compile(self.settings.compile),
            batching=self.switches.batching,
        )

    @cached_property
    def device(self) -> str:
        return resolve_device(self.settings.device)

    def source(self, family: str) -> ModelSource:
        return find(family, getattr(self.settings, KEYS[family]), self.settings.models_dir)

    @cached_property
    def encoders(self) -> dict[str, tuple[Path, EncoderSpec]]:
        """Encoders in canonical form: bundled, or prepared by an earlier run in the output folder."""
        found = {}
        for family in ("dnabert_s", "esm2"):
            source = self.source(family)
            prepared = Path(self.settings.output_dir, "models", family, source.identifier, "model.safetensors")
            for path in (source.path, prepared):
                try:
                    found[family] = path, read_spec(path)
                except (ModelError, OSError):
                    continue
        return found

    @cached_property
    def work(self) -> Survey:
        """Counts over all samples, extrapolated where a sample wasn't read to its end."""
        total = Survey()
        for paths in self.samples.values():
            part = survey(paths, self.settings.chunk_length, ENOUGH)
            for key in ("records", "bases", "windows", "open_frames", "residues"):
                setattr(total, key, getattr(total, key) + round(getattr(part, key) / part.share_read))
            total.share_read = min(total.share_read, part.share_read)
        return total


def examine(case: Case) -> Iterator[Finding]:
    """All findings, in order; a user's error that checks meet is a finding, once."""
    installation.prepare_environment()
    said: set[str] = set()
    for check in CHECKS:
        try:
            yield from check(case)
        except VirNucProError as error:
            if str(error) not in said:
                yield Finding((check.__doc__ or check.__name__).rstrip("."), PROBLEM, str(error))
            said.add(str(error))


def programs(case: Case) -> Iterator[Finding]:
    """Programs."""
    yield Finding("Python", OK, f"{sys.version.split()[0]}, {sys.executable}")
    try:
        requirements = [Requirement(line) for line in metadata.requires("virnucpro") or []]
    except metadata.PackageNotFoundError:
        requirements = []
        yield Finding("virnucpro", NOTE, "runs from a clone, not installed", "make install, or pip install .")
    fine = []
    for requirement in requirements:
        optional = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        version = _version(requirement.name)
        if optional and not (requirement.marker and requirement.marker.evaluate({"extra": "flash-attn"})):
            continue
        if version and requirement.specifier.contains(version, prereleases=True):
            fine.append(f"{requirement.name} {version}")
        elif optional:
            yield Finding(requirement.name, OK, "not installed; optional, for the attention backend of that name")
        else:
            found = f"{version}, but {requirement.specifier} is needed" if version else "not installed"
            yield Finding(requirement.name, PROBLEM, found, f"pip install '{requirement.name}{requirement.specifier}'")
    yield Finding("packages", OK, ", ".join(fine))


def devices(case: Case) -> Iterator[Finding]:
    """GPU."""
    import torch

    if case.settings.device == "cpu":
        yield Finding("GPU", OK, "not asked for (device: cpu)")
    elif torch.cuda.is_available():
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")[1].split("\n")[0]
        for number in range(torch.cuda.device_count()):
            free, total = (size / 2**30 for size in torch.cuda.mem_get_info(number))
            found = f"{torch.cuda.get_device_name(number)}, {free:.1f} of {total:.1f} GiB free, driver {driver}"
            busy = "Something else uses it: see nvidia-smi, or choose another with CUDA_VISIBLE_DEVICES."
            yield Finding(f"GPU {number}", NOTE if free < total / 2 else OK, found, busy if free < total / 2 else "")
    elif installation.has_gpu():
        state = PROBLEM if case.settings.device == "cuda" else NOTE
        cuda = torch.version.cuda
        remedy = (
            f"Update the driver to one for CUDA {cuda}, or check CUDA_VISIBLE_DEVICES."
            if cuda
            else "This PyTorch is a CPU build: install a CUDA build of it (README.md, PIP_ARGS)."
        )
        yield Finding("GPU", state, f"there is one, but PyTorch {torch.__version__} can't use it", remedy)
    else:
        remedy = "It works, slowly: fine for the bundled models, while the larger ESM-2 want a GPU."
        state = PROBLEM if case.settings.device == "cuda" else NOTE
        yield Finding("GPU", state, f"none here; {os.cpu_count()} CPU cores", remedy)


def arithmetic(case: Case) -> Iterator[Finding]:
    """Attention and precision."""
    import torch

    precision = resolve_precision(case.options.precision, case.device)
    why = "the best for this device" if case.options.precision == "auto" else "as configured"
    yield Finding("precision", OK, f"{precision} on {case.device}: {why}")
    if case.options.batching == "original":
        yield Finding("attention", NOTE, "the original's (VIRNUCPRO_V1_ATTENTION)", "Slow; for comparisons only.")
        return
    for family, (_, spec) in case.encoders.items():
        head, alibi = spec.width // spec.config["heads"], family == "dnabert_s"
        arguments = torch.device(case.device), compute_dtype(precision), head, alibi
        chosen = choose_backend(case.options.attention, *arguments).name
        why = "the best that can run" if case.options.attention == "auto" else "as configured"
        needs = f"{precision}, head size {head}{', ALiBi' if alibi else ''}"
        yield Finding(f"attention of {spec.name}", OK, f"{chosen}: {why} on {case.device} with {needs}")


def compiler(case: Case) -> Iterator[Finding]:
    """torch.compile."""
    names = [os.environ.get("CXX", "c++"), "g++", "clang++"] if case.device == "cpu" else ["gcc", "cc", "clang"]
    found = next(filter(None, map(shutil.which, names)), None)
    if case.device == "cuda" and not _version("triton"):
        found = None
    if found:
        yield Finding("compiler", OK, f"{found}{'' if case.options.compile else '; compile is off'}")
    elif case.options.compile:
        missing = " or ".join(names) + (" and triton" if case.device == "cuda" else "")
        yield Finding(
            "compiler", PROBLEM, f"compile is on, but there is no {missing}", "Install it, or compile: false."
        )
    else:
        yield Finding("compiler", OK, "none; compile is off, so none is needed")


def checkpoints(case: Case) -> Iterator[Finding]:
    """Models."""
    for family, key in KEYS.items():
        source = case.source(family)
        if source.path.exists():
            yield Finding(key, OK, f"{source.path} ({source.megabytes:,} MB)")
        else:
            found = f"{source.name} isn't on this machine; the run will fetch {source.megabytes:,} MB to {source.path}"
            yield Finding(
                key, NOTE, found, f"Without internet access there: {downloads.command(source)} elsewhere first"
            )


def fit(case: Case) -> Iterator[Finding]:
    """Classifier."""
    source = case.source("classifier")
    if len(case.encoders) < 2 or not source.path.exists():
        yield Finding("fit", NOTE, "whether classifier and encoders match is checked first thing in the run")
        return
    remarks: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        dna, protein = (case.encoders[family][1] for family in ("dnabert_s", "esm2"))
        length = case.settings.chunk_length
        target = Path(folder, "classifier.safetensors")
        spec = prepare_classifier(
            source.path, target, dna_spec=dna, protein_spec=protein, chunk_length=length, warn=remarks.append
        )
    found = f"{spec.name} takes {dna.width} + {protein.width} inputs, {length}-base chunks"
    yield Finding("fit", NOTE if remarks else OK, " ".join([found, *remarks]))


def space(case: Case) -> Iterator[Finding]:
    """Disk."""
    widths = [
        case.encoders[family][1].width if family in case.encoders else width
        for family, width in _PUBLISHED_WIDTHS.items()
    ]
    # Vectors twice (per shard and merged), frames as text, and four rows of tables per frame; prepared models.
    needed = case.work.open_frames * (8 * sum(widths) + 600) + case.work.residues * 4
    needed += 2**20 * sum(case.source(family).megabytes for family in KEYS)
    for about, folder, wanted in (
        ("disk", Path(case.settings.output_dir), needed),
        ("scratch", Path(tempfile.gettempdir()), 2**30),
    ):
        there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
        free = shutil.disk_usage(there).free
        found = f"{folder}: {free / 1e9:,.1f} GB free, about {wanted / 1e9:,.1f} GB needed"
        remedy = "Choose another --output, or TMPDIR for scratch." if free < wanted else ""
        yield Finding(about, PROBLEM if free < wanted and about == "disk" else NOTE if remedy else OK, found, remedy)
        if not os.access(there, os.W_OK):
            yield Finding(about, PROBLEM, f"{there} can't be written to", "Choose another --output or TMPDIR.")


def cluster(case: Case) -> Iterator[Finding]:
    """SLURM."""
    plugin = _version("snakemake-executor-plugin-slurm")
    if not shutil.which("sbatch"):
        yield Finding(
            "SLURM", OK, f"not on this machine (plugin: {plugin or 'not installed'}); needed for clusters only"
        )
        return
    status, said = _output("sinfo", "--noheader", "--format=%P")
    if status:
        yield Finding("SLURM", NOTE, f"sinfo: {said or 'no answer'}", "Run where the controller is reached.")
    elif not plugin:
        remedy = "pip install snakemake-executor-plugin-slurm"
        yield Finding("SLURM", NOTE, f"partitions {', '.join(said.split())}; Snakemake's plugin is missing", remedy)
    else:
        yield Finding("SLURM", OK, f"partitions {', '.join(said.split())}; plugin {plugin}")


def duration(case: Case) -> Iterator[Finding]:
    """Time."""
    frames = case.work.open_frames
    read = "" if case.work.share_read == 1 else f", from {case.work.share_read:.1%} of the input"
    counted = f"{case.work.records:,} records, {case.work.bases:,} bases, {frames:,} open frames{read}"
    if not frames:
        yield Finding("time", NOTE, f"{counted}: nothing to embed", "Frames with a stop aren't scored; see docs.")
        return
    if not case.measure or len(case.encoders) < 2:
        why = "" if not case.measure else "; not measured, since the first run has yet to prepare the encoders"
        yield Finding("time", OK, f"{counted}{why}")
        return
    rates = {}
    for family, (path, _) in case.encoders.items():
        rates[family] = _frames_per_second(case, path, protein=family == "esm2")
    seconds = sum(frames / rate for rate in rates.values())
    said = ", ".join(f"{case.encoders[family][1].name} {rate:,.0f} frames/s" for family, rate in rates.items())
    took = f"{seconds / 3600:,.1f} h" if seconds > 5400 else f"{seconds / 60:,.1f} min"
    yield Finding("time", OK, f"{counted}; embedding about {took} on one {case.device} device ({said}, measured)")


CHECKS = (programs, devices, arithmetic, compiler, checkpoints, fit, space, cluster, duration)


def _frames_per_second(case: Case, model: Path, protein: bool) -> float:
    """Speed on the first frames of the input, repeated if they are few."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    records = (record for paths in case.samples.values() for path in paths for record in read_fasta(path, True))
    batches = open_frames_of((record.sequence for record in islice(records, 10_000)), case.settings.chunk_length)
    texts = chain.from_iterable(batch.proteins if protein else batch.nucleotides for batch in batches)
    sequences = list(islice(texts, 20_000))
    options = replace(case.options, compile=False)  # compiling alone takes longer than all this
    count, began = 64, time.monotonic()
    while True:
        some = list(islice(cycle(sequences), count))
        seconds = compute(model, [str(n) for n in range(count)], some, options, case.device).statistics["seconds"]
        if seconds > MEASURE / 4 or time.monotonic() - began > MEASURE / 2:
            return count / seconds
        count = int(min(16 * count, count * MEASURE / 2 / seconds)) + 1


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: Sequence[str] | str) -> tuple[int, str]:
    """Exit status and what a command says."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)  # type: ignore[arg-type]
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, (done.stdout or done.stderr).strip()
