"""Train a classifier from labelled embeddings, split by genome, with all that predictions make of it."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from virnucpro.classifier.categories import Head, kinds_of
from virnucpro.classifier.dataset import PARTS, Batch, Dataset, Sample
from virnucpro.classifier.finishing import finish
from virnucpro.classifier.labels import FROM_HEADER, groups_from_headers, read_labelled_fasta
from virnucpro.classifier.metrics import binary_metrics
from virnucpro.classifier.model import Classifier, stored_arrays, write_classifier
from virnucpro.classifier.spec import ClassifierSpec
from virnucpro.classifier.weighted import group_weights
from virnucpro.errors import ModelError
from virnucpro.io import atomic_file
from virnucpro.provenance import RunRecord
from virnucpro.result_tables import write_table
from virnucpro.sequences.shards import FRAMES, PARTIAL
from virnucpro.sequences.split import iter_records
from virnucpro.settings.options import TrainOptions

logger = logging.getLogger(__name__)


def train_from_table(
    table: str | Path,
    embeddings: Mapping[str, Path],
    shards: Mapping[str, Path],
    output: str | Path,
    options: TrainOptions,
    threads: int | None = None,
    run: RunRecord | None = None,
) -> ClassifierSpec:
    """``train`` on the files of a label table (see ``labels.read_labelled_fasta``).

    ``embeddings`` are sample name → ``embeddings.h5``, in the order of the table, ``shards`` sample name → shard folder.
    """
    rows = read_labelled_fasta(table)
    samples = []
    for (name, path), row in zip(embeddings.items(), rows, strict=True):
        lengths = {record.id: record.length for record in iter_records(shards[name], name)}
        group = None if row.group == FROM_HEADER else row.group
        samples.append(Sample(name, path, row.label.viral, lengths, group, row.label.category))
    groups = groups_from_headers([row.fasta for row in rows if row.group == FROM_HEADER])
    return train(samples, output, options, groups=groups, threads=threads, run=run)


def train(
    samples: Sequence[Sample],
    output: str | Path,
    options: TrainOptions,
    *,
    groups: Mapping[str, str] | None = None,
    name: str | None = None,
    threads: int | None = None,
    run: RunRecord | None = None,
) -> ClassifierSpec:
    """Train, choose the epoch with the lowest validation loss, finish on that part, measure on the test part, and write.

    Where a class has several categories, a head for them is trained beside; what else the file gets is in ``finishing``.

    Equal data, options and thread count give equal bytes on a CPU. Memory holds one pool of features
    (``dataset.POOL_BYTES``), and a few bytes per frame. Partial frames that were embedded are trained on like the others,
    and the file says so. ``output`` is the classifier's file; beside it appear ``training.json`` (options, counts, history,
    metrics), ``split.tsv`` (genome and part of each record with a frame of either kind), ``calibration.json`` and
    ``calibration.tsv`` (see ``calibrate.write_figures``). ``groups`` is record → genome; see ``Dataset``. The classifier is called ``name``, or else as
    the output's stem; its file and ``training.json`` record the ``run``.
    """
    output = Path(output)
    if threads is not None:
        torch.set_num_threads(threads)
    data = Dataset(samples, groups, options.validation, options.test, options.seed)
    kinds = kinds_of(data)
    device = torch.device(options.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(options.seed)
        model = Classifier(data.width, options.hidden, options.dropout, standardise=options.standardise)
        nn.init.xavier_uniform_(model.hidden_layer.weight)
        nn.init.xavier_uniform_(model.output_layer.weight)
        if options.standardise:
            _measure(model, data)
        head = Head(model.to(device), data, kinds, options.seed) if kinds.several else None
        history = _fit(model, head, data, options)
    part = next(part for part in reversed(PARTS) if data.frames(part))
    metrics = {"part": part, **_score(model, data, part, _weights(data, options.balance, part).to(device))[1]}
    if head:
        metrics["category_recall"] = head.recall(part)
    training = {
        "options": asdict(options),
        "data_sha256": data.digest,
        "genomes": {part: sum(found == part for found in data.parts.values()) for part in PARTS},
        "frames": _counts(data, FRAMES),
        "partial_frames": _counts(data, PARTIAL),
        "run": (run or RunRecord()).as_dict(),
        "best_epoch": min(history, key=lambda row: row["validation_loss"])["epoch"],
    }
    encoders = {f"{role}_encoder": data.provenance[f"{role}_encoder"] for role in ("dna", "protein")}
    known = {key: {part: made[part] for part in ("name", "weights_sha256")} for key, made in encoders.items()}
    spec = ClassifierSpec(
        name=name or output.stem,
        width=data.width,
        hidden=options.hidden,
        dna_width=data.dna_width,
        protein_width=data.protein_width,
        chunk_length=data.provenance["chunk_length"],
        partial_frames=data.frames("train", kind=PARTIAL) > 0,
        pooling={role: data.provenance[f"{role}_encoder"].get("pooling", "") for role in ("dna", "protein")},
        categories=kinds.described() if head else None,
        training=training,
        metrics=metrics,
        dna_encoder=known["dna_encoder"],
        protein_encoder=known["protein_encoder"],
    )
    done = finish(spec, data, kinds, stored_arrays(model, options.half), model.bn1.eps)
    spec = write_classifier(output, model, done.spec, half=options.half, reference=done.reference)
    done.write(output.parent, spec, {"run": training["run"]})
    _write_split(output.with_name("split.tsv"), data)
    with atomic_file(output.with_name("training.json")) as temporary:
        whole = {"name": spec.name, "weights_sha256": spec.weights_sha256, **training, "metrics": metrics, **encoders}
        whole |= {"computed": data.provenance.get("computed", {}), "history": history}
        temporary.write_text(json.dumps(whole, indent=2) + "\n")
    logger.info("trained %s: %s", spec.name, metrics)
    return spec


def _fit(model: Classifier, head: Head | None, data: Dataset, options: TrainOptions) -> list[dict[str, Any]]:
    """Train in place, ending with the weights of the best epoch; one row per epoch."""
    device = model.output_layer.weight.device
    # Fused: small batches spend most of their time in steps otherwise.
    rates: dict[str, Any] = {"lr": options.learning_rate, "weight_decay": options.weight_decay, "fused": True}
    optimiser: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), **rates)
    if options.optimiser == "sgd":
        optimiser = torch.optim.SGD(model.parameters(), momentum=0.9, **rates)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, step_size=10, gamma=0.85)
    order = np.random.default_rng(options.seed)
    drawn = options.balance == "sampling"
    weights = _weights(data, "none" if drawn else options.balance, "train").to(device)
    keep = _keep(data) if drawn else None
    watched = "validation" if data.frames("validation") else "train"
    weights_watched = _weights(data, options.balance, watched).to(device)
    history: list[dict[str, Any]] = []
    best, best_loss, waited = copy.deepcopy(model.state_dict()), float("inf"), 0
    for epoch in range(1, options.epochs + 1):
        model.train()
        total = weight_sum = 0.0
        for batch in data.shuffled("train", options.batch_size, order, keep):
            hidden, _, loss, weight = _loss(model, batch, weights, options.label_smoothing)
            whole = loss / weight
            if head:
                whole = whole + head.loss(hidden, torch.from_numpy(batch.unit).to(device))
            optimiser.zero_grad()
            whole.backward()
            optimiser.step()
            total += float(loss.detach())
            weight_sum += float(weight)
        schedule.step()
        loss_now, found = _score(model, data, watched, weights_watched)
        row = {"epoch": epoch, "train_loss": total / max(weight_sum, 1e-12), "validation_loss": loss_now}
        history.append(row | {"validation_auroc": found["auroc"]})
        logger.info("epoch %(epoch)d: training %(train_loss).4f, validation %(validation_loss).4f", row)
        if loss_now < best_loss:
            best, best_loss, waited = copy.deepcopy(model.state_dict()), loss_now, 0
        else:
            waited += 1
            if waited >= options.patience:
                break
    model.load_state_dict(best)
    model.eval()
    return history


def _loss(
    model: Classifier, batch: Batch, weights: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Activations (n, hidden), logits (n, 2), weighted sum of cross entropies (), sum of weights (); ``weights`` are (units,)."""
    features, viral, unit = (torch.from_numpy(column).to(weights.device) for column in batch)
    hidden, weight = model.hidden(features), weights[unit]
    logits = model.output_layer(hidden)
    losses = nn.functional.cross_entropy(logits, viral.long(), reduction="none", label_smoothing=smoothing)
    return hidden, logits, (losses * weight).sum(), weight.sum()


@torch.inference_mode()
def _score(model: Classifier, data: Dataset, part: str, weights: Tensor) -> tuple[float, dict[str, Any]]:
    """Weighted mean loss and per-frame metrics of a part; keeps a score and a label per frame."""
    model.eval()
    total = weight_sum = 0.0
    scores, truth = [], []
    for batch in data.blocks(part):
        _, logits, loss, weight = _loss(model, batch, weights)
        total += float(loss)
        weight_sum += float(weight)
        scores.append(torch.softmax(logits, 1)[:, 1].cpu().numpy())
        truth.append(batch.viral)
    joined = np.concatenate(scores)
    if not (np.isfinite(total) and np.isfinite(joined).all()):
        raise ModelError("Training diverged: the loss isn't finite. Lower learning_rate, or set standardise.")
    return total / weight_sum, binary_metrics(np.concatenate(truth), joined, joined > 0.5)


def _counts(data: Dataset, kind: str) -> dict[str, dict[str, int]]:
    """Frames of a kind, by part and class."""
    names = (("viral", True), ("non-viral", False))
    return {part: {name: data.frames(part, viral, kind) for name, viral in names} for part in PARTS}


def _weights(data: Dataset, balance: str, part: str) -> Tensor:
    """Loss weight of a frame in a part, by unit. The mean over training frames is 1.

    Where training draws both classes equally often, they count equally here.
    """
    counts = data.by_unit("train").astype(np.float64)
    if balance == "groups":  # a part's own: its genomes are in no other
        counts = data.by_unit(part).astype(np.float64)
        present = counts > 0
        category = np.array([unit.category for unit in data.units])
        shares = np.zeros(len(counts))
        shares[present] = group_weights(data.viral[present], np.flatnonzero(present), category[present]) / 2
        shares[present] /= counts[present]
    elif balance in ("weights", "sampling"):
        shares = np.where(data.viral, 0.5 / counts[data.viral].sum(), 0.5 / counts[~data.viral].sum())
    elif balance == "categories":
        _, stratum = np.unique([f"{unit.viral:d}{unit.category}" for unit in data.units], return_inverse=True)
        of_stratum = np.bincount(stratum, counts)
        viral = np.zeros(len(of_stratum), bool)
        viral[stratum] = data.viral
        present = np.where(viral, np.sum(of_stratum[viral] > 0), np.sum(of_stratum[~viral] > 0))
        shares = (0.5 / np.maximum(present, 1) / np.maximum(of_stratum, 1))[stratum]
    else:
        shares = np.full(len(counts), 1 / counts.sum())
    return torch.from_numpy(shares * counts.sum()).float()


def _keep(data: Dataset) -> np.ndarray:
    """Probability to draw a training frame, by unit, such that both classes give as many as the smaller has."""
    viral, others = data.frames("train", True), data.frames("train", False)
    return np.where(data.viral, min(viral, others) / viral, min(viral, others) / others)


def _measure(model: Classifier, data: Dataset) -> None:
    """Set the model's standardisation to mean and deviation of the training part's columns, in one pass."""
    total, squares, rows = np.zeros(data.width), np.zeros(data.width), 0
    for batch in data.blocks("train"):
        values = batch.features.astype(np.float64)
        total += values.sum(0)
        squares += (values**2).sum(0)
        rows += len(values)
    mean = total / rows
    deviation = np.sqrt(np.maximum(squares / rows - mean**2, 0))
    deviation[deviation < 1e-6] = 1  # a constant column stays constant
    assert model.input_mean is not None and model.input_scale is not None
    model.input_mean.copy_(torch.from_numpy(mean))
    model.input_scale.copy_(torch.from_numpy(deviation))


def _write_split(path: Path, data: Dataset) -> None:
    samples = {sample.name: sample for sample in data.samples}
    columns = ("sample", "record", "genome", "part", "viral", "category", "frames", "partial_frames")
    rows = []
    for row in data.records:
        sample = samples[row.sample]
        about = (data.parts[row.genome], int(sample.viral), sample.category)
        rows.append(dict(zip(columns, (*row[:3], *about, row.frames, row.partial), strict=True)))
    write_table(path, columns, rows)
