"""Calibrating a classifier's file from tables of labelled samples."""

import csv
import json
import logging
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.unit.tables import contig_table
from virnucpro.classifier.calibrate import PRESET_COLUMNS, calibrate_from_table, read_development
from virnucpro.classifier.labels import Label, Labelled, labelled_samples, read_labelled_records
from virnucpro.classifier.model import Classifier, write_classifier
from virnucpro.classifier.spec import ClassifierSpec, read_classifier, read_classifier_spec
from virnucpro.errors import InputError, StorageError
from virnucpro.models.model_file import ENTRY
from virnucpro.provenance import read_provenance
from virnucpro.result_tables import CHUNK_COLUMNS, FRAME, PARTIAL, write_table


def tables(folder, contigs):
    """A sample's tables, for record → its chunks: (kind, bases of a stretch, others, virus), or None if unscored."""
    folder.mkdir()
    rows = []
    for record, chunks in contigs.items():
        for number, chunk in enumerate(chunks):
            row = {"record": record, "start": 1 + 300 * number, "end": 300 + 300 * number}
            if chunk:
                kind, bases, row["max_score_others"], row["max_score_virus"] = chunk
                row["kind"] = kind
                if kind == PARTIAL:
                    row |= {"part_start": row["start"] + 5, "part_end": row["start"] + 4 + bases}
            rows.append(row)
    write_table(folder / "chunks.tsv", CHUNK_COLUMNS, rows)
    lengths = [{"record": record, "length": 300 * len(chunks)} for record, chunks in contigs.items()]
    (folder / "contigs.tsv").write_text(contig_table(lengths))
    return folder


def random_chunk(rng, viral, kind):
    """A chunk whose scores tell something of the class; those of stretches less."""
    odds = rng.normal((1.0 if kind == FRAME else 0.5) * (1 if viral else -1), 1.0)
    virus = 1 / (1 + np.exp(-2 * odds))  # twice as confident as it may be
    return kind, int(rng.integers(60, 300)), str(np.float32(1 - virus)), str(np.float32(virus))


def records(seed, viral, contigs=40, kinds=(FRAME, PARTIAL)):
    """Contigs of some chunks, the last one without a score."""
    rng = np.random.default_rng(seed)
    name = "v" if viral else "n"
    made = {
        f"{name}{number}": [random_chunk(rng, viral, kinds[i % len(kinds)]) for i in range(rng.integers(2, 6))]
        for number in range(contigs)
    }
    return made | {f"{name}x": [None, None]}


def label_table(path, samples, group=lambda record: ""):
    """A table of records whose names begin with v if they are viral, with two categories a class."""
    lines = ["id\tlabel\tgroup\tcategory"]
    for contigs in samples:
        lines += [f"{name}\t{int(name[0] == 'v')}\t{group(name)}\t{name[0]}{len(name) % 2}" for name in contigs]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def classifier(tmp_path):
    """A classifier's file with matrices in float16, as the bundled ones have."""
    spec = ClassifierSpec(name="mine", width=6, hidden=4, chunk_length=300, source_sha256="ab")
    write_classifier(tmp_path / "mine.safetensors", Classifier(6, 4).eval(), spec, half=True)
    return tmp_path / "mine.safetensors"


def small(folder, **about):
    """Two samples' folders and their label table."""
    samples = {"a": records(1, True, **about), "b": records(2, False, **about)}
    table = label_table(folder / "labels.tsv", samples.values(), lambda name: name if name[-1] == "x" else name[:2])
    return table, {name: tables(folder / name, contigs) for name, contigs in samples.items()}


def tensors(path):
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_weights_stay_and_everything_else_is_there(tmp_path, classifier):
    table, folders = small(tmp_path)
    spec = calibrate_from_table(table, folders, classifier, tmp_path / "out" / "classifier.safetensors")
    arrays, read = read_classifier(tmp_path / "out" / "classifier.safetensors")
    former = read_classifier_spec(classifier)
    assert read == spec and len(arrays) == 8
    assert (read.name, read.weights_sha256, read.source_sha256) == ("mine", former.weights_sha256, "ab")
    assert (former.partial_frames, former.calibration, read.partial_frames) == (False, None, True)
    before, after = tensors(classifier), tensors(tmp_path / "out" / "classifier.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert (value.dtype, value.tobytes()) == (after[name].dtype, after[name].tobytes())

    calibration = read.read_calibration("x")
    assert 0.3 < calibration.frame[0] < 1.5 and calibration.partial[0] > 0
    fitted_on = calibration.fitted_on
    assert fitted_on["contigs"] == {"viral": 40, "non-viral": 40} and fitted_on["unscored_contigs"] == 2
    assert fitted_on["groups"] == {"viral": 10, "non-viral": 10} and len(fitted_on["labels_sha256"]) == 64
    whole = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert whole["calibration"] == read.calibration == calibration.to_dict()
    assert list(whole["held_out"]) == ["chunks", "frame_chunks", "partial_chunks", "contigs"]
    assert 0.8 < whole["held_out"]["contigs"]["auroc"] <= 1
    made = read_provenance(tmp_path / "out" / "calibration.tsv")
    assert made["fitted_on"] == fitted_on and made["classifier"]["name"] == "mine" and "calibration" not in made
    assert read_provenance(tmp_path / "out" / "classifier.safetensors")["calibrated_on"] == fitted_on


def test_presets_are_a_table(tmp_path, classifier):
    table, folders = small(tmp_path)
    spec = calibrate_from_table(table, folders, classifier, tmp_path / "classifier.safetensors")
    with open(tmp_path / "calibration.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert tuple(rows[0]) == PRESET_COLUMNS and len(rows) == 6
    assert [(row["preset"], row["data"]) for row in rows[:2]] == [("strict", "fitted"), ("strict", "held_out")]
    for row in rows:
        preset = spec.calibration["presets"][row["preset"]]
        measured = preset["measured"] if row["data"] == "fitted" else preset["measured"]["held_out"]
        assert float(row["recall"]) == pytest.approx(measured["recall"], abs=1e-6)
        if measured["precision"]["0.05"] is not None:
            assert float(row["precision_5"]) == pytest.approx(measured["precision"]["0.05"], abs=1e-6)
        assert (row["viral_contigs"], row["non_viral_groups"]) == ("40", "10")
        assert row["viral_from"] == (str(round(preset["viral"], 6)) if row["data"] == "fitted" else "")


def test_a_former_file_and_frames_alone(tmp_path, classifier):
    """A file of a version that knew neither calibrations nor partial frames; calibrated again, it is fitted anew."""
    with safe_open(classifier, "np") as file:
        entry = json.loads(file.metadata()[ENTRY])
    former = {key: value for key, value in entry.items() if key not in ("calibration", "partial_frames")}
    save_file(tensors(classifier), tmp_path / "former.safetensors", {ENTRY: json.dumps(former | {"format": 1})})
    table, folders = small(tmp_path, kinds=(FRAME,))
    first = calibrate_from_table(table, folders, tmp_path / "former.safetensors", tmp_path / "1" / "c.safetensors")
    assert first.calibration["partial"] is None and not first.partial_frames
    again = calibrate_from_table(table, folders, tmp_path / "1" / "c.safetensors", tmp_path / "2" / "c.safetensors")
    assert again == first
    for name in ("c.safetensors", "calibration.json", "calibration.tsv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_what_is_read(tmp_path):
    chunk = (PARTIAL, 150, "0.25", "0.75")
    folder = tables(tmp_path / "a", {"r": [chunk, None, (FRAME, 0, "0.5", "0.1")], "x": [None], "s": [chunk]})
    with pytest.raises(InputError, match="at least 5 viral groups"):
        read_development([Labelled("a", folder, Label(True))])
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("virnucpro.classifier.calibrate.Development", lambda **columns: seen.update(columns) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            read_development([Labelled("a", folder, Label(True, "c"), {"s": Label(False, "d", "g")})])
    assert seen["z"] == pytest.approx(np.log([3, 0.2, 3]))
    assert seen["partial"].tolist() == [True, False, True] and seen["share"].tolist() == [0.5, 1, 0.5]
    assert seen["contig"].tolist() == [0, 0, 2] and seen["start"].tolist() == [0, 600, 0]
    assert seen["viral"].tolist() == [True, True, False]
    assert seen["group"].tolist() == ["r", "x", "g"] and seen["category"].tolist() == ["c", "c", "d"]
    assert seen["length"].tolist() == [900, 300, 300]


def test_without_groups_each_record_is_one(tmp_path, classifier):
    contigs = records(1, True, 12) | records(2, False, 12)
    table = label_table(tmp_path / "labels.tsv", [contigs])
    folder = tables(tmp_path / "a", contigs)
    spec = calibrate_from_table(table, {"a": folder}, classifier, tmp_path / "c.safetensors")
    assert spec.calibration["fitted_on"]["groups"] == {"viral": 12, "non-viral": 12}


@pytest.mark.parametrize(
    ("group", "says"),
    [
        (lambda name: name[0], "chunks with a stop-free frame of at least 5 viral groups .* there are 1"),
        (lambda name: name[:2] if name[0] == "v" else "n", "at least 5 non-viral groups"),
    ],
)
def test_too_few_groups(tmp_path, classifier, group, says):
    contigs = records(1, True) | records(2, False)
    table = label_table(tmp_path / "labels.tsv", [contigs], group)
    folder = tables(tmp_path / "a", contigs)
    with pytest.raises(InputError, match=rf"labels\.tsv: To calibrate .*{says}"):
        calibrate_from_table(table, {"a": folder}, classifier, tmp_path / "out" / "c.safetensors")
    assert not (tmp_path / "out").exists()


def test_too_few_stretches_say_what_to_do(tmp_path, classifier):
    contigs = records(1, True, kinds=(FRAME,)) | records(2, False)
    table = label_table(tmp_path / "labels.tsv", [contigs])
    folder = tables(tmp_path / "a", contigs)
    with pytest.raises(InputError, match=r"without a stop-free frame of .* there are 0\. Set partial_frames to false"):
        calibrate_from_table(table, {"a": folder}, classifier, tmp_path / "c.safetensors")


def test_labels_the_wrong_way_round(tmp_path, classifier):
    contigs = records(1, True) | records(2, False)
    table = label_table(tmp_path / "labels.tsv", [contigs])
    swapped = table.read_text().replace("\t1\t", "\t?\t").replace("\t0\t", "\t1\t").replace("\t?\t", "\t0\t")
    table.write_text(swapped)
    folder = tables(tmp_path / "a", contigs)
    with pytest.raises(InputError, match="aren't higher for viral"):
        calibrate_from_table(table, {"a": folder}, classifier, tmp_path / "c.safetensors")


def test_a_split_leaves_the_test_part(tmp_path, classifier, caplog):
    contigs = records(1, True) | records(2, False)
    table = label_table(tmp_path / "labels.tsv", [{**contigs, "vgone": []}])
    folder = tables(tmp_path / "a", contigs)
    lines = [f"a\t{name}\t{'train' if name.endswith('7') else 'test'}" for name in contigs]
    (tmp_path / "split.tsv").write_text("\n".join(["sample\trecord\tpart", *lines]) + "\n")
    args = (table, {"a": folder}, classifier, tmp_path / "c.safetensors")
    spec = calibrate_from_table(*args, split=tmp_path / "split.tsv")
    assert spec.calibration["fitted_on"]["contigs"] == {"viral": 36, "non-viral": 36}
    (warning,) = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert "regions are found by default parameters" in warning and spec.regions is None
    calibrate_from_table(*args)
    assert "1 labelled records are in no sample, such as vgone" in caplog.text


def test_a_record_without_a_label_and_former_tables(tmp_path, classifier):
    table, folders = small(tmp_path)
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match="record nx of sample b has no label"):
        calibrate_from_table(table, folders, classifier, tmp_path / "c.safetensors")
    table.write_text("\n".join(lines) + "\n")
    (folders["b"] / "chunks.tsv").write_text("record\tchunk_id\tcall\n")
    with pytest.raises(StorageError, match="its columns aren't"):
        calibrate_from_table(table, folders, classifier, tmp_path / "c.safetensors")


def test_groups_of_label_tables(tmp_path):
    (tmp_path / "a.fa").write_text(">r1 group=g1\nACGT\n>r2 x group=g2 y\nACGT\n")
    (tmp_path / "b.fa").write_text(">r3\nACGT\n")
    table = tmp_path / "labels.tsv"
    table.write_text("fasta\tlabel\tgroup\na.fa\t1\t@header\nb.fa\t0\tg\n")
    folders = {"a": tmp_path / "a", "b": tmp_path / "b"}
    first, second = labelled_samples(table, folders, headers=True)
    assert [first.label_of(name).group for name in ("r1", "r2")] == ["g1", "g2"] and first.label_of("r2").viral
    assert second.label_of("r3") == Label(False, "", "g")
    assert not labelled_samples(table, folders)[0].records
    with pytest.raises(InputError, match="lists other files than"):
        labelled_samples(table, {"a": tmp_path / "a"})
    table.write_text("id\tlabel\tgroup\nr1\t1\tg\nr2\t0\t\n")
    assert read_labelled_records(table) == {"r1": Label(True, "", "g"), "r2": Label(False)}
    table.write_text("id\tlabel\tgroup\nr1\t1\t@header\n")
    with pytest.raises(InputError, match="line 2: @header is for tables of files"):
        read_labelled_records(table)


def test_groups_from_headers(tmp_path, classifier):
    samples = {"a": records(1, True, 12), "b": records(2, False, 12)}
    for name, contigs in samples.items():
        text = "".join(f">{record} group={record[:-1]}\nACGT\n" for record in contigs)  # v, and v1
        (tmp_path / f"{name}.fa").write_text(text)
    table = tmp_path / "labels.tsv"
    table.write_text("fasta\tlabel\tgroup\na.fa\t1\t@header\nb.fa\t0\t@header\n")
    folders = {name: tables(tmp_path / name, contigs) for name, contigs in samples.items()}
    with pytest.raises(InputError, match=r"5 viral groups .* there are 2"):
        calibrate_from_table(table, folders, classifier, tmp_path / "c.safetensors")


def test_needs_no_pytorch():
    script = "import sys, virnucpro.classifier.calibrate as c; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
