"""Published models from a local hub: whole or not at all, resumed, checked by SHA-256."""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import time

import pytest

from tests.hub import COMMIT, serving
from virnucpro.downloads import obtain, verify
from virnucpro.errors import ModelError
from virnucpro.models.sources import PUBLISHED, find, find_published

CONTENT = bytes(range(256)) * 4000  # 1 MB
REPOSITORY = "zhihan1996/DNABERT-S"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    folder = tmp_path / "hub"
    for name in ("fair-esm", "classifiers", REPOSITORY):
        (folder / name).mkdir(parents=True)
    (folder / "fair-esm" / "esm2_t6_8M_UR50D.pt").write_bytes(CONTENT)
    (folder / "classifiers" / "500_model.pth").write_bytes(b"classifier")
    for name in ("pytorch_model.bin", "config.json", "tokenizer.json", "bert_layers.py", "README.md"):
        (folder / REPOSITORY / name).write_bytes(name.encode() + CONTENT)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)  # between attempts
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    with serving(folder) as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        yield hub


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models"


def esm(folder):
    return find("protein", "8M", folder)


def dnabert(folder):
    return find("dna", REPOSITORY, folder)


def refused(source, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        obtain(source)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not source.path.exists()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_fetched_once_and_its_digest_recorded(hub, folder, tmp_path):
    source = esm(folder)
    digests = obtain(source, record=tmp_path / "record")
    assert digests == {"esm2_t6_8M_UR50D.pt": sha256(CONTENT)} == obtain(source) == verify(source)
    assert source.path.read_bytes() == CONTENT
    assert hub.downloads(source.path.name) == [None]
    assert (tmp_path / "record").read_text() == (folder / "esm2_t6_8M_UR50D.pt.sha256").read_text()
    subprocess.run(["sha256sum", "--check", "--strict", "esm2_t6_8M_UR50D.pt.sha256"], cwd=folder, check=True)
    assert not list(folder.glob(".*.part*"))


def test_a_repository_is_fetched_without_its_code(hub, folder):
    obtain(dnabert(folder))
    assert {path.name for path in (folder / "DNABERT-S").iterdir()} == {
        "pytorch_model.bin",
        "config.json",
        "tokenizer.json",
    }
    subprocess.run(["sha256sum", "--check", "--strict", "DNABERT-S.sha256"], cwd=folder, check=True)


def test_safetensors_are_preferred_and_shards_are_complete(hub, folder):
    repository = hub.folder / REPOSITORY
    index = "model.safetensors.index.json"
    names = [index, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in names:
        (repository / name).write_bytes(name.encode())
    obtain(dnabert(folder))
    assert {path.name for path in (folder / "DNABERT-S").iterdir()} == {*names, "config.json", "tokenizer.json"}
    (repository / names[1]).unlink()
    refused(dnabert(folder / "other"), REPOSITORY, "has no config.json, or none of model.safetensors")


def test_a_preset_means_its_models(hub, folder):
    paths = [source.path.name for source in find_published("virnucpro-500", folder)]
    assert paths == ["esm2_t36_3B_UR50D.pt", "DNABERT-S", "500_model.pth"]
    (classifier,) = find_published("virnucpro-500", folder)[2:]
    obtain(classifier)
    assert (folder / "500_model.pth").read_bytes() == b"classifier"


def test_every_published_model_has_a_place_and_a_size(folder):
    for role, names in PUBLISHED.items():
        for name in names:
            source = find(role, name, folder)
            assert source.path.parent == folder and source.megabytes > 0
    assert find("protein", "3B", folder).path.name == "esm2_t36_3B_UR50D.pt"
    assert find("protein", "facebook/esm2_t36_3B_UR50D", folder).path.name == "esm2_t36_3B_UR50D"
    (folder / "esm2_t36_3B_UR50D").mkdir(parents=True)
    assert find("protein", "3B", folder).path.name == "esm2_t36_3B_UR50D", "what is there already will do"


def test_any_hugging_face_id_of_an_encoder(hub, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (hub.folder / REPOSITORY).parent.rename(hub.folder / "someone")
    source = find("dna", "someone/DNABERT-S", folder)
    obtain(source)
    assert source.path == folder / "someone--DNABERT-S" and (source.path / "config.json").is_file()
    (tmp_path / "here").mkdir()
    for path in ("here/model", "somewhere/model.pt", "a/b/c"):
        with pytest.raises(ModelError, match="no such file or folder"):
            find("protein", path, folder)
    with pytest.raises(ModelError, match="no such file or folder"):
        find("classifier", "someone/classifier", folder)


# --- broken off and resumed ---


def test_a_dropped_connection_goes_on_where_it_was(hub, folder):
    hub.breaks["esm2_t6_8M_UR50D.pt"] = [400_000, 300_000]
    obtain(esm(folder))
    assert hub.downloads("esm2_t6_8M_UR50D.pt") == [None, "bytes=400000-", "bytes=700000-"]
    assert esm(folder).path.read_bytes() == CONTENT


def test_a_dropped_connection_to_a_repository_goes_on_where_it_was(hub, folder):
    hub.breaks["pytorch_model.bin"] = [500_000]
    obtain(dnabert(folder))
    assert hub.downloads("pytorch_model.bin") == [None, "bytes=500000-"]
    assert (folder / "DNABERT-S" / "pytorch_model.bin").read_bytes() == b"pytorch_model.bin" + CONTENT


def test_another_run_goes_on_with_what_a_failed_one_left(hub, folder):
    hub.breaks["esm2_t6_8M_UR50D.pt"] = [500_000, *[0] * 5]
    refused(esm(folder), "can't be fetched", "virnucpro models fetch 8M --models-dir")
    hub.requests.clear()
    obtain(esm(folder))
    assert hub.downloads("esm2_t6_8M_UR50D.pt") == ["bytes=500000-"]
    assert esm(folder).path.read_bytes() == CONTENT
    assert not list(folder.glob(".*.part*"))


def test_a_finished_file_of_an_unfinished_model_is_kept(hub, folder):
    hub.breaks["tokenizer.json"] = [0] * 6
    refused(dnabert(folder), "can't be fetched", "models fetch zhihan1996/DNABERT-S")
    obtain(dnabert(folder))
    assert hub.downloads("pytorch_model.bin") == [None]


def test_a_server_that_knows_no_ranges_starts_again(hub, folder):
    hub.refuses_ranges = True
    hub.breaks["esm2_t6_8M_UR50D.pt"] = [400_000]
    obtain(esm(folder))
    assert esm(folder).path.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one(hub, folder):
    hub.breaks["esm2_t6_8M_UR50D.pt"] = [400_000, *[0] * 5]
    refused(esm(folder), "can't be fetched")
    changed = CONTENT[::-1]
    (hub.folder / "fair-esm" / "esm2_t6_8M_UR50D.pt").write_bytes(changed)
    obtain(esm(folder))
    assert esm(folder).path.read_bytes() == changed


@pytest.mark.parametrize("source", [esm, dnabert])
def test_a_full_disk_is_said(hub, folder, source):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        refused(source(folder), "No space left on device", "virnucpro models fetch")
        subprocess.run(["mount", "-o", "remount,size=9m", str(folder)], check=True)
        obtain(source(folder))
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_killed_download_goes_on(hub, folder):
    """Not even the process that was killed has to end well."""
    content = CONTENT * 12
    (hub.folder / "fair-esm" / "esm2_t6_8M_UR50D.pt").write_bytes(content)
    hub.stalls["esm2_t6_8M_UR50D.pt"] = 11 * 2**20
    command = [sys.executable, "-m", "virnucpro", "models", "fetch", "8M", "--models-dir", str(folder)]
    process = subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.DEVNULL)
    arrived = 10 * 2**20  # the library writes so much at a time
    deadline = time.monotonic() + 60
    while sum(part.stat().st_size for part in folder.glob(".*.part")) < arrived and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    hub.stalls.clear()
    obtain(esm(folder))
    assert hub.downloads("esm2_t6_8M_UR50D.pt") == [None, f"bytes={arrived}-"]
    assert esm(folder).path.read_bytes() == content


def test_two_processes_fetch_it_once(hub, folder):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=obtain, args=(esm(folder),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert hub.downloads("esm2_t6_8M_UR50D.pt") == [None]


# --- refused ---


def test_content_that_is_not_what_the_publisher_says(hub, folder):
    hub.false_digests.add("pytorch_model.bin")
    refused(dnabert(folder), "pytorch_model.bin", "its publisher says", "fetch it again")
    hub.false_digests.clear()
    obtain(dnabert(folder))
    assert hub.downloads("pytorch_model.bin") == [None, None], "nothing of the wrong one is kept"


def test_what_is_not_there(hub, folder):
    (hub.folder / "fair-esm" / "esm2_t6_8M_UR50D.pt").unlink()
    refused(esm(folder), "404", "fair-esm/esm2_t6_8M_UR50D.pt", "Check the name", str(folder))
    refused(find("protein", "no/body", folder), "404", "no/body", "Check the name")
    refused(find("protein", "no--such/id", folder), "no--such", "can't be fetched")
    with pytest.raises(ModelError, match=r"'8MB' isn't a published model; did you mean '8M'"):
        find_published("8MB", folder)
    with pytest.raises(ModelError, match="part of this installation: there is nothing to fetch"):
        find_published("mini-500", folder)


@pytest.mark.parametrize("name", ["8M", "facebook/esm2_t6_8M_UR50D"])
def test_no_internet_says_what_to_run_where_there_is(hub, folder, name, monkeypatch):
    hub.server.server_close()
    source = find("protein", name, folder)
    refused(source, "login node", f"virnucpro models fetch {name} --models-dir {folder}")


@pytest.mark.parametrize("name", ["8M", REPOSITORY])
def test_a_web_page_is_no_model(hub, folder, name):
    hub.page = b"<html>please log in</html>"
    role = "protein" if name == "8M" else "dna"
    refused(find(role, name, folder), "can't be fetched", f"virnucpro models fetch {name}")
    assert not list(folder.glob("*.sha256"))


def test_a_folder_that_cannot_be_written(hub, folder):
    folder.write_text("a file")
    refused(esm(folder), "nothing can be written", "Set another 'models_dir'")


def test_a_proxy_is_used(hub, folder):
    variables = {"HTTP_PROXY": hub.url, "VIRNUCPRO_ESM_URL": "http://publisher.invalid/fair-esm"}
    command = [sys.executable, "-m", "virnucpro", "models", "fetch", "8M", "--models-dir", str(folder)]
    subprocess.run(command, env=os.environ | variables, check=True, capture_output=True)
    assert esm(folder).path.read_bytes() == CONTENT and len(hub.requests) == 2


@pytest.mark.parametrize("name", ["8M", REPOSITORY, "virnucpro-500"])
def test_offline_by_request(hub, folder, name):
    """HF_HUB_OFFLINE is read by the library when it is imported."""
    command = [sys.executable, "-m", "virnucpro", "models", "fetch", name, "--models-dir", str(folder)]
    done = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 1 and "offline mode" in done.stderr and "login node" in done.stderr
    assert f"run: virnucpro models fetch {name} --models-dir {folder}\n" in done.stderr
    assert "Traceback" not in done.stderr and not hub.requests


@pytest.mark.parametrize("offline", ["0", "1"])
def test_the_hubs_own_cache_is_used(hub, folder, offline):
    cached = hub.folder / ".home" / "hub" / "models--zhihan1996--DNABERT-S"
    snapshot = cached / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    for name in ("config.json", "pytorch_model.bin"):  # as a program leaves it that needed no tokenizer
        (snapshot / name).write_bytes((hub.folder / REPOSITORY / name).read_bytes())
    command = [sys.executable, "-m", "virnucpro", "models", "fetch", "DNABERT-S", "--models-dir", str(folder)]
    subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": offline}, check=True, capture_output=True)
    files = {path.name for path in (folder / "DNABERT-S").iterdir()}
    assert files - {"tokenizer.json"} == {"config.json", "pytorch_model.bin"}
    assert not hub.downloads("pytorch_model.bin"), "taken from the cache"
    assert len(hub.downloads("tokenizer.json")) == ("tokenizer.json" in files) == (offline == "0")


@pytest.mark.parametrize("damage", ["change", "truncate", "remove"])
def test_a_model_that_changed_is_refused_ever_after(hub, folder, damage):
    obtain(dnabert(folder))
    file = folder / "DNABERT-S" / "config.json"
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(b"x" + CONTENT if damage == "change" else file.read_bytes()[:-1])
    for check in (obtain, verify):
        with pytest.raises(ModelError, match=r"DNABERT-S/config.json.*DNABERT-S.sha256 says.*Delete .* and fetch it"):
            check(dnabert(folder))


def test_a_model_fetched_again_must_be_the_same(hub, folder):
    obtain(esm(folder))
    esm(folder).path.unlink()
    (hub.folder / "fair-esm" / "esm2_t6_8M_UR50D.pt").write_bytes(CONTENT[::-1])
    refused(esm(folder), "esm2_t6_8M_UR50D.pt.sha256 says", "delete that record too")
    (folder / "esm2_t6_8M_UR50D.pt.sha256").unlink()
    obtain(esm(folder))


def test_a_model_put_there_by_hand_is_recorded_at_first_use(folder, caplog):
    folder.mkdir()
    (folder / "500_model.pth").write_bytes(b"by hand")
    source = find("classifier", "virnucpro-500", folder)
    with caplog.at_level(logging.INFO):
        assert obtain(source) == {"500_model.pth": sha256(b"by hand")}
    assert "recorded the SHA-256" in caplog.text
    source.path.write_bytes(b"by haNd")
    with pytest.raises(ModelError, match="damaged, removed or replaced"):
        obtain(source)
    (folder / "500_model.pth.sha256").write_text("nonsense")
    with pytest.raises(ModelError, match="isn't a list of SHA-256 digests"):
        obtain(source)


def test_an_empty_folder_is_no_model(folder):
    (folder / "DNABERT-S").mkdir(parents=True)
    with pytest.raises(ModelError, match="none of the files of a model"):
        obtain(dnabert(folder))


# --- the command ---


def virnucpro(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "virnucpro", "models", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))


def test_the_command(hub, folder):
    option = ["--models-dir", str(folder)]
    done = virnucpro("fetch", "8M", "DNABERT-S", *option)
    assert done.stdout.split() == [str(folder / "esm2_t6_8M_UR50D.pt"), str(folder / "DNABERT-S")], done.stderr
    assert virnucpro("path", "8M", *option).stdout.split() == [str(folder / "esm2_t6_8M_UR50D.pt")]
    rows = {line.split("\t")[3]: line.split("\t")[2] for line in virnucpro("list", *option).stdout.splitlines()}
    assert rows["8M, esm2_t6_8M_UR50D"] == "here" and rows["mini-esm2"] == "bundled"
    assert rows["35M, esm2_t12_35M_UR50D"] == "not fetched"
    shutil.copytree(hub.folder / REPOSITORY, hub.folder / "some" / "one")
    obtain(find("dna", "some/one", folder))
    good = virnucpro("verify", *option)
    assert good.returncode == 0 and f"{sha256(CONTENT)}  esm2_t6_8M_UR50D.pt" in good.stdout
    assert "some--one/config.json" in good.stdout
    (folder / "DNABERT-S" / "tokenizer.json").write_text(json.dumps({}))
    (folder / "esm2_t6_8M_UR50D.pt").write_bytes(b"")
    bad = virnucpro("verify", *option)
    assert bad.returncode == 1 and "DNABERT-S/tokenizer.json" in bad.stderr and "Traceback" not in bad.stderr
    assert "8M_UR50D.pt isn't what" in bad.stderr and "some--one/config.json" in bad.stdout, "it goes on after one"
