"""A web server on this machine that answers as a test says, and keeps what it was asked."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

type Reply = bytes | tuple[int, Mapping[str, str], bytes] | Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class WebServer:
    """Answers requests by path; what it has none for is not found."""

    replies: dict[str, Reply] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # whoever asked may just leave
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self) -> None:
        """Wait, in an answer, until the server ends."""
        self._over.wait()

    @property
    def ended(self) -> bool:
        return self._over.is_set()

    def saw(self, secret: str) -> list[str]:
        """Return the paths of the requests in which a text was, in a header or the path, or as the password of "me"."""
        forms = (secret, b64encode(f"me:{secret}".encode()).decode())
        said = ((one.path, repr((one.path, *one.headers.items()))) for one in self.asked)
        return [path for path, words in said if any(form in words for form in forms)]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.asked.append(Asked(self.command, self.path, dict(self.headers)))
                reply = server.replies.get(self.path.partition("?")[0], (404, {}, b""))
                if callable(reply):
                    self.close_connection = True
                    try:
                        reply(self)
                    except (ConnectionError, TimeoutError):
                        return  # whoever asked has heard enough
                    return
                status, headers, body = (200, {}, reply) if isinstance(reply, bytes) else reply
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


def redirect(url: str) -> Reply:
    return 302, {"Location": url}, b""


def endless(block: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return an answer that goes on until nobody listens."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        piece = b"%x\r\n%s\r\n" % (len(block), block)
        while True:
            handler.wfile.write(piece)

    return answer
