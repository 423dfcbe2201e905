"""`virnucpro check` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np

from tests.workflow.conftest import coding, fasta
from tests.workflow.runner import environment


def test_the_table_is_printed_and_a_failure_is_a_status(tiny, tmp_path):
    """Own frames pass; vectors that someone is said to have published don't."""
    (tmp_path / "in.fa").write_text(fasta({f"r{number}": coding(number, 900) for number in range(4)}))
    (tmp_path / "identified_nucleotide.fa").write_text(">a\n" + coding(1, 300) + "\n")
    (tmp_path / "identified_protein.fa").write_text(">a\nMKV\n")
    np.savez(tmp_path / "merged.npz", ids=np.array(["a"]), embeddings=np.ones((1, 64), np.float32))
    models = {key: value for key, value in tiny.config().items() if key != "shard_frames"}
    done = subprocess.run(
        [sys.executable, "-m", "virnucpro", "check", "in.fa", "--output=out", "--cores=2", "--frames=10",
         "--published=merged.npz", *(f"--{key.replace('_', '-')}={value}" for key, value in models.items())],
        cwd=tmp_path, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert done.returncode > 0
    assert "dna against published, protein against published" in done.stderr
    result = json.loads((tmp_path / "out" / "check" / "check.json").read_text())
    own = [row for row in result["rows"] if row["reference"] != "published"]
    assert len(own) == 4 and all(row["passed"] for row in own) and not result["passed"]
    assert result["frames"] == 10 and result["run"]["versions"]["snakemake"]
    assert (tmp_path / "out" / "check" / "check.txt").read_text() in done.stdout
