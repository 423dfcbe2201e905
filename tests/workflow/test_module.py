"""As a module of another workflow, with input that a rule of that workflow makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.workflow.conftest import coding, fasta
from tests.workflow.runner import ROOT, environment

OUTER = """
rule target:
    input: "results/s/contigs.tsv"
    output: "copied.tsv"
    shell: "cp {{input}} {{output}}"

rule make_input:
    input: "raw.txt"
    output: "made/input.fa"
    shell: "cp {{input}} {{output}}"

module virnucpro:
    snakefile: "{snakefile}"
    config: {config}

use rule * from virnucpro as virnucpro_*
"""


def test_module_with_input_made_by_another_rule(tmp_path: Path, tiny):
    (tmp_path / "raw.txt").write_text(fasta({"r1": coding(1, 900)}))
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "samples.tsv").write_text("sample\tfasta\ns\t../made/input.fa\n")
    (tmp_path / "config" / "config.yaml").write_text("genome: of the other workflow\n")
    config = {key: value if isinstance(value, int) else str(value) for key, value in tiny.config().items()}
    config["samples"] = "config/samples.tsv"
    (tmp_path / "Snakefile").write_text(OUTER.format(snakefile=ROOT / "workflow" / "Snakefile", config=config))
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "copied.tsv").read_text().splitlines()[1].startswith("r1\t900\t3\t")
