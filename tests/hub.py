"""A hub on this machine: answers what `huggingface_hub` asks of repositories, with faults that a network has."""

from __future__ import annotations

import hashlib
import json
import re
import select
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HUGE = "owner/huge"  # a repository with a file of a petabyte
REVISION = "0123456789abcdef0123456789abcdef01234567"
_MAX_SMALL = 2000  # bytes of a file that is not in Git LFS


@dataclass
class Hub:
    """Repositories by name: their files' contents.

    Attributes:
        url: value of ``HF_ENDPOINT``.
        licences: of repositories; others state none.
        gated: repositories that only some may have.
        cut_after: bytes after which a connection ends, of each answer with a file; 0 is never.
        wrong: files whose content is changed on the way.
        stall_after: bytes after which the hub sends nothing any more, until it is released; 0 is never.
        stalled: set when that happened.
        release: lets the rest be sent.
        ranges: the ranges that were asked for.
        sent: bytes of all answers.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    url: str = ""
    cut_after: int = 0
    wrong: set[str] = field(default_factory=set)
    stall_after: int = 0
    stalled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    ranges: list[int] = field(default_factory=list)
    sent: int = 0

    def describe(self, name: str) -> dict[str, Any]:
        """Return the answer about a repository, with its files."""
        if name == HUGE:
            return {"id": name, "sha": REVISION, "siblings": [{"rfilename": "x-q8_0.gguf", "size": 1 << 50}]}
        siblings = []
        for path, content in self.repositories[name].items():
            row: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            if len(content) > _MAX_SMALL:
                digest = hashlib.sha256(content).hexdigest()
                row["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
            siblings.append(row)
        licence = self.licences.get(name)
        card = {"license": licence} if licence else {}
        return {
            "id": name,
            "sha": REVISION,
            "siblings": siblings,
            "tags": [f"license:{licence}"] if licence else [],
            "cardData": card,
            "private": False,
            "gated": False,
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if (match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path)) is not None:
            self._answer_about(match[1])
        elif (match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)) is not None:
            self._answer_file(match[1], match[2], with_body)
        else:
            self._send(404, b"", {})

    def _answer_about(self, name: str) -> None:
        if name not in self.hub.repositories and name != HUGE:
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif name in self.hub.gated:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "access is restricted"})
        else:
            self._send(200, json.dumps(self.hub.describe(name)).encode(), {"Content-Type": "application/json"})

    def _answer_file(self, name: str, path: str, with_body: bool) -> None:
        content = self.hub.repositories.get(name, {}).get(path)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        digest = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        if path in self.hub.wrong:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0
        if with_body and (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) is not None:
            start = int(match[1])
            self.hub.ranges.append(start)
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._send(206 if start else 200, content[start:], headers, with_body)

    def _is_abandoned(self) -> bool:
        """Return whether the client has closed the connection."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        with suppress(ConnectionError):
            return bool(readable) and not self.connection.recv(1)
        return True

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], with_body: bool = True) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not with_body:
            return
        limit = (self.hub.cut_after or self.hub.stall_after) if "ETag" in headers else 0
        self.wfile.write(body[:limit] if limit else body)
        self.hub.sent += min(len(body), limit or len(body))
        if limit and len(body) > limit:
            self.close_connection = True
            if self.hub.stall_after:
                self.hub.stalled.set()
                rest = body[limit:]
                while not self.hub.release.wait(0.05):
                    if self._is_abandoned():
                        return
                with suppress(ConnectionError):
                    self.wfile.write(rest)


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve an empty hub on a port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
