"""Speed of chunking and six-frame translation against a plain implementation; memory and locality of split.

    python benchmarks/sequences.py [FASTA ...]      bases per second on one core, outputs compared
    python benchmarks/sequences.py --memory         peak memory of split_samples for 10 MB and 500 MB
    python benchmarks/sequences.py --locality       shards computed again after an edit

The plain implementation works on Biopython records: per chunk a slice and its reverse complement, per
frame a list of codons looked up in a dictionary, joined, and searched for stops. Parsing is excluded on
both sides, and both run on the same records, in turn, timed by the processor time of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from Bio.Data import CodonTable
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

from virnucpro.sequences.chunks import chunk_starts
from virnucpro.sequences.frames import stop_free_frames
from virnucpro.sequences.read import read_fasta
from virnucpro.sequences.shards import ChunkTexts, ShardWriter, text_hash

TABLE = CodonTable.unambiguous_dna_by_id[1]
CODONS = TABLE.forward_table | dict.fromkeys(TABLE.stop_codons, "*")
COMPLEMENT = str.maketrans("ACGT", "TGCA")

Frame = tuple[int, int, int, str, str]


def plain_frames(records: list[SeqRecord], chunk_length: int) -> Iterator[Frame]:
    """(record, chunk, frame, nucleotides, protein) of each open frame."""
    for number, record in enumerate(records):
        for index, start in enumerate(chunk_starts(len(record), chunk_length).tolist()):
            forward = str(record.seq[start : start + chunk_length]).upper()
            reverse = forward.translate(COMPLEMENT)[::-1]
            for frame in range(6):
                strand, offset = (forward if frame < 3 else reverse), frame % 3
                codons = [strand[i : i + 3] for i in range(offset, len(strand) - 2, 3)]
                protein = "".join([CODONS.get(codon, "") for codon in codons])
                if protein and "*" not in protein:
                    yield number, index, frame, strand[offset : offset + 3 * len(protein) + 1], protein


def fast_frames(sequences: list[bytes], chunk_length: int) -> Iterator[Frame]:
    """The same from the library."""
    for batch in stop_free_frames(sequences, chunk_length):
        found = batch.frames
        columns = found.record.tolist(), found.chunk.tolist(), found.frame.tolist()
        texts = ([text.decode() for text in found.nucleotides], [text.decode() for text in found.proteins])
        yield from zip(*columns, *texts, strict=True)


def genome(bases: int, seed: int) -> bytes:
    """Genome-like letters: genes of 450 to 2,400 bases on either strand, random stretches between them."""
    rng = random.Random(seed)
    sense = sorted(TABLE.forward_table)
    complement = bytes.maketrans(b"ACGT", b"TGCA")
    parts, size = [], 0
    while size < bases:
        gene = "".join(rng.choices(sense, k=rng.randint(150, 800))).encode()
        between = "".join(rng.choices("ACGT", k=rng.randint(0, 60))).encode()
        parts += [gene if rng.random() < 0.5 else gene.translate(complement)[::-1], between]
        size += len(gene) + len(between)
    return b"".join(parts)[:bases]


def measure(name: str, sequences: list[bytes], chunk_length: int, repeats: int) -> dict[str, float | str]:
    """One row of the table; the outputs must be equal."""
    bases = sum(map(len, sequences))
    copies = max(1, 8_000_000 // bases)  # so that the fast side, too, runs long enough to be timed
    many = sequences * copies
    plain_bases, sample = 0, []
    for sequence in sequences:  # the plain side is slow: about 1 MB will do
        sample.append(SeqRecord(Seq(sequence[: 1_000_000 - plain_bases]), id=str(len(sample))))
        plain_bases += len(sample[-1])
        if plain_bases >= 1_000_000:
            break
    checked = [bytes(record.seq) for record in sample]
    if list(plain_frames(sample, chunk_length)) != list(fast_frames(checked, chunk_length)):
        raise SystemExit(f"{name}: the outputs differ")
    plain, fast, frames, chunks = [], [], 0, 0
    for _ in range(repeats):
        begin = time.process_time()
        for _frame in plain_frames(sample, chunk_length):
            pass
        plain.append(plain_bases / (time.process_time() - begin))
        for _inner in range(3):
            frames = chunks = 0
            begin = time.process_time()
            for batch in stop_free_frames(many, chunk_length):
                frames, chunks = frames + len(batch.frames.proteins), chunks + batch.chunks
            fast.append(bases * copies / (time.process_time() - begin))
    return {
        "input": name,
        "records": len(sequences),
        "frames/chunk": round(frames / chunks, 2),
        "plain Mb/s": round(statistics.median(plain) / 1e6, 2),
        "library Mb/s": round(statistics.median(fast) / 1e6, 1),
        "times": round(statistics.median(fast) / statistics.median(plain), 1),
        "best/best": round(max(fast) / max(plain), 1),
    }


def show(rows: list[dict]) -> None:
    """Print rows as a table."""
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}
    for row in [{key: key for key in rows[0]}, *rows]:
        print("  ".join(str(row[key]).rjust(width) for key, width in widths.items()))


def speed(files: list[Path], repeats: int) -> None:
    """Speed for generated genomes, contigs and reads, and for files."""
    genes = genome(10_000_000, 1)
    lower = genes[:5_000_000].lower()
    gaps = np.frombuffer(genes, dtype=np.uint8).copy()
    gaps[np.random.default_rng(1).integers(0, len(gaps), 1000)] = ord("N")
    inputs = {
        "genome, C=500": ([genes], 500),
        "genome, C=300": ([genes], 300),
        "lower case": ([lower], 500),
        "1 N in 10 kb": ([gaps.tobytes()], 500),
        "contigs of 3 kb": ([genes[i : i + 3000] for i in range(0, len(genes), 3000)], 500),
        "reads of 300": ([genes[i : i + 300] for i in range(0, len(genes), 300)], 300),
    }
    inputs |= {file.name: ([record.sequence for record in read_fasta(file)], 500) for file in files}
    show([measure(name, *given, repeats) for name, given in inputs.items()])


def memory() -> None:
    """Peak memory of split_samples in a process of its own, for many records of 500 to 5,000 bases."""
    program = (
        "import json, sys, time; from pathlib import Path\n"
        "from virnucpro.sequences.split import split_samples, read_sample\n"
        "begin = time.perf_counter()\n"
        "split_samples({'x': [Path(sys.argv[1])]}, Path(sys.argv[2]), 500, 100_000)\n"
        "manifest = read_sample(sys.argv[2], 'x')\n"
        # Not ru_maxrss, which a process inherits from the one that starts it.
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "peak = int(status['VmHWM'].split()[0]) / 1024\n"
        "print(json.dumps([peak, time.perf_counter() - begin, manifest['records'], manifest['frames']]))"
    )
    rows = []
    for megabytes in (10, 500):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            path, rng = Path(folder) / "x.fa", random.Random(1)
            genes = genome(5_000_000, 2)
            with open(path, "wb") as file:
                number = 0
                while file.tell() < megabytes * 1e6:
                    start, length = rng.randrange(len(genes) - 5000), rng.randint(500, 5000)
                    text = genes[start : start + length]
                    lines = b"\n".join(text[i : i + 60] for i in range(0, length, 60))
                    file.write(b">contig_%d\n%s\n" % (number, lines))
                    number += 1
            command = [sys.executable, "-c", program, str(path), str(Path(folder) / "shards")]
            peak, seconds, records, frames = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        rows.append({"MB": megabytes, "records": records, "frames": frames, "peak MB": round(peak, 1)})
        rows[-1] |= {"seconds": round(seconds, 1), "MB/s": round(megabytes / seconds, 1)}
    show(rows)
    print(f"peak memory grows by {100 * (rows[1]['peak MB'] / rows[0]['peak MB'] - 1):.1f} %")


def locality(trials: int) -> None:
    """Shards that change when a record of 1 to 7 chunks is inserted, removed or appended anywhere."""
    rows = []
    for limit in (7, 20, 50, 200, 1000, 5000):
        rng = random.Random(limit)

        def record(name: str, rng: random.Random = rng) -> list[tuple[str, int]]:
            return [(f"{name}_{i}", rng.choice([1, 1, 1, 1, 2, 2, 3])) for i in range(rng.choice([1, 1, 2, 3, 7]))]

        def close(records: list, limit: int = limit) -> list[str]:
            with tempfile.TemporaryDirectory() as folder:
                texts = [(name.encode() * frames, frames) for record in records for name, frames in record]
                hashes = [int.from_bytes(text_hash(text, b""), "big") for text, _ in texts]
                counts = np.array([(frames, 0, 0, len(text), 0) for text, frames in texts])
                with ShardWriter(Path(folder), limit) as writer:
                    joined = b"".join(text for text, _ in texts)
                    writer.add(ChunkTexts(joined, b"", counts, np.array(hashes, dtype=np.uint64)))
                    writer.finish()
            return [shard["sha"] for shard in writer.shards]

        records = [record(f"r{i}") for i in range(max(60, 2 * limit))]
        before = close(records)
        changed = []
        for trial in range(trials if limit < 1000 else max(10, trials // 10)):
            place = rng.randint(0, len(records) - 1)
            edited = records.copy()
            if trial % 3 == 0:
                del edited[place]
            else:
                edited.insert(place if trial % 3 == 1 else len(records), record(f"new{trial}"))
            changed.append(len(set(close(edited)) - set(before)))
        few = sum(count <= 3 for count in changed) / len(changed)
        rows.append({"shard_frames": limit, "shards": len(before), "edits": len(changed)})
        rows[-1] |= {"mean": round(statistics.mean(changed), 2), "<= 3": f"{100 * few:.1f} %", "most": max(changed)}
    show(rows)


def cpu() -> str:
    """Name of the processor."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].split(":", 1)[1].strip() if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fasta", nargs="*", type=Path, help="also measure on these files")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="peak memory of split_fasta instead")
    parser.add_argument("--locality", action="store_true", help="shards changed by an edit instead")
    arguments = parser.parse_args()
    print(f"{cpu()}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}")
    if arguments.memory:
        memory()
    elif arguments.locality:
        locality(100)
    else:
        speed(arguments.fasta, arguments.repeats)


if __name__ == "__main__":
    main()
