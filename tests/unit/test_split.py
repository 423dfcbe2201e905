"""The shard folder: content, names, where shards close, and what is refused when it is read back."""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
import zstandard

from tests.unit.test_read import bgzip
from virnucpro.errors import InputError, StorageError
from virnucpro.sequences import compression
from virnucpro.sequences import split as splitting
from virnucpro.sequences.chunks import chunk_starts
from virnucpro.sequences.frames import FRAME_NAMES, stop_free_frames
from virnucpro.sequences.read import read_fasta
from virnucpro.sequences.shards import ChunkTexts, ShardWriter, text_hash
from virnucpro.sequences.split import check_protein, iter_records, read_manifest, read_sample, read_shard, split_samples

PARITY = Path(__file__).parents[1] / "data" / "parity"


def split(fastas, folder, chunk_length, shard_frames, empty_records="error", **options):
    """Split one sample, ``s``; returns its own manifest with the unit's."""
    made = split_samples({"s": fastas}, folder, chunk_length, shard_frames, empty_records, **options)
    return {**read_sample(folder, "s"), **made}


def joined(folder, suffix):
    return b"".join((folder / f"{shard['sha']}{suffix}").read_bytes() for shard in read_manifest(folder)["shards"])


def names(folder):
    return [shard["sha"] for shard in read_manifest(folder)["shards"]]


def write(path, records):
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records))
    return path


def contigs(count, seed, prefix="r"):
    """Records of one to four chunks, most of which have an open frame."""
    rng = random.Random(seed)
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in ("TAA", "TAG", "TGA")]
    return [(f"{prefix}{i}", "".join(rng.choices(codons, k=rng.randint(60, 600)))) for i in range(count)]


@pytest.mark.parametrize("shard_frames", [1, 2, 7, 20, 100_000])
def test_parity_with_the_original(tmp_path, shard_frames):
    manifest = split_samples({"s": [PARITY / "input.fa"]}, tmp_path / "shards", 500, shard_frames)
    assert manifest == read_manifest(tmp_path / "shards")
    expected = PARITY / "expected"
    assert joined(tmp_path / "shards", ".fna") == (expected / "input_identified_nucleotide.fa").read_bytes()
    assert joined(tmp_path / "shards", ".faa") == (expected / "input_identified_protein.faa").read_bytes()


def test_manifest_and_records(tmp_path):
    folder = tmp_path / "shards"
    manifest = split([PARITY / "input.fa"], folder, 500, 12)
    records = list(read_fasta(PARITY / "input.fa"))
    assert manifest["records"] == 15
    assert manifest["bases"] == sum(len(record.sequence) for record in records)
    assert manifest["chunks"] == sum(len(chunk_starts(len(record.sequence), 500)) for record in records)
    assert manifest["frames"] == 50 == sum(shard["frames"] for shard in manifest["shards"])
    assert manifest["skipped_records"] == 0 and manifest["files"] == [str(PARITY / "input.fa")]
    assert [row[:3] for row in iter_records(folder, "s")] == [(r.id, len(r.sequence), str(r.file)) for r in records]
    stored = {path.name for path in folder.iterdir()}
    assert stored == {"manifest.json", "samples", "partial"} | {n + s for n in names(folder) for s in (".fna", ".faa")}
    assert {path.name for path in (folder / "samples" / "s").iterdir()} == {"manifest.json", "records.tsv"}
    for shard in manifest["shards"]:
        ids, dna = read_shard(folder / f"{shard['sha']}.fna")
        same, protein = read_shard(folder / f"{shard['sha']}.faa")
        assert ids == same and len(ids) == shard["frames"]
        assert sum(map(len, dna)) == shard["bases"] and sum(map(len, protein)) == shard["residues"]


@pytest.mark.parametrize("shard_frames", [1, 3, 7, 20, 50, 1000])
def test_every_frame_once_and_in_order(tmp_path, shard_frames):
    records = contigs(60, 1)
    manifest = split([write(tmp_path / "x.fa", records)], tmp_path / "shards", 300, shard_frames)
    expected = [
        (f"{name}_chunk_{chunk + 1}{FRAME_NAMES[frame]}", protein)
        for name, sequence in records
        for batch in stop_free_frames([sequence.encode()], 300)
        for chunk, frame, protein in zip(batch.frames.chunk, batch.frames.frame, batch.frames.proteins, strict=True)
    ]
    found, chunks = [], []
    for shard in manifest["shards"]:
        ids, proteins = read_shard(tmp_path / "shards" / f"{shard['sha']}.faa")
        found += zip(ids, proteins, strict=True)
        chunks.append({name[:-2] for name in ids})
        assert len(ids) <= max(6, shard_frames)
    assert found == expected
    assert sum(map(len, chunks)) == len(set().union(*chunks)), "a chunk's frames lie in two shards"
    if len(found) > 2 * shard_frames:
        assert len(manifest["shards"]) <= 3 * len(found) / shard_frames + 1, "shards are too small"


def test_names_follow_from_content_alone(tmp_path):
    records = contigs(40, 2)
    one, two, three = (tmp_path / name for name in "abc")
    split([write(tmp_path / "x.fa", records)], one, 500, 20)
    (tmp_path / "y.fa.gz").write_bytes(gzip.compress((tmp_path / "x.fa").read_bytes().replace(b"\n", b"\r\n")))
    split([tmp_path / "y.fa.gz"], two, 500, 20)
    halves = [write(tmp_path / f"{i}.fa", part) for i, part in enumerate((records[:17], records[17:]))]
    split(halves, three, 500, 20)
    assert names(one) == names(two) == names(three)
    assert len(set(names(one))) == len(names(one)) > 5


def close(chunks, limit, folder):
    """Names of the shards of (id, frames) chunks, through the writer alone."""
    texts = [f">{name}\n".encode() * frames for name, frames in chunks]
    hashes = [int.from_bytes(text_hash(text, text), "big") for text in texts]
    counts = [(frames, 1, 1, len(text), len(text)) for (_, frames), text in zip(chunks, texts, strict=True)]
    with ShardWriter(folder, limit) as writer:
        writer.add(ChunkTexts(b"".join(texts), b"".join(texts), np.array(counts), np.array(hashes, dtype=np.uint64)))
        writer.finish()
    return [shard["sha"] for shard in writer.shards]


@pytest.mark.parametrize(("limit", "mean", "often"), [(7, 2.2, 0.95), (20, 2.0, 0.95), (50, 1.8, 1.0), (400, 1.4, 1.0)])
def test_an_edit_changes_few_shards(tmp_path, limit, mean, often):
    rng = random.Random(limit)

    def make(name):
        return [(f"{name}_{i}", rng.choice([1, 1, 1, 2, 3])) for i in range(rng.choice([1, 1, 2, 3]))]

    records = [make(f"r{i}") for i in range(max(30, 2 * limit))]
    before = set(close([chunk for record in records for chunk in record], limit, tmp_path))
    changed = []
    for trial in range(30 if limit < 400 else 15):
        place = rng.randint(0, len(records) - 1)
        edited = records.copy()
        if trial % 3 == 0:
            del edited[place]
        else:
            edited.insert(place if trial % 3 == 1 else len(records), make(f"new{trial}"))
        changed.append(len(set(close([chunk for record in edited for chunk in record], limit, tmp_path)) - before))
    assert sum(changed) / len(changed) <= mean
    assert sum(count <= 3 for count in changed) / len(changed) >= often


def test_no_frame_at_all_is_no_error(tmp_path):
    stops = "TAGCTAACTAACTGACTAGTTAGTTAG" * 30
    manifest = split([write(tmp_path / "x.fa", [("a", stops), ("b", "AC")])], tmp_path / "shards", 500, 20)
    assert manifest["frames"] == 0 and manifest["shards"] == [] and manifest["chunks"] == 3
    assert [record for record, *_ in iter_records(tmp_path / "shards", "s")] == ["a", "b"]
    assert {path.name for path in (tmp_path / "shards").iterdir()} == {"manifest.json", "samples", "partial"}


def test_empty_records(tmp_path, caplog):
    fasta = write(tmp_path / "x.fa", [("a", "ACGTACGT"), ("none", ""), ("b", "ACGTACGT")])
    with pytest.raises(InputError, match="'none' has no sequence"):
        split([fasta], tmp_path / "shards", 500, 20)
    assert not (tmp_path / "shards").exists()
    manifest = split([fasta], tmp_path / "shards", 500, 20, empty_records="skip")
    assert manifest["skipped_records"] == 1 and manifest["records"] == 2
    assert "left out 1 record" in caplog.text
    with pytest.raises(ValueError, match="empty_records"):
        split([fasta], tmp_path / "shards", 500, 20, empty_records="ignore")


def test_an_error_leaves_an_older_folder_alone(tmp_path):
    split([write(tmp_path / "x.fa", contigs(3, 3))], tmp_path / "shards", 500, 20)
    before = names(tmp_path / "shards")
    with pytest.raises(InputError):
        split([write(tmp_path / "y.fa", [*contigs(3, 3), ("bad", "AC!")])], tmp_path / "shards", 500, 20)
    assert names(tmp_path / "shards") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards", "x.fa", "y.fa"]


def test_an_id_twice_in_one_file_or_in_two(tmp_path):
    once = write(tmp_path / "x.fa", contigs(30, 4))
    twice = write(tmp_path / "y.fa", [*contigs(30, 5, "s"), ("s7", "ACGT")])
    other = write(tmp_path / "z.fa", [*contigs(30, 6, "t"), ("r11", "ACGT")])
    with pytest.raises(InputError, match=f"record 's7' occurs twice in {twice}.*rename"):
        split([once, twice], tmp_path / "shards", 500, 20)
    with pytest.raises(InputError, match=f"record 'r11' occurs in {once} and in {other}"):
        split([once, other], tmp_path / "shards", 500, 20)


@pytest.fixture
def folder(tmp_path):
    split([PARITY / "input.fa"], tmp_path / "shards", 500, 12)
    return tmp_path / "shards"


@pytest.mark.parametrize("suffix", [".fna", ".faa"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-1],
        lambda text: text[: len(text) // 2],
        lambda text: b"",
        lambda text: text.replace(b"A", b"C", 1),
        lambda text: text + b">x\nA\n",
        lambda text: b"".join(text.splitlines(True)[:-2]),
    ],
)
def test_a_damaged_shard_is_refused(folder, suffix, damage):
    path = folder / f"{names(folder)[1]}{suffix}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StorageError, match=f"{path.name}: cut short or changed.*run again"):
        read_shard(path)


def test_missing_pieces_are_named(folder):
    path = folder / f"{names(folder)[0]}.fna"
    with pytest.raises(StorageError, match="not a shard of the manifest"):
        read_shard(folder / "other.fna")
    path.unlink()
    with pytest.raises(StorageError, match=f"{path.name}: can't be read"):
        read_shard(path)
    table = folder / "samples" / "s" / "records.tsv"
    table.write_text("".join(table.read_text().splitlines(True)[:-1]))
    with pytest.raises(StorageError, match="14 rows, the manifest says 15"):
        list(iter_records(folder, "s"))
    table.write_text("nothing\n")
    with pytest.raises(StorageError, match="not a table of records"):
        list(iter_records(folder, "s"))


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_manifest_that_cannot_be_used(folder, content):
    path = folder / "manifest.json"
    path.write_text(content) if content is not None else path.unlink()
    with pytest.raises(StorageError, match=r"manifest\.json.*run again"):
        read_manifest(folder)


def test_manifest_is_plain_json(folder):
    assert set(json.loads((folder / "manifest.json").read_text())["shards"][0]) == {
        "sha",
        "frames",
        "bases",
        "residues",
        "fna_sha256",
        "faa_sha256",
    }


def test_dna_in_place_of_proteins():
    check_protein("x.faa", [b"ACGTN" * 200])  # 1,000 residues may be chance
    check_protein("x.faa", [b"ACGTN" * 1000, b"M"])
    check_protein("x.faa", [])
    with pytest.raises(InputError, match=r"x\.faa: all 1001 residues.*DNA where proteins"):
        check_protein("x.faa", [b"ACGTN" * 200, b"A"])


def tree(folder):
    """File → content of a shard folder, without what the job took."""
    made = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    made["manifest.json"] = {**json.loads(made["manifest.json"]), "job": None}
    return made


def odd_files(folder):
    """Records of all lengths in all forms: of a base, of none, RNA, FASTQ, several records to a block and the reverse."""
    rng = random.Random(9)
    text = "".join(letters for _, letters in contigs(60, 10))
    lengths = [1, 2, 0, 30, 299, 300, 301, 0, 500, 3000, 20_000, 7, *rng.choices(range(1200), k=60)]

    def records(name):
        for number, length in enumerate(lengths):
            at = rng.randrange(len(text) - length)
            letters = text[at : at + length]
            yield f"{name}{number} é", letters.translate(str.maketrans("Tt", "Uu")) if number % 7 == 3 else letters

    made = {}
    for name, end, width in (("unix", "\n", 60), ("windows", "\r\n", 70), ("mac", "\r", 10_000), ("narrow", "\n", 1)):
        lines = (end.join([f">{n}", *(s[i : i + width] for i in range(0, len(s), width))]) for n, s in records(name))
        made[f"{name}.fa"] = (end.join(lines) + end * 3).encode()
    made["reads.fq"] = "".join(f"@{n}\n{s}\n+\n{'@' * len(s)}\n" for n, s in records("read")).encode()
    packed = {"fa.gz": gzip.compress, "fa.bgz": bgzip_members, "fa.zst": zstandard.compress}
    for name, (suffix, compress) in zip(("gz", "bgz", "zst"), packed.items(), strict=True):
        made[f"{name}.{suffix}"] = compress("".join(f">{n}\n{s}\n" for n, s in records(name)).encode())
    made["no_end.fa"] = b">last\nACGTACGT"
    paths = [folder / name for name in made]
    for path in paths:
        path.write_bytes(made[path.name])
    return paths


def bgzip_members(content):
    parts = [content[at : at + 700] for at in range(0, len(content), 700)]
    return b"".join(bgzip(part).removesuffix(bgzip(b"")) for part in parts) + bgzip(b"")


@pytest.mark.parametrize(("threads", "size", "first"), [(1, 40, 0), (2, 40, 3), (3, 1_000, 0), (2, 30_000, 1)])
@pytest.mark.parametrize(("chunk_length", "shard_frames"), [(300, 50), (500, 100_000)])
def test_the_same_with_any_number_of_threads(
    tmp_path, monkeypatch, threads, size, first, chunk_length, shard_frames, caplog
):
    paths = odd_files(tmp_path)
    split(paths, tmp_path / "one", chunk_length, shard_frames, "skip")
    notes = [record.message for record in caplog.records]
    caplog.clear()
    monkeypatch.setattr(splitting, "BLOCK_BYTES", size)
    monkeypatch.setattr(splitting, "BLOCKS_IN_PROCESS", first)
    monkeypatch.setattr(compression, "BLOCK_BYTES", 1 << 10)
    split(paths, tmp_path / "many", chunk_length, shard_frames, "skip", threads=threads)
    assert tree(tmp_path / "one") == tree(tmp_path / "many")
    assert notes == [record.message for record in caplog.records]
    assert sum(shard["frames"] for shard in read_manifest(tmp_path / "many")["shards"]) > 500


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("x.fa", lambda text: text + b">bad\nAC!\n>bad too\n\n"),
        ("x.fa", lambda text: b">bad\nAC!\n" + text + b">bad too\n\n"),
        ("x.fa", lambda text: text + b">long\n" + b"ACGT" * 3000 + b"*\n>none\n"),
        ("x.fa", lambda text: text + b">a\x00\nAC\n" + text),
        ("x.fa", lambda text: text + b">none\n>a\nAC\n"),
        ("x.fa", lambda text: text + b">r7 again\nAC\n"),
        ("x.fa", lambda text: text + b">\xff\nAC\n"),
        ("x.fa", lambda text: text + b">" + b"x" * (1 << 21)),
        ("x.fa.gz", lambda text: gzip.compress(text + b">bad\nAC!\n")),
        ("x.fa.gz", lambda text: gzip.compress(text, mtime=0)[:-9]),
        ("x.fa.bgz", lambda text: bgzip_members(text)[:-40]),
        ("x.fa.bgz", lambda text: bgzip_members(text) + b"what follows is no gzip"),
        ("x.fq", lambda text: b"@a\nACGT\n+\nIIII\n" * 900 + b"@b\nAC\n+\nIII\n"),
        ("x.fq", lambda text: b"@a\nACGT\n+\nIIII\n" * 900 + b"\n\n\n\n@b\nAC\n+\nII\n"),
        ("x.fq", lambda text: b"@a\nACGT\n+\nIIII\n" * 900 + b"@b\nAC\n"),
        ("x.txt", lambda text: b"LOCUS " + text),
        ("x.txt", lambda text: b" \n"),
    ],
)
def test_errors_are_the_same_with_processes(tmp_path, monkeypatch, name, change):
    path = tmp_path / name
    path.write_bytes(change(write(tmp_path / "all.fa", contigs(30, 4)).read_bytes()))
    with pytest.raises(InputError) as one:
        split([path], tmp_path / "shards", 300, 50)
    monkeypatch.setattr(splitting, "BLOCK_BYTES", 2_000)
    monkeypatch.setattr(splitting, "BLOCKS_IN_PROCESS", 1)
    with pytest.raises(InputError) as two:
        split([path], tmp_path / "shards", 300, 50, threads=2)
    assert str(one.value) == str(two.value)
    assert {entry.name for entry in tmp_path.iterdir()} == {"all.fa", name}


def test_small_samples_start_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    split([PARITY / "input.fa"], tmp_path / "shards", 500, 12, threads=8)
