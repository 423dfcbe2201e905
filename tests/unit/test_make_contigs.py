"""training/make_contigs.py: what is drawn, what is left out, what the shuffles keep."""

from __future__ import annotations

import gzip
import sys
from collections import Counter
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro import installation
from virnucpro.classifier.labels import groups_from_headers, read_labelled_fasta, read_labelled_records

sys.path.insert(0, str(installation.root() / "training"))  # its scripts import each other
make_contigs, sequences = map(import_module, ("make_contigs", "sequences"))
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


def test_shared_31mers_are_seen_on_both_strands():
    example = random_codes(200, 4)
    reference = sequences.base_kmers(example)
    for piece, shared in ((example[50:81], True), (example[50:80], False)):
        inside = np.concatenate([random_codes(300, 5), piece, random_codes(300, 6)])
        assert make_contigs.shares(inside, reference) is shared
        assert make_contigs.shares(sequences.reverse_complement(inside), reference) is shared
    assert not make_contigs.shares(example[:30], reference)


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


def test_command_writes_tables_that_labels_read(tmp_path, monkeypatch, capsys):
    genomes = tmp_path / "genomes"
    genomes.mkdir()
    example = random_codes(2000, 0)
    (tmp_path / "example.fa").write_text(f">example\n{sequences.decode(example)}\n")
    rows = ["id\tcategory\tgroup\tfrac31_in_existing_train\n"]
    for c, category in enumerate((*make_contigs.VIRAL, *make_contigs.CELLULAR)):
        text = ""
        for i, share in enumerate(("0.0100", "0.0500", "", "")):
            codes = random_codes(60_000, (c, i))
            if i == 2:
                codes[500:600] = sequences.reverse_complement(example[100:200])
            name = f"{category}.{i}"
            rows.append(f"{name}\t{category}\tG{name}\t{share}\n")
            text += f">{name} category={category} group=G{name} name=x source=y\n{sequences.decode(codes)}\n"
        with gzip.open(genomes / f"{category}.fa.gz", "wt") as out:
            out.write(text)
    with gzip.open(genomes / "SOURCES.tsv.gz", "wt") as out:
        out.writelines(rows)
    outputs = [tmp_path / "out", tmp_path / "again"]
    for output in outputs:
        command = ["make_contigs.py", genomes, tmp_path / "example.fa", output, "--contigs-per-category", "5"]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        make_contigs.main()
    assert "1 left out as seen, 1 as like the example" in capsys.readouterr().out
    assert outputs[0].joinpath("contigs.fa").read_bytes() == outputs[1].joinpath("contigs.fa").read_bytes()
    labels = read_labelled_records(outputs[0] / "labels.tsv")
    categories = Counter(label.category for label in labels.values())
    assert len(categories) == 19 and set(categories.values()) == {5}
    files = read_labelled_fasta(outputs[0] / "categories" / "labels.tsv")
    groups = groups_from_headers([file.fasta for file in files])
    assert groups == groups_from_headers([outputs[0] / "contigs.fa"]) and groups.keys() == labels.keys()
    assert {group[-2:] for group in groups.values()} == {".0", ".3"}
    for record, label in labels.items():
        assert label.viral == (label.category in make_contigs.VIRAL) and record.startswith(label.category)


def test_what_is_missing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make_contigs.py", str(tmp_path), str(tmp_path / "example.fa"), str(tmp_path)])
    with pytest.raises(SystemExit):
        make_contigs.main()
    assert "example.fa is not there" in capsys.readouterr().err
