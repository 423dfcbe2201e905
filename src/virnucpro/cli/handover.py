"""``virnucpro join`` and ``virnucpro export``: on to the next program."""

from __future__ import annotations

from pathlib import Path

import click

from virnucpro.cli.options import UserPath
from virnucpro.outputs import EMBEDDINGS, REGIONS, TABLES, refuse_existing

_force = click.option("--force", is_flag=True, help="Replace what is written if it is there.")


@click.command()
@click.argument("sample", type=UserPath(exists=True, file_okay=False))
@click.option("--checkv", type=UserPath(dir_okay=False), help="CheckV's quality_summary.tsv.")
@click.option("--contamination", type=UserPath(dir_okay=False), help="CheckV's contamination.tsv, which says where its proviruses lie; "
              "of the run that cut them out.  [default: that beside quality_summary.tsv, if it is there]")  # fmt: skip
@click.option("--genomad", multiple=True, type=UserPath(dir_okay=False),
              help="geNomad's _virus_summary.tsv or _plasmid_summary.tsv; twice for both.")  # fmt: skip
@click.option("--paf", type=UserPath(dir_okay=False), help="Reads aligned to the contigs (minimap2 without -a).")
@click.option("--min-mapq", type=click.IntRange(0, 255), default=5, show_default=True,
              help="Lowest mapping quality of alignments that count.")  # fmt: skip
@click.option("--output", "-o", required=True, type=UserPath(), metavar="FILE", help="The joined table.")
@_force
def join(
    sample: str,
    checkv: str | None,
    contamination: str | None,
    genomad: tuple[str, ...],
    paf: str | None,
    min_mapq: int,
    output: str,
    force: bool,
) -> None:
    """Put CheckV's, geNomad's and reads' word beside contigs.tsv.

    SAMPLE is a sample's folder in the output of a run; its regions are in the table, too. Tables may be
    compressed. A table whose ids are all of other sequences is refused; single ids that aren't the sample's are counted, and listed in FILE.unmatched.tsv.

    \b
    Example:
      virnucpro join out/gut --checkv checkv/quality_summary.tsv --paf reads.paf.gz -o joined.tsv
    """
    from virnucpro.handover import join as joining

    given = [path for path in (checkv, contamination, paf, *genomad) if path]
    if not given or (contamination and not checkv):
        raise click.UsageError(
            "--contamination goes with --checkv."
            if given
            else "Give --checkv, --genomad or --paf: what is to be joined."
        )
    unmatched = joining.unmatched_path(Path(output))
    for made in (Path(output), unmatched):
        for source in (Path(sample) / TABLES["contigs"], Path(sample) / REGIONS["regions"], *map(Path, given)):
            refuse_existing(made, force, source)
    tables = joining.join(
        Path(sample),
        Path(output),
        checkv=Path(checkv) if checkv else None,
        contamination=Path(contamination) if contamination else None,
        genomad=[Path(path) for path in genomad],
        paf=Path(paf) if paf else None,
        min_mapq=min_mapq,
    )
    for table in tables:
        click.echo(table.said())
    others = any(table.unmatched for table in tables)
    click.echo(output + (f"; ids that aren't the sample's: {unmatched}" if others else ""))


@click.command()
@click.argument("sample", type=UserPath(exists=True, file_okay=False))
@click.option("--anndata", required=True, type=UserPath(), metavar="FILE", help="The AnnData file (.h5ad) to write.")
@click.option("--level", type=click.Choice(["frame", "contig"]), default="frame", show_default=True,
              help="A row per stop-free frame, or per contig the mean of its frames, partial ones included.")  # fmt: skip
@_force
def export(sample: str, anndata: str, level: str, force: bool) -> None:
    """Write the vectors with the calls, as AnnData.

    SAMPLE is a sample's folder in the output of a run.

    \b
    Example:
      virnucpro export out/gut --anndata gut.h5ad --level contig
    """
    from virnucpro.handover.anndata import export as export_anndata

    refuse_existing(anndata, force, Path(sample) / EMBEDDINGS)
    rows, left_out = export_anndata(Path(sample), Path(anndata), level)
    click.echo(f"{anndata}: {rows:,} {level}s" + (f"; {left_out:,} without a frame left out" if left_out else ""))
