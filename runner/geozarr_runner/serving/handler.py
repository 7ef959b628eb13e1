"""Answers the requests that come over one connection."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from geozarr_runner.serving.folder import Folder, RequestRefused

TOKEN_HEADER = "X-Geozarr-Token"  # noqa: S105  the name of a header


MARK = "X-Geozarr-Serve"


SECONDS_OF_SILENCE = 60


LINES_AT_ONCE = 256


BYTES_OF_A_REQUEST = 65_536  # its line and its headers: a path has 4096 bytes at most, three times that when quoted


DIGITS_OF_A_POSITION = 18  # no file is longer than that says


_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")


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


class Answering(Protocol):
    """What a handler asks of its server."""

    folder: Folder
    counters: Counters

    def knows(self, token: str) -> bool:
        """Return whether this is the token."""

    def admit(self, request: Any) -> None:
        """Take a connection that has shown the token among the others that have."""

    def answering(self) -> AbstractContextManager[None]:
        """Keep the server from being idle."""

    def count(self, sent: int) -> None:
        """Add one read to the counters."""


class Handler(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "geozarr-runner"
    timeout = SECONDS_OF_SILENCE
    disable_nagle_algorithm = True
    server: Answering  # type: ignore[assignment]  # the server that made it
    headers: Message

    def setup(self) -> None:
        """Bound what is read of a request."""
        super().setup()
        self._head = _Head(self.rfile)
        self.rfile = self._head  # type: ignore[assignment]  # it has all that the base class calls

    def handle_one_request(self) -> None:
        """Answer a request of a bounded length."""
        self._head.left = BYTES_OF_A_REQUEST
        super().handle_one_request()

    def do_GET(self) -> None:
        """Answer what is asked for."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer without the content."""
        self._answer()

    def __getattr__(self, name: str) -> Callable[[], None]:
        # Whatever other method there is, of HTTP or invented, writes or is unknown.
        if name.startswith("do_"):
            return self._refuse_writing
        raise AttributeError(name)

    def version_string(self) -> str:
        """Return a name without the version of Python."""
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
