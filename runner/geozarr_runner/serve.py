"""Shows a folder to whoever has its token, read only, over HTTP: how a cluster's volume is read without a mount.

=====================  ===========================================================================================
GET, HEAD /files/PATH  the bytes of a file; `Range: bytes=...` gives a part of it
GET /info/PATH         one entry as JSON: `name`, `type` (file, directory), `size` in bytes, `modified` in seconds
GET /list/PATH         the entries of a folder, one JSON document a line
GET /stats             what was answered so far: `requests`, `reads`, `bytes` (of files)
=====================  ===========================================================================================

Every request brings the token in the header `X-Geozarr-Token`; the server itself knows only the token's SHA-256, so
that reading its command line does not help. Every answer has the header `X-Geozarr-Serve`, by which it is told from
what something in between says. A refusal is JSON: `code` and `message`.

Nothing outside the folder is shown: `..` is refused, and links are followed only as far as they stay inside.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

from geozarr_runner.errors import InvalidRequest
from geozarr_runner.serving.folder import Folder, RequestRefused
from geozarr_runner.serving.handler import Counters, Handler

CONNECTIONS = 128  # that have shown the token
STRANGERS = 64  # that have not, and take no place of the others
SECONDS_TO_SHOW_THE_TOKEN = 5.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Stranger:
    """A connection that has not shown the token yet."""

    connection: socket.socket
    host: str
    until: float

    def hang_up(self) -> None:
        """End the connection; its thread, which waits for the rest of a request, ends with it."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


class Server(ThreadingTCPServer):
    """Answers requests, each connection in a thread of its own.

    Whoever has not shown the token has little time and few places, which are not those of the others; where they are
    all taken, the host that holds most of them loses its oldest.

    Parameters
    ----------
    folder
        What is shown.
    address
        Host and port; port 0 takes a free one, and an empty host all of this machine's addresses.
    token_sha256
        SHA-256 of the token, as 64 hexadecimal digits.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = CONNECTIONS

    def __init__(self, folder: Folder, address: tuple[str, int], token_sha256: str) -> None:
        self.folder = folder
        self.counters = Counters()
        self._token = bytes.fromhex(token_sha256)
        self._lock = threading.Lock()
        self._strangers: dict[int, _Stranger] = {}  # by the id of their socket, the oldest first
        self._known: set[int] = set()
        self._busy = 0
        self._last = time.monotonic()
        if not address[0] and socket.has_dualstack_ipv6():
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Take the port, for both versions of the protocol where there are two."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    @property
    def port(self) -> int:
        """The port that is listened to."""
        return int(self.server_address[1])

    @property
    def idle(self) -> float:
        """Seconds since the last request with the right token was answered; 0 while one is."""
        with self._lock:
            return 0.0 if self._busy else time.monotonic() - self._last

    def knows(self, token: str) -> bool:
        """Return whether this is the token."""
        return hmac.compare_digest(hashlib.sha256(token.encode(errors="replace")).digest(), self._token)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Keep the server from being idle."""
        with self._lock:
            self._busy += 1
            self.counters.requests += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1
                self._last = time.monotonic()

    def count(self, sent: int) -> None:
        """Add one read to the counters."""
        with self._lock:
            self.counters.reads += 1
            self.counters.bytes += sent

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the thread of a connection, which is a stranger's so far."""
        until = time.monotonic() + SECONDS_TO_SHOW_THE_TOKEN
        with self._lock:
            if len(self._strangers) >= STRANGERS:
                hosts = Counter(one.host for one in self._strangers.values())
                [(busiest, _)] = hosts.most_common(1)
                oldest = next(key for key, one in self._strangers.items() if one.host == busiest)
                self._strangers.pop(oldest).hang_up()
            self._strangers[id(request)] = _Stranger(request, client_address[0], until)
        super().process_request(request, client_address)

    def admit(self, request: Any) -> None:
        """Take a connection that has shown the token among the others that have.

        Raises
        ------
        RequestRefused
            There are too many.
        """
        with self._lock:
            if id(request) in self._known:
                return
            if len(self._known) >= CONNECTIONS:
                raise RequestRefused(
                    HTTPStatus.SERVICE_UNAVAILABLE, "busy", f"{CONNECTIONS} others read at this moment"
                )
            if self._strangers.pop(id(request), None) is not None:  # else its time is over
                self._known.add(id(request))

    def service_actions(self) -> None:
        """Hang up on those who have not shown the token in time; called twice a second."""
        now = time.monotonic()
        with self._lock:
            for key, one in list(self._strangers.items()):
                if one.until <= now:
                    self._strangers.pop(key).hang_up()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer the requests of one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._strangers.pop(id(request), None)
                self._known.discard(id(request))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Take it as it is that a reader has gone away."""


def serve(
    root: Path,
    *,
    port: int,
    idle: float,
    token_sha256: str,
    ready: Callable[[int], None],
    address: str = "",
    ending: threading.Event | None = None,
) -> Counters:
    """Answer requests until none came for some time; returns what was answered.

    Parameters
    ----------
    root
        The folder to show.
    port
        0 takes a free one.
    idle
        Seconds without a request after which it ends.
    token_sha256
        SHA-256 of the token that every request has to bring, as 64 hexadecimal digits.
    ready
        Called with the port as soon as it is listened to.
    address
        Where to listen; empty for all of this machine's addresses.
    ending
        Ends it when it is set.

    Raises
    ------
    InvalidRequest
        There is no such folder, the port is taken, or a value cannot be used.
    """
    if not root.is_dir():
        raise InvalidRequest("there is no such folder to serve", given=root, remedy="give one that is there")
    if not _SHA256.fullmatch(token_sha256):
        raise InvalidRequest(
            "this is no SHA-256 of a token",
            given=token_sha256,
            remedy="give its 64 hexadecimal digits: printf %s TOKEN | sha256sum",
        )
    if not idle > 0:
        raise InvalidRequest("it would end at once", given=f"idle={idle}", remedy="give seconds above 0")
    try:
        server = Server(Folder(root), (address, port), token_sha256)
    except (OSError, OverflowError) as error:
        raise InvalidRequest(
            f"this address and port cannot be listened to: {error}",
            given=f"{address or '*'}:{port}",
            remedy="choose another port; 0 takes a free one",
        ) from error
    ending = ending or threading.Event()
    with server:
        threading.Thread(target=server.serve_forever, name="serve", daemon=True).start()
        ready(server.port)
        while (left := idle - server.idle) > 0 and not ending.wait(left):
            pass
        server.shutdown()
    return server.counters
