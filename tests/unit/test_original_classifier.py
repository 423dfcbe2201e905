"""The import of the original's classifier, a pickle that is read without running it."""

import collections
import functools
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from tests.unit.test_classifier import ORIGINAL, PARITY, prepare
from virnucpro.classifier.importer import import_original
from virnucpro.errors import ModelError


def test_import_reproduces_the_original_scores():
    model, spec = import_original(ORIGINAL)
    expected = np.load(PARITY / "expected" / "merged.npz")
    features = np.concatenate([expected[key] for key in expected.files if expected[key].ndim == 2], axis=1)
    scores = model.scores(torch.from_numpy(features.astype(np.float32))).numpy()
    lines = (PARITY / "expected" / "prediction_results.txt").read_text().splitlines()[1:]
    assert np.abs(scores - [[float(x) for x in line.split("\t")[2:]] for line in lines]).max() < 1e-4
    assert spec.source_sha256 and spec.name == "tiny_model"


def archive(path, program, **entries):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", program)
        file.writestr("model/version", "3\n")
        for name, data in entries.items():
            file.writestr(f"model/{name.replace('_', '/')}", data)
    return path


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (Calls(os.system, "touch ran"), "posix.system"),
        (Calls(eval, "open('ran', 'w')"), "builtins.eval"),
        (Calls(functools.partial, print), "functools.partial"),
        (Calls(getattr, "x", "join"), "builtins.getattr"),
        (Calls(torch.load, "x"), "torch.serialization.load"),
        (Calls(torch.nn.Sequential), "torch.nn.modules.container.Sequential"),
        (Calls(collections.defaultdict, list), "collections.defaultdict"),
        (Calls(torch.nn.Linear, 1, 1), "torch.nn.modules.linear.Linear"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_that_asks_for_more_is_refused_by_name(tmp_path, monkeypatch, payload, named, protocol):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "evil.pth", pickle.dumps({"model": payload}, protocol))
    with pytest.raises(ModelError) as caught:
        import_original(path)
    said = str(caught.value).replace("__builtin__", "builtins")
    if protocol != 2 or named.endswith(
        "Linear"
    ):  # a pickle of another kind than PyTorch's; a stand-in without arguments
        assert "not an original VirNucPro classifier, or damaged" in said
    else:
        assert (
            f"asks for {named.removeprefix('builtins.')}," in said.replace("for builtins.", "for ") and "trust" in said
        )
    assert sorted(os.listdir(tmp_path)) == ["evil.pth"]


MODULE = b"c__main__\nMLPClassifier\n"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
SET = b"c__builtin__\nset\n"
FLOAT = b"ctorch\nFloatStorage\n"


@pytest.mark.parametrize(
    "program",
    [
        MODULE + b".",  # the class itself
        MODULE + b"}b.",  # state for the class
        MODULE + b")\x81(lb.",  # state that is no dictionary
        MODULE + b")\x81}}\x86b.",  # slot state
        MODULE + b")\x81}b.",  # nothing in it
        MODULE + b"(I1\ntR.",  # arguments
        TENSOR + b"}U\x08__code__I1\ns}\x86b.",  # state for a function
        TENSOR + b")R.",  # no arguments
        SET + b"((lI1\nI2\ntR.",
        FLOAT + b")R.",  # a storage isn't callable
        FLOAT + b")\x81.",
        b"(I1\nI2\nl.",
        b"(i__main__\nMLPClassifier\n.",  # INST
        b"\x80\x02N\x72\xff\xff\xff\x7f.",  # a memo of two billion entries
        b"\x80\x02\x82\x01.",  # extension registry
        b"P1\n.",  # persistent id as text
        b"I1\nQ.",
        b"\x80\x04\x8c\x0bbuiltins.os\x8c\x06system\x93.",
        b"",
        b"garbage",
    ],
)
def test_odd_programs_give_one_clear_error(tmp_path, program):
    with pytest.raises(ModelError, match=r"refused|not an original"):
        import_original(archive(tmp_path / "odd.pth", program))


def tensor_program(shape, stride, offset=0, count=4, tensors=1):
    """A module with tensors that are all the same view of one storage, in the opcodes that PyTorch's files have."""

    def integer(value):
        return b"J" + struct.pack("<i", value)

    def tuple_of(values):
        return b"(" + b"".join(map(integer, values)) + b"t"

    storage = b"(U\x07storage" + FLOAT + b"U\x010U\x03cpu" + integer(count) + b"tQ"
    tensor = TENSOR + b"(" + storage + integer(offset) + tuple_of(shape) + tuple_of(stride) + b"\x89}tR"
    names = [b"U\x06weight", *(b"U\x02%02d" % number for number in range(1, tensors))]
    inner = b"}(" + b"".join(name + tensor for name in names) + b"u"
    layer = MODULE + b")\x81}(U\x0b_parameters" + inner + b"U\x08_buffers}ub"
    return b"\x80\x02" + MODULE + b")\x81}U\x08_modules}U\x0chidden_layer" + layer + b"ssb."


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((1 << 20, 1 << 20), (0, 0), 0),
        ((2, 2), (0, 0), 0),
        ((3, 2), (2, 1), 0),
        ((2, 2), (2, 1), 1),
        ((-1, 2), (2, 1), 0),
        ((2,), (1, 1), 0),
    ],
)
def test_tensors_beyond_their_storage_are_refused(tmp_path, shape, stride, offset):
    path = archive(tmp_path / "t.pth", tensor_program(shape, stride, offset), data_0=b"\0" * 16)
    with pytest.raises(ModelError, match="not an original VirNucPro classifier, or damaged"):
        import_original(path)


def test_wrong_architecture_and_short_data_are_refused(tmp_path):
    path = archive(tmp_path / "t.pth", tensor_program((2, 2), (2, 1)), data_0=b"\0" * 16)
    with pytest.raises(ModelError, match="not an original"):  # no bn1
        import_original(path)
    path = archive(tmp_path / "t.pth", tensor_program((2, 2), (2, 1)), data_0=b"\0" * 8)
    with pytest.raises(ModelError, match="not an original"):
        import_original(path)


def test_many_tensors_of_one_storage_are_refused(tmp_path):
    """Together they would take more memory than the file has bytes."""
    for program in (
        tensor_program((64, 64), (64, 1), count=4096, tensors=30),
        tensor_program((1 << 20, 9), (0, 0), count=4096),
    ):
        path = archive(tmp_path / "t.pth", program, data_0=b"\0" * 16384)
        with pytest.raises(ModelError, match="its tensors are larger than the file"):
            import_original(path)


def test_compressed_and_foreign_archives_are_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data.pkl", b"0" * 1000)
    with pytest.raises(ModelError, match="not an original"):
        import_original(path)
    with pytest.raises(ModelError, match="not an original"):
        import_original(archive_without_program(tmp_path / "zip"))
    with pytest.raises(ModelError, match="no such file"):
        import_original(tmp_path / "absent.pth")
    for content in (pickle.dumps([1]), ORIGINAL.read_bytes()[:-100], b"<html>log in</html>", b""):
        path.write_bytes(content)
        with pytest.raises(
            ModelError, match=r"bomb\.pth: not an original VirNucPro classifier, or damaged.*Fetch it again"
        ):
            prepare(path, tmp_path / "out")
    path.with_suffix("").write_bytes(b"text")
    with pytest.raises(ModelError, match=r"can't be read as a safetensors file .*fetch or make it again"):
        prepare(path.with_suffix(""), tmp_path / "out")


def archive_without_program(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme", "x")
    return path


def test_import_leaves_nothing_behind_for_the_next(tmp_path):
    """Whatever a hostile file did to its stand-ins, the next file gets new ones."""
    for program in (TENSOR + b"}U\x01xI1\nsb.", MODULE + b"N}U\x01xI1\ns\x86b."):
        with pytest.raises(ModelError):
            import_original(archive(tmp_path / "odd.pth", program))
    test_import_reproduces_the_original_scores()


def test_a_file_saved_by_torch_today_is_read(tmp_path, monkeypatch):
    """What ``torch.save`` of such a module writes, from any device and with any width."""
    import __main__

    class MLPClassifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden_layer = torch.nn.Linear(12, 7)
            self.bn1 = torch.nn.BatchNorm1d(7, eps=1e-3)
            self.output_layer = torch.nn.Linear(7, 2)
            self.dropout = torch.nn.Dropout(0.5)

    MLPClassifier.__module__, MLPClassifier.__qualname__ = "__main__", "MLPClassifier"
    monkeypatch.setattr(__main__, "MLPClassifier", MLPClassifier, raising=False)
    saved = MLPClassifier()
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    (tmp_path / "m.pth").write_bytes(buffer.getvalue())
    model, spec = import_original(tmp_path / "m.pth")
    assert (spec.width, spec.hidden, model.bn1.eps) == (12, 7, 1e-3)
    assert torch.equal(model.output_layer.weight, saved.output_layer.weight)
