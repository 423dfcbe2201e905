"""Will a run work on this machine, with what, and how long will it take? A function per question, listed in CHECKS."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from itertools import chain, cycle, islice
from pathlib import Path

from packaging.requirements import Requirement

from virnucpro import installation, planning
from virnucpro.benchmark import random_encoder
from virnucpro.classifier.importer import prepare_classifier
from virnucpro.classifier.spec import read_classifier_spec, scores_partial, spec_or_none
from virnucpro.embeddings.shard import compute, resolve_device
from virnucpro.encoders.attention import BACKENDS, choose_backend, unavailable_reason
from virnucpro.encoders.loading import write_encoder
from virnucpro.encoders.precision import Precision, choose_precision
from virnucpro.encoders.spec import EncoderSpec, read_spec
from virnucpro.errors import ModelError, VirNucProError
from virnucpro.models.ahead import fetch_command
from virnucpro.models.registry import CLASSIFIER, PROTEIN, ROLES, Shape
from virnucpro.models.sources import KEYS, ModelSource, find
from virnucpro.provenance import package_version
from virnucpro.rendering import how_many
from virnucpro.sequences.frames import stop_free_frames
from virnucpro.sequences.read import read_fasta
from virnucpro.sequences.statistics import Statistics, statistics_of
from virnucpro.settings.options import Settings

OK, NOTE, PROBLEM = "ok", "note", "problem"
ENOUGH = 20_000_000  # bases of a sample that are counted; the rest is taken to be alike
LISTED = 10  # partitions of a cluster, at most
MEASURE = 10.0  # seconds of embedding per encoder, about
PUBLISHED_WIDTHS = {"dna": 768, "protein": 2560}  # of the encoders that published classifiers were trained on
DRAWN = 160_000_000  # random weights that stand for a model that isn't here, at most


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
    def device(self) -> str:
        return resolve_device(self.settings.device)

    def source(self, role: str) -> ModelSource:
        return find(role, getattr(self.settings, KEYS[role]), self.settings.models_dir)

    def precision(self, role: str) -> Precision:
        """That of the run."""
        asked = self.settings
        return choose_precision(asked.precision, self.device, self.source(role).architecture, compile=asked.compile)

    @cached_property
    def encoders(self) -> dict[str, tuple[Path, EncoderSpec]]:
        """Prepared encoders: bundled, or prepared by an earlier run in the output folder."""
        found = {}
        for role in ROLES:
            source = self.source(role)
            prepared = Path(self.settings.output_dir, "models", source.kind, source.identifier, "model.safetensors")
            for path in (source.path, prepared):
                try:
                    found[role] = path, read_spec(path)
                except (ModelError, OSError):
                    continue
        return found

    @cached_property
    def shapes(self) -> dict[str, tuple[str, Shape]]:
        """Names and shapes of the encoders that are prepared, and of those published ones whose name says what they are."""
        found: dict[str, tuple[str, Shape]] = {}
        for role in ROLES:
            source = self.source(role)
            if role in self.encoders:
                spec = self.encoders[role][1]
                found[role] = spec.name, Shape(*(spec.config[key] for key in ("layers", "width", "heads", "ffn")))
            elif source.published and (shape := source.architecture.shape_of(source.path.name)):
                found[role] = source.name, shape
        return found

    @cached_property
    def work(self) -> Statistics:
        """Counts over all samples, extrapolated where a sample wasn't read to its end."""
        total, asked = Statistics(), self.settings
        for paths in self.samples.values():
            part = statistics_of(paths, asked.chunk_length, ENOUGH, asked.empty_records, asked.rna_as_dna)
            for key in (
                *("records", "bases", "windows", "open_frames", "residues"),
                *("partial_frames", "partial_residues"),
            ):
                setattr(total, key, getattr(total, key) + round(getattr(part, key) / part.share_read))
            total.longest = max(total.longest, part.longest)
            total.share_read = min(total.share_read, part.share_read)
            total.notes += part.notes
        return total

    @cached_property
    def embedded(self) -> tuple[int, int]:
        """Frames that are embedded, and their residues: the stop-free ones, and partial ones if these are scored."""
        work, spec = self.work, spec_or_none(self.source("classifier").path)
        partial = scores_partial(self.settings.partial_frames, spec)
        return work.open_frames + partial * work.partial_frames, work.residues + partial * work.partial_residues


def examine(case: Case) -> Iterator[Finding]:
    """All findings, in order; a user's error that checks meet is a finding, once."""
    installation.prepare_environment(alone=True)
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
    optional = ("flash-attn", "snakemake-executor-plugin-slurm")
    fine = [f"{name} {package_version(name) or 'not installed (optional)'}" for name in optional]
    installed = metadata.requires("virnucpro") if package_version("virnucpro") else []  # else a clone, used as it is
    for requirement in map(Requirement, installed or []):
        name, version = requirement.name, package_version(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if version and requirement.specifier.contains(version, prereleases=True):
            fine.append(f"{name} {version}")
        else:
            found = f"{version or 'not installed'}, but {requirement.specifier or 'it'} is needed"
            yield Finding(name, PROBLEM, found, f"pip install '{name}{requirement.specifier}'")
    yield Finding("packages", OK, ", ".join(sorted(fine)))


def sequences(case: Case) -> Iterator[Finding]:
    """Input."""
    names = list(case.samples)
    found = f"{', '.join(names[:3])}{', …' * (len(names) > 3)}: nothing wrong"
    if case.work.share_read < 1:
        found += f" in what was read of it ({case.work.share_read:.1%})"
    short = case.work.longest < case.settings.chunk_length
    notes = ["All is shorter than a chunk: docs/inputs.md says how far to trust scores of reads."] if short else []
    notes += case.work.notes
    yield Finding("input", NOTE if notes else OK, found, " ".join(notes))


def devices(case: Case) -> Iterator[Finding]:
    """GPU."""
    import torch

    if case.settings.device == "cpu":
        yield Finding("GPU", OK, "not asked for (device: cpu)")
        return
    if torch.cuda.is_available():
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")[1].split("\n")[0]
        for number in range(torch.cuda.device_count()):
            free, total = (size / 2**30 for size in torch.cuda.mem_get_info(number))
            found = f"{torch.cuda.get_device_name(number)}, {free:.1f} of {total:.1f} GiB free, driver {driver}"
            busy = "Something else uses it: see nvidia-smi, or choose another with CUDA_VISIBLE_DEVICES."
            yield Finding(f"GPU {number}", NOTE if free < total / 2 else OK, found, busy if free < total / 2 else "")
        return
    found = f"none here; {os.cpu_count()} CPU cores"
    remedy = "It works, slowly: fine for the bundled models, while the larger ESM-2 want a GPU."
    if installation.has_gpu():
        found = f"there is one, but PyTorch {torch.__version__} can't use it"
        remedy = "This PyTorch is a CPU build: install a CUDA build of it (README.md, PIP_ARGS)."
        if torch.version.cuda:
            remedy = f"Update the driver to one for CUDA {torch.version.cuda}, or check CUDA_VISIBLE_DEVICES."
    yield Finding("GPU", PROBLEM if case.settings.device == "cuda" else NOTE, found, remedy)


def arithmetic(case: Case) -> Iterator[Finding]:
    """Attention and precision."""
    import torch

    settings, why = case.settings, {True: "the best here", False: "as configured"}
    for role, (name, shape) in case.shapes.items():
        architecture = case.source(role).architecture
        precision = case.precision(role)
        found = f"{precision.name} on {case.device}: {why[settings.precision == 'auto']}"
        yield Finding(f"precision of {name}", OK, found)
        if settings.batching == "original":
            found = "the original's (batching: original, or VIRNUCPRO_V1_ATTENTION)"
            yield Finding("attention", NOTE, found, "Slow; for comparisons only.")
            continue
        head, alibi = shape.width // shape.heads, architecture.alibi
        needs = torch.device(case.device), precision.dtype, head, alibi
        chosen = choose_backend(settings.attention, *needs).name
        reasons = ((other, unavailable_reason(other, *needs)) for other in BACKENDS if other not in ("auto", chosen))
        others = "; ".join(f"not {other}: {reason}" for other, reason in reasons if reason)
        found = f"{chosen}: {why[settings.attention == 'auto']}, head size {head}{' with ALiBi' * alibi}"
        yield Finding(f"attention of {name}", OK, f"{found} ({others})" if others else found)


def compiler(case: Case) -> Iterator[Finding]:
    """torch.compile."""
    names = [os.environ.get("CXX", "c++"), "g++", "clang++"] if case.device == "cpu" else ["gcc", "cc", "clang"]
    found = [path for path in map(shutil.which, names) if path][:1] or ["no " + " or ".join(names)]
    if case.device == "cuda" and not package_version("triton"):
        found.append("no triton")
    missing = any(part.startswith("no ") for part in found)
    remedy = "Install what is missing, or set compile: false." if missing and case.settings.compile else ""
    said = f"compile is {'on' if case.settings.compile else 'off'}; {', '.join(found)}"
    yield Finding("compiler", PROBLEM if remedy else OK, said, remedy)


def checkpoints(case: Case) -> Iterator[Finding]:
    """Models."""
    for role, key in KEYS.items():
        source = case.source(role)
        found, remedy = f"{source.path} ({source.megabytes:,} MB)", ""
        if not source.path.exists():
            found = f"{source.name} isn't on this machine; the run will fetch {source.megabytes:,} MB to {source.path}"
            remedy = f"If this machine has no internet access, run this on one that has: {fetch_command(source)}"
        yield Finding(key, NOTE if remedy else OK, found, remedy)


def fit(case: Case) -> Iterator[Finding]:
    """Classifier."""
    source = case.source(CLASSIFIER)
    given, inputs = [shape.width for _, shape in case.shapes.values()], None
    if source.published:
        inputs = sum(PUBLISHED_WIDTHS.values())
    elif source.path.suffix == ".safetensors":  # else what it takes is known when it is converted
        inputs = read_classifier_spec(source.path).width
    if len(given) == 2 and inputs not in (None, sum(given)):
        found = f"{source.name} takes {inputs:,} inputs, but the encoders give {given[0]:,} + {given[1]:,}"
        yield Finding("fit", PROBLEM, found, "Choose those that it was trained on, or train one (virnucpro train).")
        return
    if len(case.encoders) < 2 or not source.path.exists():
        yield Finding("fit", NOTE, "whether classifier and encoders match is checked first thing in the run")
        return
    remarks: list[str] = []
    dna, protein = (case.encoders[role][1] for role in ROLES)
    length = case.settings.chunk_length
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "classifier.safetensors")
        spec = prepare_classifier(
            source.path, target, dna_spec=dna, protein_spec=protein, chunk_length=length, warn=remarks.append
        )
    found = f"{spec.name} takes {dna.width} + {protein.width} inputs, {length}-base chunks"
    yield Finding("fit", NOTE if remarks else OK, " ".join([found, *remarks]))


def space(case: Case) -> Iterator[Finding]:
    """Disk."""
    widths = PUBLISHED_WIDTHS | {role: shape.width for role, (_, shape) in case.shapes.items()}
    models = (case.source(role).megabytes for role in KEYS)
    asked = case.settings
    needed = planning.disk_space(*case.embedded, widths.values(), models, asked.vectors, asked.keep)
    output, scratch = Path(case.settings.output_dir).absolute(), Path(tempfile.gettempdir())
    for about, folder, wanted, short in ("disk", output, needed, PROBLEM), ("scratch", scratch, 2**30, NOTE):
        there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
        where = folder if there == folder else f"{there}, where a run makes {folder.relative_to(there)}"
        free = shutil.disk_usage(there).free
        found = f"{where}: {free / 1e9:,.1f} GB free, {max(wanted, 1e8) / 1e9:,.1f} GB will do"
        remedy = "Choose another --output, or TMPDIR for scratch." if free < wanted else ""
        yield Finding(about, short if remedy else OK, found, remedy)


def memory(case: Case) -> Iterator[Finding]:
    """Memory."""
    if case.device != "cpu" or not case.shapes:
        return
    needed = max(
        planning.encoder_memory(shape.layers, shape.width, case.precision(role).product_dtype_name is not None)
        for role, (_, shape) in case.shapes.items()
    )
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{total / 1e9:,.1f} GB, {needed / 1e9:,.1f} GB will do"
    remedy = "Take a smaller ESM-2, a GPU, or a machine with more." if needed > total else ""
    yield Finding("memory", PROBLEM if remedy else OK, found, remedy)


def cluster(case: Case) -> Iterator[Finding]:
    """SLURM."""
    if not shutil.which("sbatch"):
        yield Finding("SLURM", OK, "not on this machine; needed for clusters only")
        return
    status, said = _output("sinfo", "--noheader", "--format=%P")
    lines, remedy = said.splitlines() or ["no answer"], ""
    if len(lines) > LISTED:
        lines = [*lines[:LISTED], f"and {len(lines) - LISTED} more"]
    if status:
        lines, remedy = lines[:1], "Run where the controller is reached."
    elif not package_version("snakemake-executor-plugin-slurm"):
        remedy = "Snakemake's plugin is missing: pip install snakemake-executor-plugin-slurm"
    yield Finding("SLURM", NOTE if remedy else OK, f"sinfo: {', '.join(lines)}", remedy)


def duration(case: Case) -> Iterator[Finding]:
    """Time."""
    frames = case.embedded[0]
    partial = frames - case.work.open_frames
    read = "" if case.work.share_read == 1 else f", from {case.work.share_read:.1%} of the input"
    counts = {"record": case.work.records, "base": case.work.bases, "stop-free frame": case.work.open_frames}
    counted = ", ".join(how_many(count, what) for what, count in counts.items())
    counted += f" and {how_many(partial, 'partial frame')}{read}" if partial else read
    if not frames:
        yield Finding("time", NOTE, f"{counted}: nothing to embed", "Only frames without a stop codon are scored.")
    elif len(case.shapes) < 2:
        yield Finding("time", OK, f"{counted}; not measured, since the first run has yet to prepare the encoders")
    elif not case.measure:
        yield Finding("time", OK, counted)
    else:
        rates = {name: _frames_per_second(case, role) for role, (name, _) in case.shapes.items()}
        how = "measured" if len(case.encoders) == 2 else "measured with random weights, as the model isn't prepared yet"
        hours = sum(frames / rate for rate in rates.values()) / 3600
        if hours > 1.5:
            took = f"about {hours:,.1f} h"
        elif hours > 1 / 40:
            took = f"about {60 * hours:,.0f} min"
        else:
            took = "a minute or less"
        said = ", ".join(f"{name} {rate:,.3g} frames/s" for name, rate in rates.items())
        yield Finding("time", OK, f"{counted}; embedding takes {took} on one {case.device} device ({said}, {how})")


CHECKS = (programs, sequences, devices, arithmetic, compiler, checkpoints, fit, memory, space, cluster, duration)


def _frames_per_second(case: Case, role: str) -> float:
    """Speed on the first frames of the input, repeated if they are few."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    records = (record for paths in case.samples.values() for path in paths for record in read_fasta(path, True))
    batches = stop_free_frames((record.sequence for record in islice(records, 10_000)), case.settings.chunk_length)
    texts = chain.from_iterable(
        batch.frames.proteins if role == PROTEIN.name else batch.frames.nucleotides for batch in batches
    )
    sequences = list(islice(texts, 20_000))
    # In the run's precision, but plain: compiling alone takes longer than all this.
    settings = replace(case.settings, compile=False, precision=case.precision(role).name)
    count, began = 4, time.monotonic()  # a large model on a CPU may need seconds for each
    with tempfile.TemporaryDirectory() as folder:
        if role in case.encoders:
            model, share = case.encoders[role][0], 1.0
        else:
            model = Path(folder, "model.safetensors")
            share = _draw(model, case.source(role).architecture.name, case.shapes[role][1])
        while True:
            some = list(islice(cycle(sequences), count))
            seconds = compute(model, [str(n) for n in range(count)], some, settings, case.device).statistics["seconds"]
            if seconds > MEASURE / 4 or time.monotonic() - began > MEASURE / 2:
                return share * count / seconds
            count = int(min(16 * count, count * MEASURE / 2 / seconds)) + 1


def _draw(path: Path, architecture: str, shape: Shape) -> float:
    """Write an encoder of that shape with random weights, or with as many of its blocks as DRAWN allows; their share."""
    layers = max(1, min(shape.layers, DRAWN // (12 * shape.width**2)))
    write_encoder(random_encoder(architecture, shape._replace(layers=layers)).half(), path, name="random")
    return layers / shape.layers


def _output(*command: str) -> tuple[int, str]:
    """Exit status and what a command says."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, (done.stdout or done.stderr).strip()
