"""A sample's vectors and a classifier → everything that a user reads: tables, regions, viral sequences and report, in one job.

One process, since for a small sample starting it costs more than all that it does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from virnucpro.calls.controls import write_controls
from virnucpro.calls.predict import Outputs, predict
from virnucpro.calls.region_files import RegionFiles, RegionPaths
from virnucpro.calls.rules import Rules
from virnucpro.calls.viral import write_viral
from virnucpro.classifier.spec import read_classifier_spec
from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.outputs import remove_regions
from virnucpro.rendering import how_many
from virnucpro.report.page import write_sample_page

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Results(Outputs):
    """The files of one sample; without those of regions, none are looked for."""

    viral: Path  # viral.fasta.gz
    page: Path  # report.html
    regions: Path | None = None  # regions.tsv
    regions_gff: Path | None = None  # regions.gff3
    regions_bed: Path | None = None  # regions.bed
    viral_regions: Path | None = None  # viral_regions.fasta.gz
    controls: Path | None = None  # controls.tsv, beside the others

    @property
    def of_regions(self) -> RegionPaths | None:
        """The files of regions, if they are wanted."""
        if not (self.regions and self.regions_gff and self.regions_bed and self.viral_regions):
            return None
        return RegionPaths(self.regions, self.regions_gff, self.regions_bed, self.viral_regions)


def make_results(
    sample: str,
    merged: Path,
    classifier: Path,
    shards: Path,
    fastas: Sequence[Path],
    results: Results,
    rules: Rules,
    *,
    shuffled: Path | None = None,
    given: Path | None = None,
    check: str | None = None,
    threads: int = 1,
    **options: Any,
) -> None:
    """Write all results of a sample; files of regions that a run left there are removed if none are wanted now.

    Args:
        sample: its name.
        merged, classifier, shards: see ``calls.predict.predict``, which also has the other options.
        fastas: its input files, in the order that they were split in.
        results: the files to make.
        rules: of the calls.
        shuffled, given: ``contigs.tsv`` of its controls, if it has such; see ``calls.controls.write_controls``.
        check: content of ``check.json``, if there is one, for the report.
        threads: CPU threads.

    Raises:
        ModelError, StorageError: what ``predict``, ``write_viral`` and the model of regions refuse.
    """
    model, folder = read_classifier_spec(classifier).read_regions(classifier), results.summary.parent

    def read_again() -> dict[str, Any] | None:
        """What follows from the tables and the input; the numbers of regions."""
        if (paths := results.of_regions) is None:
            remove_regions(folder)
            write_viral(results.contigs, fastas, results.viral, threads)
            return None
        with RegionFiles(paths, results.chunks, model, rules.chunk_length, threads) as regions:
            write_viral(results.contigs, fastas, results.viral, threads, regions)
        found, where = how_many(regions.counts.regions, "viral region"), how_many(regions.counts.records, "sequence")
        logger.info("found %s in %s", found, where)
        return asdict(regions.counts)

    outputs = Outputs(**{field.name: getattr(results, field.name) for field in fields(Outputs)})
    controls = write_controls(folder, classifier, rules, shuffled, given)
    predict(merged, classifier, shards, sample, outputs, rules, threads=threads, find_regions=read_again, **options)
    write_sample_page(folder, sample, fastas, results.page, MergedEmbeddings(merged).provenance, check, controls)
