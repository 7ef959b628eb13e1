"""A web server that answers 403 for what is not there, as stores do where nobody may list."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Hiding:
    """What happens on the server; may be changed at any time.

    Attributes
    ----------
    missing
        The status of what is not there.
    code
        What a refusal is called in its page; empty for a page that says nothing.
    refuse
        Whether a path is refused though it is there.
    has_ranges
        Whether parts of objects are sent.
    changed
        The bytes of paths that have others than their files.
    asked
        Method, path and range of every request.
    """

    url: str
    root: Path
    missing: int = 403
    code: str = "AccessDenied"
    refuse: Callable[[str], bool] = field(default=lambda path: False)
    has_ranges: bool = True
    changed: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def of(self, method: str) -> list[str]:
        """Return the paths that were asked for by a method."""
        return [path for said, path, _ in self.asked if said == method]

    def answer(self, path: str, part: str) -> tuple[int, bytes, str]:
        """Return status, body and the range that it is."""
        file = self.root / path.lstrip("/")
        if self.refuse(path) or not file.is_file():
            status = 403 if self.refuse(path) else self.missing
            return status, f"<Error><Code>{self.code}</Code></Error>".encode() if self.code else b"", ""
        content = self.changed.get(path, file.read_bytes())
        if not (part and self.has_ranges):
            return 200, content, ""
        first, _, last = part.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(len(content) - int(last), 0)
        stop = min(int(last) + 1, len(content)) if first and last else len(content)
        if start >= len(content):
            return 416, b"", f"bytes */{len(content)}"
        return 206, content[start:stop], f"bytes {start}-{stop - 1}/{len(content)}"


@contextmanager
def hiding_server(root: Path) -> Iterator[Hiding]:
    """Serve a folder from a thread of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            path, part = unquote(urlsplit(self.path).path), self.headers.get("Range", "")
            hiding.asked.append((self.command, path, part))
            status, body, place = hiding.answer(path, part)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if place:
                self.send_header("Content-Range", place)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD = _answer  # noqa: N815  http.server's names

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # whoever asked has seen enough
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hiding = Hiding(f"http://127.0.0.1:{server.server_port}", root)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield hiding
        finally:
            server.shutdown()
            thread.join()
