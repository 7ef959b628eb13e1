"""An API server that answers what a test tells it to: the faults that a real one shows only when it likes."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
Reply = Callable[["_Handler"], None]


class ApiServer:
    """Answers the requests for each path from a queue; the last answer of a queue stays."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.connections = 0
        self._replies: dict[str, deque[Reply]] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def on(self, start: str, *replies: Reply) -> None:
        """Answer requests whose `METHOD path?query` starts so, one after the other."""
        self._replies[start] = deque(replies)

    def kubeconfig(self, folder: Path) -> Path:
        """Write a kubeconfig that leads here."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"token": "secret"}}],
            "contexts": [{"name": "here", "context": {"cluster": "fake", "user": "me"}}],
            "current-context": "here",
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(document))
        return path

    def reply(self, line: str) -> Reply:
        self.asked.append(line)
        start = max((start for start in self._replies if line.startswith(start)), key=len)
        queue = self._replies[start]
        return queue.popleft() if len(queue) > 1 else queue[0]

    @contextmanager
    def running(self) -> Iterator[ApiServer]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: ApiServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: tests hang up on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.api.connections += 1

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.server.api.reply(f"{self.command} {self.path}")(self)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815  the base class's names

    def log_message(self, *arguments: Any) -> None:
        pass


def says(document: Object, status: int = 200) -> Reply:
    """Answer with a document."""

    def reply(handler: _Handler) -> None:
        content = json.dumps(document).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return reply


def sends(content: bytes, status: int = 200) -> Reply:
    """Answer with some bytes, as whatever stands between may do; a redirection leads back to the same address."""

    def reply(handler: _Handler) -> None:
        handler.send_response(status)
        if 300 <= status < 400:
            handler.send_header("Location", handler.path)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return reply


def refuses(status: int, message: str, reason: str = "") -> Reply:
    """Answer as an API server refuses."""
    return says({"kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": status}, status)


def hangs_up(handler: _Handler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True
    handler.connection.close()


def watching(changes: Sequence[Object], *, then: Callable[[], object] = lambda: None, cut: bool = False) -> Reply:
    """Answer a watch with some changes, wait for `then`, and end; or be cut off in the middle of a line."""

    def reply(handler: _Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for change in changes:
            line = json.dumps(change).encode() + b"\n"
            half = len(line) // 2
            for part in (line[:half], line[half:]):  # a line comes in pieces
                handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        handler.wfile.flush()
        then()
        if cut:
            handler.wfile.write(b'5\r\n{"typ\r\n')
            hangs_up(handler)
        else:
            handler.wfile.write(b"0\r\n\r\n")

    return reply


def thing(name: str, version: int, **more: Any) -> Object:
    """Return an object with a version."""
    return {"metadata": {"name": name, "resourceVersion": str(version)}, **more}


def listing(version: int, *things: Object) -> Reply:
    """Answer a list."""
    return says({"kind": "List", "metadata": {"resourceVersion": str(version)}, "items": list(things)})


def change(kind: str, what: Object) -> Object:
    """Return a line of a watch."""
    return {"type": kind, "object": what}
