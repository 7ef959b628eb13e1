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

import errno
import hashlib
import hmac
import json
import os
import re
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import unquote_to_bytes

from geozarr_runner.errors import InvalidRequest
from geozarr_runner.trust.tree import descend

TOKEN_HEADER = "X-Geozarr-Token"  # noqa: S105  the name of a header
MARK = "X-Geozarr-Serve"
CONNECTIONS = 128  # that have shown the token
STRANGERS = 64  # that have not, and take no place of the others
SECONDS_TO_SHOW_THE_TOKEN = 5.0
SECONDS_OF_SILENCE = 60
LINES_AT_ONCE = 256
BYTES_OF_A_REQUEST = 65_536  # its line and its headers: a path has 4096 bytes at most, three times that when quoted
DIGITS_OF_A_POSITION = 18  # no file is longer than that says
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class RequestRefused(Exception):
    """A request that is not answered with what it asked for.

    Attributes
    ----------
    status
        The HTTP status.
    code
        The same for programs: `bad-request`, `unauthorised`, `outside`, `denied`, `not-found`, `is-directory`,
        `not-a-directory`, `no-such-range`, `read-only`, `busy`.
    """

    def __init__(self, status: HTTPStatus, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers: Mapping[str, str] = headers


@dataclass(slots=True)
class Counters:
    """What a server has answered.

    Attributes
    ----------
    requests
        Those with the right token.
    reads
        Requests for bytes of files.
    bytes
        Bytes of files that were sent.
    """

    requests: int = 0
    reads: int = 0
    bytes: int = 0


class Folder:
    """A folder out of which no path leads.

    Parameters
    ----------
    root
        The folder; itself it may be reached by links.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.realpath(root)

    @contextmanager
    def opened(self, path: str) -> Iterator[int]:
        """Open a file or a folder by its path below the root, for reading; gives its descriptor.

        Raises
        ------
        RequestRefused
            It is not there, leads outside, may not be read, or is neither file nor folder.
        """
        descriptor = self._open(path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def entry(self, path: str) -> dict[str, Any]:
        """Describe a file or a folder.

        Raises
        ------
        RequestRefused
            As `opened`.
        """
        with self.opened(path) as descriptor:
            return _entry(path.rstrip("/").rpartition("/")[2], os.fstat(descriptor))

    def entries(self, path: str, descriptor: int) -> Iterator[dict[str, Any]]:
        """Describe what is in an opened folder; what is neither file nor folder, or leads outside, is left out."""
        with os.scandir(descriptor) as found:
            for one in found:
                with suppress(RequestRefused, OSError):  # a link that leads outside; or it is gone meanwhile
                    if one.is_symlink():
                        yield self.entry(f"{path}/{one.name}")
                    else:
                        status = one.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                            yield _entry(one.name, status)

    def _open(self, path: str) -> int:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in path:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, "outside", "a path goes down from the root only")
        # Where links lead is looked up first. What is opened then is a path without links, part by part, and a part
        # that has become a link meanwhile is refused: so nobody who changes the folder can lead the server out of it.
        resolved = os.path.realpath(os.path.join(self.root, *parts))  # noqa: PTH118  as fast as it gets: each request
        if os.path.commonpath((self.root, resolved)) != self.root:
            raise RequestRefused(HTTPStatus.FORBIDDEN, "outside", "this leads outside of the folder")
        below = [part for part in os.path.relpath(resolved, self.root).split("/") if part != "."]
        try:
            descriptor = descend(self.root, below, os.O_RDONLY)
        except OSError as error:
            raise _refusal(error) from error
        kind = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            os.close(descriptor)
            raise RequestRefused(HTTPStatus.FORBIDDEN, "denied", "neither a file nor a folder")
        return descriptor


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
        super().__init__(address, _Handler)

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


class _Head:
    """What comes over a connection, line by line; a request is cut off where it has no end."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self.left = BYTES_OF_A_REQUEST

    def readline(self, size: int = -1) -> bytes:
        """Return a line, or `size` bytes of one.

        Raises
        ------
        ConnectionAbortedError
            The request is longer than any that makes sense.
        """
        line = self._file.readline(min(size, self.left + 1) if size >= 0 else self.left + 1)
        self.left -= len(line)
        if self.left < 0:
            raise ConnectionAbortedError("the request has no end")
        return line

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "geozarr-runner"
    timeout = SECONDS_OF_SILENCE
    disable_nagle_algorithm = True
    server: Server
    headers: Message

    def setup(self) -> None:
        super().setup()
        self._head = _Head(self.rfile)
        self.rfile = self._head  # type: ignore[assignment]  # it has all that the base class calls

    def handle_one_request(self) -> None:
        self._head.left = BYTES_OF_A_REQUEST
        super().handle_one_request()

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def __getattr__(self, name: str) -> Callable[[], None]:
        # Whatever other method there is, of HTTP or invented, writes or is unknown.
        if name.startswith("do_"):
            return self._refuse_writing
        raise AttributeError(name)

    def version_string(self) -> str:
        return self.server_version

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  its name in the base class
        """Say nothing: a line for each chunk of a product would hide all else in the pod's log."""

    def _refuse_writing(self) -> None:
        self.close_connection = True  # the body that may follow is left unread
        message = "this is read only: only GET and HEAD are answered"
        self._send_refusal(RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, "read-only", message, Allow="GET, HEAD"))

    def _answer(self) -> None:
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True
        try:
            if not self.server.knows(self.headers.get(TOKEN_HEADER, "")):
                raise RequestRefused(HTTPStatus.UNAUTHORIZED, "unauthorised", f"{TOKEN_HEADER} is not the right one")
            self.server.admit(self.connection)
        except RequestRefused as refusal:
            self.close_connection = True
            self._send_refusal(refusal)
            return
        with self.server.answering():
            try:
                what, path = self._asked()
                answer = {"files": self._send_file, "info": self._send_info, "list": self._send_list}
                if what == "stats":
                    self._send_document(asdict(self.server.counters))
                elif what in answer:
                    answer[what](path)
                else:
                    raise RequestRefused(HTTPStatus.NOT_FOUND, "bad-request", "ask for /files, /info, /list or /stats")
            except RequestRefused as refusal:
                self._send_refusal(refusal)

    def _asked(self) -> tuple[str, str]:
        """Return the first part of the address, and the rest of it, decoded once."""
        target = self.path.partition("?")[0].lstrip("/")
        what, _, path = target.partition("/")
        return what, os.fsdecode(unquote_to_bytes(path))

    def _send_file(self, path: str) -> None:
        with self.server.folder.opened(path) as descriptor:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise RequestRefused(HTTPStatus.NOT_FOUND, "is-directory", "this is a folder: ask for /list")
            part = _part(self.headers.get("Range", ""), status.st_size)
            start, stop = part or (0, status.st_size)
            self.send_response(HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(stop - start))
            self.send_header("Accept-Ranges", "bytes")
            if part:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{status.st_size}")
            self._end_headers()
            if self.command == "HEAD":
                return
            with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
                sent = self.connection.sendfile(file, start, stop - start) if stop > start else 0
            self.server.count(sent)
            if sent < stop - start:  # it became shorter: only a closed connection tells the reader
                self.close_connection = True

    def _send_info(self, path: str) -> None:
        self._send_document(self.server.folder.entry(path))

    def _send_list(self, path: str) -> None:
        with self.server.folder.opened(path) as descriptor:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise RequestRefused(HTTPStatus.NOT_FOUND, "not-a-directory", "this is a file: ask for /files")
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/x-ndjson")
            if in_chunks := self.request_version == "HTTP/1.1":
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.close_connection = True
            self._end_headers()
            if self.command == "HEAD":
                return
            for lines in _in_blocks(self.server.folder.entries(path, descriptor)):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(lines), lines) if in_chunks else lines)
            if in_chunks:
                self.wfile.write(b"0\r\n\r\n")

    def _send_document(
        self, document: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
    ) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name.replace("_", "-"), value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self._end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_refusal(self, refusal: RequestRefused) -> None:
        self._send_document({"code": refusal.code, "message": str(refusal)}, refusal.status, refusal.headers)

    def _end_headers(self) -> None:
        self.send_header(MARK, "1")
        self.end_headers()


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


def _entry(name: str, status: os.stat_result) -> dict[str, Any]:
    is_folder = stat.S_ISDIR(status.st_mode)
    return {
        # A name that is no UTF-8 goes as its bytes came in, and comes back so.
        "name": name,
        "type": "directory" if is_folder else "file",
        "size": 0 if is_folder else status.st_size,
        "modified": status.st_mtime,
    }


def _in_blocks(entries: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    lines: list[str] = []
    for entry in entries:
        lines.append(json.dumps(entry) + "\n")
        if len(lines) == LINES_AT_ONCE:
            yield "".join(lines).encode()
            lines.clear()
    if lines:
        yield "".join(lines).encode()


def _part(header: str, size: int) -> tuple[int, int] | None:
    """Return start and stop of the bytes that a Range header asks for; None for the whole file.

    Several ranges at once, and other units, are answered with the whole, as HTTP allows.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    numbers = [_number(digits) for digits in (first, last)]
    if not first:
        start, stop = max(size - numbers[1], 0), size
    else:
        start, stop = numbers[0], min(numbers[1] + 1, size) if last else size
        if last and numbers[1] < start:
            return None
    if start >= stop:
        raise RequestRefused(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "no-such-range",
            f"the file has {size} bytes",
            Content_Range=f"bytes */{size}",
        )
    return start, stop


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= DIGITS_OF_A_POSITION else 10**DIGITS_OF_A_POSITION


def _refusal(error: OSError) -> RequestRefused:
    if error.errno in (errno.EACCES, errno.EPERM):
        return RequestRefused(HTTPStatus.FORBIDDEN, "denied", "this may not be read")
    if error.errno == errno.ELOOP:
        return RequestRefused(HTTPStatus.FORBIDDEN, "outside", "a link that leads nowhere, or has just been made")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return RequestRefused(HTTPStatus.NOT_FOUND, "not-found", "nothing is there")
    return RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, "failed", f"it cannot be read: {error.strerror}")
