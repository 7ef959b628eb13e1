"""A way to an S3-compatible server on which requests can be held up, refused or changed."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
CONDITIONS = frozenset({"if-none-match", "if-match"})
# Method and path of a request; the answer is a status and an S3 code, or None for the server's own.
Refusal = Callable[[str, str], tuple[int, str] | None]


@dataclass
class Proxy:
    """What happens on the way; may be changed at any time."""

    host: str
    port: int
    refuse: Refusal = field(default=lambda method, path: None)
    holds: Callable[[str, str], bool] = field(default=lambda method, path: False)
    without_conditions: bool = False
    arrived: list[tuple[str, str]] = field(default_factory=list)
    held: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Event = field(default_factory=threading.Event)
    under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Count a request as under way."""
        with self.lock:
            self.under_way += 1
        try:
            yield
        finally:
            with self.lock:
                self.under_way -= 1


@contextmanager
def s3_proxy(options: dict[str, Any], host: str = "127.0.0.1") -> Iterator[tuple[dict[str, Any], Proxy]]:
    """Yield the options with which fsspec takes this way to a server, and what happens on it."""
    target = urlsplit(options["client_kwargs"]["endpoint_url"])
    assert target.hostname is not None
    assert target.port is not None
    proxy = Proxy(target.hostname, target.port)
    server = ThreadingHTTPServer((host, 0), _handler(proxy))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        endpoint = f"http://{host}:{server.server_port}"
        yield {**options, "client_kwargs": {**options["client_kwargs"], "endpoint_url": endpoint}}, proxy
    finally:
        proxy.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            with proxy.noted():
                self._handle()

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = unquote(urlsplit(self.path).path)
            proxy.arrived.append((self.command, path))
            if proxy.holds(self.command, path):
                proxy.held.release()
                proxy.go_on.wait(600)
            if (refused := proxy.refuse(self.command, path)) is not None:
                status, code = refused
                text = f"<Error><Code>{code}</Code><Message>{code} it says</Message></Error>".encode()
                self._answer(status, [("Content-Type", "application/xml")], text)
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            if proxy.without_conditions:
                headers = {name: value for name, value in headers.items() if name.lower() not in CONDITIONS}
            connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=600)
            try:
                connection.request(self.command, self.path, body=body, headers=headers)
                answer = connection.getresponse()
                content = answer.read()
                length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                self._answer(answer.status, answer.getheaders(), content, length)
            finally:
                connection.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on  # noqa: N815  http.server's names

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: str | None = None) -> None:
            try:
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
            except OSError:  # whoever asked was killed
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler
