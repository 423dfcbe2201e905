"""A local HTTP server that plays the Hugging Face Hub, fair-esm's download site and the original's repository."""

from __future__ import annotations

import json
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from virnucpro.io import sha256_file

COMMIT = "c" * 40


class Hub:
    """Serves ``folder``: ``ORG/NAME/...`` as repositories, ``fair-esm/*.pt`` and ``classifiers/*.pth`` as files."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.breaks: dict[str, list[int]] = {}  # file name → after how many bytes each answer breaks off
        self.false_digests: set[str] = set()  # files that are announced with the SHA-256 of something else
        self.stalls: dict[str, int] = {}  # file name → after how many bytes an answer stops, and stays open
        self.refuses_ranges = False
        self.page = b""  # what every request is answered with, if anything
        self.go_on = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process take its models from here."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(self.folder / ".home"),
            "VIRNUCPRO_ESM_URL": f"{self.url}/fair-esm",
            "VIRNUCPRO_CLASSIFIER_URL": f"{self.url}/classifiers",
        }

    def downloads(self, name: str) -> list[str | None]:
        """The Range of each request for the content of a file."""
        return [given for method, path, given in self.requests if method == "GET" and path.endswith(f"/{name}")]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path  # of a whole address, where this server is asked as a proxy
        self.requests.append((request.command, path, request.headers.get("Range")))
        if self.page:
            self._send(request, 200, self.page, {"Content-Type": "text/html"})
            return
        if path.startswith("/api/models/"):
            name, _, tree = path.removeprefix("/api/models/").partition("/tree/")
            repository = self.folder / name
            if not repository.is_dir():
                self._send(request, 404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
                return
            files = [self._describe(file) for file in sorted(repository.iterdir())]
            answer = files if tree else {"id": repository.name, "sha": COMMIT, "siblings": files}
            self._send(request, 200, json.dumps(answer).encode(), {})
            return
        if path.startswith("/classifiers/"):
            self._send(request, 302, b"", {"Location": f"/raw{path}"})
            return
        file = self.folder / path.removeprefix("/raw").replace(f"/resolve/{COMMIT}", "").lstrip("/")
        if not file.is_file():
            self._send(request, 404, b"", {})
            return
        size, headers, start = file.stat().st_size, {"ETag": f'"{file.stat().st_mtime_ns}"'}, 0
        headers["X-Repo-Commit"] = COMMIT
        if (given := request.headers.get("Range")) and not self.refuses_ranges:
            start = int(given.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        with (
            open(file, "rb") as content,
            mmap.mmap(content.fileno(), 0, prot=mmap.PROT_READ) as mapped,
            memoryview(mapped)[start:] as part,
        ):
            self._send(request, 206 if start else 200, part, headers, file.name)

    def _describe(self, file: Path) -> dict:
        entry = {"rfilename": file.name, "size": file.stat().st_size, "blobId": "b" * 40}
        entry |= {"type": "file", "path": file.name, "oid": "b" * 40}  # in the list of a commit's files
        if file.suffix in (".safetensors", ".bin"):  # large files are in LFS, which knows their SHA-256
            digest = "0" * 64 if file.name in self.false_digests else sha256_file(file)
            entry["lfs"] = {"sha256": digest, "oid": digest, "size": entry["size"], "pointerSize": 130}
        return entry

    def _send(self, request, status: int, content: bytes | memoryview, headers: dict[str, str], name: str = "") -> None:
        request.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            if name in self.stalls:
                request.wfile.write(content[: self.stalls[name]])
                self.go_on.wait()
                request.close_connection = True
            elif self.breaks.get(name):
                request.wfile.write(content[: self.breaks[name].pop(0)])
                request.close_connection = True
            else:
                request.wfile.write(content)


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """A hub that runs while the block does."""
    folder.mkdir(exist_ok=True)
    hub = Hub(folder)
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        hub.server.shutdown()
        thread.join()
        hub.server.server_close()
