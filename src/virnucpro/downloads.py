"""Published models → the models folder: fetched once, whole or not at all, checked by SHA-256 ever after.

A download goes to a hidden file or folder beside the model's place, where a later one goes on after a break; it moves into
place when all is there. The digests lie beside a model as ``NAME.sha256``, in ``sha256sum``'s format.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from virnucpro.encoders.prepare import WEIGHTS
from virnucpro.errors import ModelError
from virnucpro.io import atomic_file, sha256_file, sync
from virnucpro.locks import locked
from virnucpro.models.ahead import fetch_command
from virnucpro.models.sources import ModelSource

logger = logging.getLogger(__name__)


def obtain(source: ModelSource, record: Path | None = None) -> dict[str, str]:
    """Make sure that a published model is in its folder and unchanged; fetch it if it isn't there.

    Returns file → SHA-256, and writes that to ``record`` if given. Raises ModelError: no way to the publisher, none of
    that name there, or content that isn't what the publisher says or what was there before.
    """
    digests = None
    if not source.path.exists():
        with _fetching(source):
            if not source.path.exists():
                digests = _fetch(source)
    digests = digests or verify(source)
    if record is not None:
        _write(record, digests)
    return digests


def verify(source: ModelSource) -> dict[str, str]:
    """The SHA-256 of each file of a model on disk, compared with its record, or recorded if it has none.

    Raises ModelError that names the first file that is missing or has changed.
    """
    known = _read_record(source)
    folder = source.path.parent
    if not source.path.exists():
        raise ModelError(f"{source.path} isn't there. Fetch it: {fetch_command(source)}")
    files = [folder / name for name in known] if known else source.files
    found = {str(file.relative_to(folder)): sha256_file(file) for file in files if file.is_file()}
    if not found:
        raise ModelError(
            f"{source.path} has none of the files of a model. Delete it and fetch it: {fetch_command(source)}"
        )
    if not known:
        try:
            _write(_record(source), found)
            logger.info("recorded the SHA-256 of %s in %s", source.path, _record(source))
        except OSError as error:
            logger.warning("the SHA-256 of %s can't be recorded (%s): changes will go unnoticed", source.path, error)
    _compare(source, found, known or found)
    return found


def _fetch(source: ModelSource) -> dict[str, str]:
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    folder = source.path.parent
    repository = source.published.repository if source.published else None
    try:
        if repository:
            logger.info("fetching %s to %s", repository, source.path)
            fetched, found = _fetch_repository(repository, source.path)
        else:
            logger.info("fetching %s to %s", source.origin, source.path)
            fetched = _fetch_file(source.origin, source.path)
            found = {source.path.name: sha256_file(fetched)}
    except (OSError, HTTPError, ValueError) as error:  # ValueError: an id or an answer that makes no sense
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        remedy = f"Run it again, and it goes on with what has arrived: {fetch_command(source)}"
        if isinstance(error, HfHubHTTPError):
            remedy = f"Check the name, try again later, or put the files there yourself: {source.path}"
        elif isinstance(error, (HTTPError, ConnectionError)):
            remedy = f"Where there is internet access (on a cluster: the login node), run: {fetch_command(source)}"
        raise ModelError(
            f"'{source.name}' isn't in {folder} and can't be fetched from here: {reason}. {remedy}"
        ) from error
    if known := _read_record(source):
        _compare(source, found, known)
    _write(_record(source), found)
    for path in [fetched, *(fetched.iterdir() if repository else ())]:
        sync(path)
    os.rename(fetched, source.path)
    sync(folder)
    return found


_TIMEOUT = 30  # seconds


def _fetch_file(url: str, target: Path) -> Path:
    """Download a file to a hidden one beside ``target``, going on where an earlier attempt at the same state ended."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import get_session, hf_raise_for_status

    response = get_session().head(url, headers={"Accept-Encoding": "identity"}, timeout=_TIMEOUT)
    hf_raise_for_status(response)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise ConnectionError(f"{url} is answered with a web page, by a proxy that asks for something perhaps")
    size = response.headers.get("Content-Length")
    state = hashlib.sha256(f"{response.headers.get('ETag')} {size}".encode()).hexdigest()[:12]
    part = target.with_name(f".{target.name}.{state}.part")
    for other in target.parent.glob(f".{target.name}.*.part"):
        if other != part:
            other.unlink()
    with open(part, "ab") as handle:
        http_get(url, handle, resume_size=handle.tell(), expected_size=int(size) if size else None)
    return part


def _fetch_repository(repository: str, target: Path) -> tuple[Path, dict[str, str]]:
    """Download a Hugging Face repository's weights, settings and tokenizer to a hidden folder beside ``target``.

    They are taken from the Hub's own cache where it has them; where there is no way to the Hub, a complete copy in that
    cache will do, of whatever state. Returns the folder, and the SHA-256 of its files under their names in the models folder.
    """
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HTTPError

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    folder = target.with_name(f".{target.name}.partial")
    folder.mkdir(exist_ok=True)
    published: dict[str, str] = {}
    try:
        info = HfApi(endpoint=endpoint).model_info(repository, files_metadata=True, timeout=_TIMEOUT)
    except (OSError, HTTPError):
        cached = try_to_load_from_cache(repository, "config.json")
        copies = {path.name: path for path in Path(cached).parent.glob("*")} if isinstance(cached, str) else {}
        if not (names := _wanted(copies)):
            raise
        for name in names:
            shutil.copyfile(copies[name], folder / name)
    else:
        listed = {file.rfilename: file for file in info.siblings or []}
        if not (names := _wanted(listed)):
            raise ModelError(
                f"{repository} has no config.json, or none of {', '.join(WEIGHTS)}. Is it the right model?"
            ) from None
        snapshot_download(repository, revision=info.sha, local_dir=folder, allow_patterns=names, endpoint=endpoint)
        published = {name: lfs.sha256 for name in names if (lfs := listed[name].lfs)}
    found = {name: sha256_file(folder / name) for name in names}
    for name, digest in published.items():
        if found[name] != digest:
            (folder / name).unlink()
            raise ModelError(
                f"{repository}/{name} arrived with SHA-256 {found[name][:12]}…, but its publisher says {digest[:12]}…: it "
                "was damaged or replaced on its way. It is deleted; fetch it again."
            )
    for path in folder.iterdir():  # what the library keeps there, and what another state had
        if path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder, {f"{target.name}/{name}": digest for name, digest in found.items()}


def _wanted(names: Collection[str]) -> list[str]:
    """The files of a model folder that are read, safetensors rather than a pickle; none if they aren't all there."""
    weights = next((name for name in WEIGHTS if name in names), None)
    if weights is None or "config.json" not in names:
        return []
    shards: list[str] = []
    if weights.endswith(".index.json"):
        stem, suffix = weights.removesuffix(".index.json").rsplit(".", 1)
        shards = sorted(name for name in names if re.fullmatch(rf"{stem}-\d+-of-\d+\.{suffix}", name))
        if not shards or f"-of-{len(shards):05d}." not in shards[0]:
            return []
    return [weights, *shards, "config.json", *(name for name in ("tokenizer.json",) if name in names)]


def _compare(source: ModelSource, found: dict[str, str], known: dict[str, str]) -> None:
    for name in sorted(known.keys() | found):
        if found.get(name) != known.get(name):
            what = "isn't what" if name in found and name in known else "is missing here or"
            raise ModelError(
                f"{source.path.parent / name} {what} {_record(source)} says: it was damaged, removed or replaced. Delete "
                f"{source.path} and fetch it again; delete that record too if the new content is what you want."
            )


@contextmanager
def _fetching(source: ModelSource) -> Iterator[None]:
    """Only one process fetches a model; the others wait, and find it there."""
    folder = source.path.parent
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / f".{source.path.name}.lock", f"fetching {source.path}"))
        except OSError as error:
            raise ModelError(
                f"'{source.name}' isn't in {folder}, and nothing can be written there ({error}). Set another 'models_dir'."
            ) from error
        yield


def _record(source: ModelSource) -> Path:
    return source.path.with_name(f"{source.path.name}.sha256")


def _read_record(source: ModelSource) -> dict[str, str]:
    path = _record(source)
    if not path.exists():
        return {}
    lines = [line.split(maxsplit=1) for line in path.read_text().splitlines()]
    if not lines or any(len(line) != 2 or not re.fullmatch("[0-9a-f]{64}", line[0]) for line in lines):
        raise ModelError(f"{path} isn't a list of SHA-256 digests. Delete it, and it is made anew.")
    return {name: digest for digest, name in lines}


def _write(record: Path, digests: dict[str, str]) -> None:
    with atomic_file(record) as temporary:
        temporary.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())))
