"""training/: how the corpus is divided, what contigs and windows are drawn, what the shuffles keep."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import partial
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from virnucpro import installation
from virnucpro.classifier.labels import groups_from_headers, read_labelled_fasta, read_labelled_records
from virnucpro.encoders.embed import Embedded, embed
from virnucpro.encoders.loading import load_encoder
from virnucpro.models.model_file import read_entry
from virnucpro.sequences.frames import stop_free_frames

sys.path.insert(0, str(installation.root() / "training"))  # its scripts import each other
make_contigs, make_corpus, make_reads, make_training_labels, sequences, windows = map(
    import_module, ("make_contigs", "make_corpus", "make_reads", "make_training_labels", "sequences", "windows")
)
find_prophages, make_implants, measure_regions = map(
    import_module, ("find_prophages", "make_implants", "measure_regions")
)
sys.path.pop(0)

BASES = st.lists(st.integers(0, 3), min_size=2, max_size=80).map(lambda codes: np.array(codes, np.uint8))


def random_codes(length, seed):
    return np.random.default_rng(seed).integers(0, 4, length).astype(np.uint8)


def pool(lengths, seed=0):
    """A category with one group for each length."""
    records = [make_contigs.Record(f"r{i}", f"g{i}", random_codes(n, (seed, i))) for i, n in enumerate(lengths)]
    return make_contigs.Pool(records, np.random.default_rng(seed))


@given(BASES, st.integers(0, 9))
def test_shuffles_keep_codons_and_dinucleotides(codes, seed):
    rng = np.random.default_rng(seed)

    def words(array, size, step):
        return Counter(tuple(array[i : i + size].tolist()) for i in range(0, len(array) - size + 1, step))

    shuffled = make_contigs.shuffle_codons(codes, rng)
    assert words(shuffled, 3, 3) == words(codes, 3, 3) and len(shuffled) == len(codes)
    shuffled = make_contigs.shuffle_dinucleotides(codes, rng)
    assert words(shuffled, 2, 1) == words(codes, 2, 1) and len(shuffled) == len(codes)


def test_shuffles_differ_from_their_source():
    codes, rng = random_codes(600, 1), np.random.default_rng(1)
    for shuffle in (make_contigs.shuffle_codons, make_contigs.shuffle_dinucleotides):
        assert (shuffle(codes, rng) != codes).mean() > 0.5


def test_tandem_repeat_has_a_unit_of_the_source():
    codes = random_codes(500, 2)
    repeat = make_contigs.tandem_repeat(codes, 1234, np.random.default_rng(3))
    units = [n for n in range(45, 151) if (repeat[n:] == repeat[:-n]).all()]
    assert len(repeat) == 1234 and units
    assert sequences.decode(repeat[: units[0]]) in sequences.decode(codes)


def test_contigs_of_a_pool_do_not_overlap_and_avoid_unknown_bases():
    one = pool([4000, 4000, 700])
    one.records[0].codes[2000] = 4
    one = make_contigs.Pool(one.records, np.random.default_rng(1))
    spans = set()
    contigs = [one.draw(make_contigs.Slot(length, "x")) for length in (1500, 1400, 600, 600, 500, 500)]
    for contig in contigs:
        name, span, strand = contig.source.split(":")
        first, last = map(int, span.split("-"))
        codes = one.records[int(name[1:])].codes[first - 1 : last]
        assert (contig.codes == (codes if strand == "+" else sequences.reverse_complement(codes))).all()
        assert contig.codes.max() < 4
        assert not spans & {(name, i) for i in range(first, last + 1)}
        spans |= {(name, i) for i in range(first, last + 1)}
    assert one.draw(make_contigs.Slot(4000, "x")) is None


def test_groups_take_turns():
    one = pool([200_000, 3000, 3000])
    drawn = Counter(one.draw(make_contigs.Slot(500, "x")).group for _ in range(9))
    assert drawn == {"g0": 3, "g1": 3, "g2": 3}


def test_lengths_are_alike_whatever_a_category_can_give():
    count, rng = 40, np.random.default_rng(7)
    viral = {"a": pool([300_000] * 3, 1), "b": pool([6000] * 100, 2)}
    others = {"c": pool([25_000] * 40, 3), "d": pool([25_000] * 40, 4), "e": pool([15_000] * 60, 5)}
    sizes = []
    for pools in (viral, others):
        contigs, exchanged, unfilled = make_contigs.draw_class(pools, count, rng)
        assert exchanged and not unfilled
        assert Counter(contig.category for contig in contigs) == dict.fromkeys(pools, count)
        sizes.append(np.sort(np.log([len(contig.codes) for contig in contigs])))
    quantiles = [np.quantile(each, [0, 0.25, 0.5, 0.75, 1]) for each in sizes]
    assert np.allclose(*quantiles, atol=0.15)
    scarce = make_contigs.draw_class({"a": pool([30_000]), "c": pool([300_000])}, count, rng)[0]
    assert Counter(contig.category for contig in scarce)["a"] < 4


def write_corpus(path, groups=4):
    """A corpus with some groups of each category, in the part `dev`, and one in `train`."""
    parts = {"train": [], "dev": []}
    for c, category in enumerate((*make_contigs.VIRAL, *make_contigs.CELLULAR)):
        for i in range(groups):
            record = make_corpus.Record(f"{category}.{i}", category, f"G{category}.{i}", random_codes(60_000, (c, i)))
            parts["dev" if i else "train"].append(record)
    make_corpus.save(path, parts, [np.full(40, 5, np.uint8)])


def test_command_writes_tables_that_labels_read(tmp_path, monkeypatch):
    write_corpus(tmp_path / "corpus.npz")
    outputs = [tmp_path / "out", tmp_path / "again"]
    for output in outputs:
        command = ["make_contigs.py", tmp_path / "corpus.npz", output, "--parts", "dev", "--contigs-per-category", "5"]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        make_contigs.main()
    assert outputs[0].joinpath("contigs.fa").read_bytes() == outputs[1].joinpath("contigs.fa").read_bytes()
    labels = read_labelled_records(outputs[0] / "labels.tsv")
    categories = Counter(label.category for label in labels.values())
    assert len(categories) == len(make_contigs.VIRAL + make_contigs.CELLULAR) + 4 and set(categories.values()) == {5}
    files = read_labelled_fasta(outputs[0] / "categories" / "labels.tsv")
    groups = groups_from_headers([file.fasta for file in files])
    assert groups == groups_from_headers([outputs[0] / "contigs.fa"]) and groups.keys() == labels.keys()
    assert {group[-2:] for group in groups.values()} == {".1", ".2", ".3"}  # .0 trains
    for record, label in labels.items():
        assert label.viral == (label.category in make_contigs.VIRAL) and record.startswith(label.category)
    monkeypatch.setattr(sys, "argv", ["make_training_labels.py", str(outputs[0] / "categories")])
    make_training_labels.main()
    named = read_labelled_fasta(outputs[0] / "categories" / "training.tsv")
    assert {row.label.category for row in named} == {*make_training_labels.NAMES.values(), "artificial"}
    monkeypatch.setattr(sys, "argv", ["make_reads.py", str(outputs[0]), str(tmp_path / "reads")])
    make_reads.main()
    reads = read_labelled_records(tmp_path / "reads" / "labels.tsv")
    shuffled = sum(label.category.startswith("shuffled") for label in labels.values())
    assert len(reads) == 3 * (len(labels) - shuffled)


def test_implants_are_where_the_truth_says(tmp_path, monkeypatch, capsys):
    write_corpus(tmp_path / "corpus.npz")
    monkeypatch.setattr(make_implants, "HOST_BASES", 12_000)
    monkeypatch.setattr(make_implants, "PHAGE_BASES", (600, 3000))
    monkeypatch.setattr(make_implants, "SHORTEST_WINDOW", 500)
    command = [
        "make_implants.py",
        tmp_path / "corpus.npz",
        tmp_path / "out",
        "--parts",
        "dev",
        "--implants",
        "6",
        "--hosts",
        "2",
    ]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    make_implants.main()
    records = dict(sequences.read_fasta(tmp_path / "out" / "implants.fa"))
    corpus = windows.Corpus(tmp_path / "corpus.npz", (make_corpus.PARTS.index("dev"),))
    bases = {
        name: corpus.bases[start:][:length]
        for name, start, length in zip(corpus.names, corpus.start, corpus.length, strict=True)
    }
    truth = measure_regions.read_truth(tmp_path / "out" / "truth.tsv")
    with open(tmp_path / "out" / "truth.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == len(records) == 8 and sum(known.viral > 0 for known in truth.values()) == 6
    for row, sequence in zip(rows, records.values(), strict=True):
        known = truth[row["record"]]
        assert len(sequence) == known.length == 12_000 + known.viral
        if known.viral:
            name, span = row["phage_source"].rsplit(":", 1)
            first, last = map(int, span.split("-"))
            piece = bases[name][first - 1 : last]
            assert sequence[known.start : known.end] in (
                sequences.decode(piece), sequences.decode(sequences.reverse_complement(piece))
            )  # fmt: skip
    found = "".join(f"{row['record']}\t{row['start']}\t{row['end']}\t0.95\n" for row in rows[:3])
    (tmp_path / "regions.tsv").write_text("record\tstart\tend\tmean_posterior\n" + found)
    monkeypatch.setattr(sys, "argv", ["measure_regions.py", str(tmp_path), str(tmp_path / "out" / "truth.tsv")])
    measure_regions.main()
    out = capsys.readouterr().out
    assert "precision 1.000" in out and "implants_found 3" in out


def test_groups_are_divided_whole():
    codes = random_codes(1000, 0)
    records = [make_corpus.Record(f"{g}.{i}", "viral_phage", f"g{g}", codes) for g in range(100) for i in range(2)]
    parts = make_corpus.divide(records, {"g1", "g2"})
    assert Counter(parts.values()) == {"train": 68, "test": 20, "dev": 12}
    assert parts["g1"] == parts["g2"] == "train" and parts == make_corpus.divide(records[::-1], {"g1", "g2"})
    held = min(group for group, part in parts.items() if part == "test")
    large = make_corpus.Record("large", "viral_phage", held, random_codes(100_000, 1))
    assert make_corpus.divide([*records, large], {"g1", "g2"})[held] == "train"  # a third of all bases


def test_what_resembles_the_example_is_cut_out():
    example = random_codes(200, 4)
    known = sequences.KmerSet([example])
    for piece, shared in ((example[50:81], True), (example[50:80], False)):
        for turned in (piece, sequences.reverse_complement(piece)):
            codes = np.concatenate([random_codes(300, 5), turned, random_codes(300, 6)])
            (record,), lost = make_corpus.cut([make_corpus.Record("r", "plant", "g", codes)], known)
            assert bool(lost) == shared and bool((record.codes[300:331] > 3).all()) == shared
            assert not len(known.hits(record.codes))


def test_prophages_are_found_in_hosts_and_leave_the_training_part(tmp_path, monkeypatch, capsys, one_thread):
    def like(virus, length, seed):
        shares = [0.2, 0.3, 0.3, 0.2] if virus else [0.3, 0.2, 0.2, 0.3]
        return np.random.default_rng(seed).choice(4, length, p=shares).astype(np.uint8)

    hosts = [make_corpus.Record(f"h{i}", "bacteria", f"G{i // 2}", like(False, 40_000, i)) for i in range(8)]
    hosts[4].codes[9_999] = 4
    hosts[4].codes[22_000:34_000] = like(True, 12_000, 20)
    hosts[7].codes[20_000:21_500] = like(True, 1_500, 21)  # too short
    hosts += [make_corpus.Record(f"h{i}", "bacteria", "G6", like(True, 20_000, i)) for i in (12, 13)]  # all alike
    plasmid = make_corpus.Record("q", "plasmid", "Q", np.concatenate([like(False, 28_000, 22), like(True, 12_000, 23)]))
    hosts.append(plasmid)  # learned from, but stays
    phages = [make_corpus.Record(f"p{i}", "viral_phage", f"V{i}", like(True, 30_000, 30 + i)) for i in range(4)]
    unseen = make_corpus.Record("u", "bacteria", "U", like(True, 30_000, 40))
    parts = {"train": hosts + phages, "dev": [unseen]}
    make_corpus.save(tmp_path / "corpus.npz", parts, [np.full(40, 5, np.uint8)])

    def shares_of_letters(encoder, ids, texts):
        assert len(ids) == len(texts)
        return Embedded(np.array([[t.count(x) / len(t) for x in range(65, 90)] for t in texts], np.float32), {})

    monkeypatch.setattr(find_prophages, "load_encoder", lambda *_: None)
    monkeypatch.setattr(find_prophages, "embed", shares_of_letters)
    monkeypatch.setattr(find_prophages, "fit", partial(find_prophages.fit, epochs=4, batch=64))

    def find(name, *words):
        command = ["find_prophages.py", tmp_path / "corpus.npz", "protein", "dna", tmp_path / name, *words]
        monkeypatch.setattr(sys, "argv", [*map(str, command), "--windows", "600"])
        find_prophages.main()
        return make_corpus.read_prophages(tmp_path / name)

    found = find("prophages.tsv")
    ((start, end),) = found.pop("h4")
    assert abs(start - 22_000) < 1_000 and abs(end - 34_000) < 1_000 and not found
    assert "bacteria: 1 stretches" in capsys.readouterr().out
    (tmp_path / "other.fa").write_text(
        f">o x\n{sequences.decode(hosts[4].codes[15_000:])}\n>n\n{sequences.decode(like(False, 20_000, 50))}\n"
    )
    found = find("regions.tsv", "--fasta", tmp_path / "other.fa")
    ((begin, _),) = found.pop("o")
    assert abs(begin - 7_000) < 1_000 and not found

    kept, lost = make_corpus.without(hosts, make_corpus.read_prophages(tmp_path / "prophages.tsv"))
    assert lost == {"bacteria": end - start} and len(kept) == len(hosts)
    make_corpus.save(tmp_path / "kept.npz", {"train": kept}, [np.full(40, 5, np.uint8)])
    corpus = windows.Corpus(tmp_path / "kept.npz", (0,))
    rows = [i for i, name in enumerate(corpus.names) if name == "h4"]
    spans = [(0, 9_999), (10_000, start), (end, 40_000)]
    assert [(corpus.offset[i], corpus.offset[i] + corpus.length[i]) for i in rows] == spans
    assert {corpus.groups[corpus.group[i]] for i in rows} == {"G2"}
    for i, (first, last) in zip(rows, spans, strict=True):
        assert (corpus.bases[corpus.start[i] :][: corpus.length[i]] == hosts[4].codes[first:last]).all()


@pytest.mark.parametrize("length", [500, 300, 151])
def test_windows_are_cut_as_the_workflow_cuts_them(tmp_path, length):
    write_corpus(tmp_path / "corpus.npz", 2)
    drawer = windows.Windows(windows.Corpus(tmp_path / "corpus.npz", (0, 1)), windows.Options(windows.MIXTURE), 1)
    codes, sizes, _ = drawer.codes(300, length)
    sizes[::7] -= np.arange(len(sizes[::7])) % 40  # records may end early
    frame, begin, codons, partial = windows.choose_frames(codes, sizes, np.random.default_rng(0))
    tokens = windows.protein_tokens(codes, sizes, frame, begin, codons)
    texts = [sequences.decode(row[:size]).encode() for row, size in zip(codes, sizes, strict=True)]
    free, stretches = [set() for _ in texts], {}
    for batch in stop_free_frames(texts, length):
        for record, _, at, _, protein in zip(*batch.frames, strict=True):
            free[record].add((int(at), protein.decode()))
        for record, _, at, _, protein in zip(*batch.partial, strict=True):
            stretches[record] = int(at), protein.decode()
    for i in range(len(texts)):
        protein = "".join(sequences.ESM_ORDER[token - 4] for token in tokens[i] if token > 3)
        found = int(frame[i]), protein
        if partial[i]:
            assert stretches[i] == found if codons[i] >= windows.MIN_CODONS else i not in stretches
        else:
            assert found in free[i]
    assert partial.any() or length == 151


def test_stages_train_and_export_encoders_that_embed(tmp_path):
    write_corpus(tmp_path / "corpus.npz", 2)
    shape = {"layers": 1, "width": 32, "heads": 2, "ffn": 64}
    few = {"steps": 2, "batch": 16, "warmup": 1, "evaluate_every": 1, "pair": "small"}
    stages = {
        "m": few | {"classify": False, "proteins": 0.5},
        "a": few | {"start": "m", "teacher": "self", "dna": {"dropout": 0.2}},
        "b": few | {"start": str(installation.root() / "resources" / "models"), "pair": "mini", "teacher": "a"},
    }
    bundled = {
        kind: read_entry(installation.root() / "resources" / "models" / f"{name}.safetensors")["config"]
        for kind, name in (("protein", "mini-esm2"), ("dna", "mini-dnabert-s"))
    }
    pairs = {"small": {"protein": shape, "dna": shape | {"vocabulary": 1024}}, "mini": bundled}
    plan = {"pairs": pairs, "stages": stages}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    entry = read_entry(installation.root() / "resources" / "models" / "mini-dnabert-s.safetensors")
    (tmp_path / "tokenizer.json").write_text(entry["tokenizer"])

    def script(name, *words):
        command = [sys.executable, installation.root() / "training" / name, *words]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        return done.stdout

    given = ["--corpus", tmp_path / "corpus.npz", "--tokenizer", tmp_path / "tokenizer.json", "--folder", tmp_path]
    said = script("train.py", tmp_path / "plan.json", *stages, *given, "--workers", "1", "--dev", "60")
    assert re.findall(r"(\w+) step 2 .*", said) == list(stages) and said.count("| dev protein 0.") == 4
    words = [
        tmp_path / "corpus.npz",
        tmp_path / "tokenizer.json",
        tmp_path / "a.pt",
        "--windows",
        "2000",
        "--dev",
        "60",
    ]
    assert re.match(r"a 500 all 0\.\d+", script("probe.py", *words, "--processes", "1"))
    said = script("make_tokenizer.py", tmp_path / "corpus.npz", tmp_path / "new.json", "--chunks", "20")
    assert "bases a token" in said and (tmp_path / "new.json").exists()
    script("export.py", tmp_path / "a.pt", tmp_path / "tokenizer.json", tmp_path / "made")
    for name, sequence in (("mini-esm2", b"MKTAYIAKQR"), ("mini-dnabert-s", b"ACGTTGCAACGT")):
        encoder = load_encoder(tmp_path / "made" / f"{name}.safetensors", dtype=torch.float32)
        assert embed(encoder, ["a"], [sequence]).vectors.shape == (1, 32)
