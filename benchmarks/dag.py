"""What Snakemake itself costs with many shards: time and memory to plan a run, and jobs per second handed to a cluster.

    python benchmarks/dag.py [--shards 20000] [--seconds 300]

The bundled example is run, then its manifest is replaced by one with so many shards, all pretended. Measured are
`plan` (a dry run with every embedding to do), `submit` (a cluster, pretended too, that finishes every job at once:
jobs per second, within the given time, and how long the first took) and `again` (nothing to do). The submissions need
snakemake-executor-plugin-cluster-generic, and are measured with the scheduler options of workflow/profiles/slurm.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from virnucpro import installation

SAMPLE = Path("results", "example")
VECTORS = Path("results", "embeddings")
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--snakefile", str(installation.snakefile())]
SNAKEMAKE += ["--config", "partial_frames=false"]
SUBMIT = r"""#!/bin/bash
text=$(<"$1")
[[ $text =~ \"output\":\ \[\"([^\"]*)\" ]] && output=${BASH_REMATCH[1]}
mkdir -p "${output%/*}"
: > "$output"
[[ $text =~ ([^\ \"\']*jobfinished) ]] && : > "${BASH_REMATCH[1]}"
echo 1
"""


def run(folder: Path, *arguments: str) -> str:
    """Run Snakemake to its end; returns what it printed."""
    done = subprocess.run(
        [*SNAKEMAKE, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def measured(folder: Path, *arguments: str) -> tuple[str, str]:
    """What Snakemake printed; its wall time, processor time and peak memory as a text."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    text = run(folder, *arguments)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return text, f"{wall:7.1f} s   {cpu:7.1f} s of a core   {after.ru_maxrss / 2**20:5.2f} GB"


def pretend_shards(folder: Path, count: int) -> list[str]:
    """Give the finished example so many shards, without vectors; returns their names."""
    shards = folder / SAMPLE / "shards"
    manifest = json.loads((shards / "manifest.json").read_text())
    names = [hashlib.md5(str(number).encode()).hexdigest() for number in range(count)]
    manifest["shards"] = [manifest["shards"][0] | {"sha": name} for name in names]
    manifest["frames"] = manifest["samples"][SAMPLE.name]["frames"] = count * manifest["shards"][0]["frames"]
    (shards / "manifest.json").write_text(json.dumps(manifest))
    own = shards / "samples" / SAMPLE.name / "manifest.json"
    own.write_text(json.dumps(json.loads(own.read_text()) | {"frames": manifest["frames"]}))
    for name in names:
        for suffix in (".fna", ".faa"):
            (shards / f"{name}{suffix}").write_text(">a\nA\n")
    (shards / ".snakemake_timestamp").touch()
    return names


def pretend_vectors(folder: Path, vectors: list[Path], names: list[str]) -> None:
    """Make all shards' vectors, and Snakemake's records of them, after those of one shard; and newer results."""
    records = folder / ".snakemake" / "metadata"
    for path in vectors:
        record = (records / base64.b64encode(bytes(path)).decode()).read_text()
        (folder / path.parent).mkdir(parents=True, exist_ok=True)
        for name in names:
            other = path.with_stem(name)
            (folder / other).touch()
            (records / base64.b64encode(bytes(other)).decode()).write_text(record.replace(path.stem, name))
    merged = SAMPLE / "embeddings.h5"
    (records / base64.b64encode(bytes(merged)).decode()).unlink()  # its inputs aren't those of the example
    results = [path for path in (folder / SAMPLE).iterdir() if path.is_file() and path.name != merged.name]
    for outputs in ([folder / merged], results):  # each newer than the one before
        time.sleep(0.1)
        for path in outputs:
            path.touch()


def processor_time(process: int) -> float:
    """Seconds of a core that a process has used, its children not counted."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def submissions(folder: Path, seconds: float) -> str:
    """Embedding jobs that Snakemake hands over and takes back, and what that costs it."""
    submit = folder / "submit"
    submit.write_text(SUBMIT)
    submit.chmod(0o755)
    profile = yaml.safe_load((installation.root() / "workflow/profiles/slurm/config.yaml").read_text())
    options = [f"--{key}={profile[key]}" for key in ("jobs", "scheduler", "scheduler-subsample") if key in profile]
    options += ["--max-status-checks-per-second=1000", "--latency-wait=1"]
    log = folder / "submissions.log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [*SNAKEMAKE, "--executor=cluster-generic", f"--cluster-generic-submit-cmd={submit}", *options],
            cwd=folder,
            stdout=file,
            stderr=file,
        )
        end, points = time.perf_counter() + seconds, []
        while process.poll() is None and time.perf_counter() < end:
            time.sleep(0.5)
            done = len(re.findall(r"^Finished jobid", log.read_text(), flags=re.MULTILINE))
            if done and (not points or done > points[-1][0]):
                points.append((done, time.perf_counter(), processor_time(process.pid)))
        process.kill()
        process.wait()
    if len(points) < 2:
        return f"too few in {seconds:.0f} s"
    jobs, wall, cpu = (last - first for first, last in zip(points[0], points[-1], strict=True))
    return f"{jobs} jobs in {wall:.0f} s, {1000 * cpu / jobs:.1f} ms of a core each, after {points[0][2]:.0f} s of planning"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run(folder, "--cores=2")
        vectors = [path.relative_to(folder) for path in (folder / VECTORS).rglob("*.h5")]
        assert len(vectors) == 2, vectors
        shutil.rmtree(folder / VECTORS)
        names = pretend_shards(folder, arguments.shards)
        (folder / SAMPLE / "embeddings.h5").rename(folder / "merged.h5")
        text, cost = measured(folder, "--dry-run", "--cores=2", "--quiet=rules")
        assert re.search(rf"^embed_esm2 +{arguments.shards}$", text, flags=re.MULTILINE), text[-2000:]
        print(f"{arguments.shards} shards\nplan    {cost}", flush=True)
        print(f"submit  {submissions(folder, arguments.seconds)}", flush=True)
        (folder / "merged.h5").rename(folder / SAMPLE / "embeddings.h5")
        pretend_vectors(folder, vectors, names)
        run(folder, "--unlock")  # the submissions were cut short
        shutil.rmtree(folder / ".snakemake" / "incomplete")
        text, cost = measured(folder, "--cores=2")
        assert "Nothing to be done" in text, text[-2000:]
        print(f"again   {cost}")


if __name__ == "__main__":
    main()
