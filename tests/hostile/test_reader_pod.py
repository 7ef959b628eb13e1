"""The server of the reader pod, asked by whoever reaches it and lacks the token."""

from __future__ import annotations

import hashlib
import http.client
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from geozarr_runner import serve
from geozarr_runner.serve import CONNECTIONS, STRANGERS, Server
from geozarr_runner.serving import handler
from geozarr_runner.serving.folder import Folder
from geozarr_runner.serving.handler import BYTES_OF_A_REQUEST, TOKEN_HEADER
from tests.contract.support import until

TOKEN = "not-a-secret"
# What a client that knows no token sends, and then waits: nothing, a part of each part of a request.
UNFINISHED = (b"", b"GET /stats", b"GET /stats HTTP/1.1\r\n", b"GET /stats HTTP/1.1\r\nHost: a\r\nX-Geoz")
FOREVER = 1000.0


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on which nobody's time runs out, unless a test says so."""
    monkeypatch.setattr(serve, "SECONDS_TO_SHOW_THE_TOKEN", FOREVER)
    (tmp_path / "a").write_bytes(b"0123456789")
    with Server(Folder(tmp_path), ("127.0.0.1", 0), hashlib.sha256(TOKEN.encode()).hexdigest()) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def stranger(server: Server, opened: ExitStack, sent: bytes, host: str = "127.0.0.1") -> socket.socket:
    """Connect from an address of this machine, and send something."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20, source_address=(host, 0))
    opened.callback(connection.close)
    connection.sendall(sent)
    return connection


def reader(server: Server, opened: ExitStack) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    opened.callback(connection.close)
    return connection


def read(connection: http.client.HTTPConnection, **headers: str) -> tuple[int, bytes]:
    connection.request("GET", "/files/a", headers={TOKEN_HEADER: TOKEN, **headers})
    answer = connection.getresponse()
    return answer.status, answer.read()


def is_hung_up(connection: socket.socket) -> bool:
    """Return True when the server has ended a connection; waits for that."""
    with suppress(ConnectionError):
        while connection.recv(65_536):
            pass
    return True


@pytest.mark.parametrize("sent", UNFINISHED)
def test_unfinished_requests_shut_nobody_out(server: Server, opened: ExitStack, sent: bytes) -> None:
    before = reader(server, opened)
    assert read(before) == (200, b"0123456789")
    kept = before.sock
    for _ in range(2 * CONNECTIONS + STRANGERS):
        stranger(server, opened, sent)
    assert read(reader(server, opened)) == (200, b"0123456789")
    assert read(before) == (200, b"0123456789")
    assert before.sock is kept, "whoever has shown the token keeps their connection"


@pytest.mark.skipif(sys.platform == "darwin", reason="it has one loopback address")
def test_the_host_that_asks_most_loses_its_own_places(server: Server, opened: ExitStack) -> None:
    honest = stranger(server, opened, b"GET /files/a HTTP/1.0\r\n", "127.0.0.2")
    first = stranger(server, opened, UNFINISHED[1])
    for _ in range(3 * STRANGERS):
        stranger(server, opened, UNFINISHED[1])
    assert is_hung_up(first)
    honest.sendall(f"{TOKEN_HEADER}: {TOKEN}\r\n\r\n".encode())
    answer = b"".join(iter(lambda: honest.recv(65_536), b""))
    assert answer.endswith(b"\r\n\r\n0123456789")


@pytest.mark.parametrize("sent", UNFINISHED)
def test_the_token_has_to_be_shown_soon(
    server: Server, opened: ExitStack, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "SECONDS_TO_SHOW_THE_TOKEN", 0.1)
    assert is_hung_up(stranger(server, opened, sent))


def test_who_drips_gets_no_more_time(server: Server, opened: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "SECONDS_TO_SHOW_THE_TOKEN", 0.1)
    monkeypatch.setattr(handler, "BYTES_OF_A_REQUEST", 10**9)
    dripping = stranger(server, opened, b"GET /stats HTTP/1.1\r\na: ")
    with suppress(ConnectionError):
        while True:
            dripping.sendall(b"b")
    assert is_hung_up(dripping)


def test_a_wrong_token_ends_the_connection(server: Server, opened: ExitStack) -> None:
    connection = stranger(server, opened, b"GET /stats HTTP/1.1\r\nX-Geozarr-Token: wrong\r\n\r\n")
    assert is_hung_up(connection)


@pytest.mark.parametrize("line", [b"a: " + 60_000 * b"b" + b"\r\n", b"a: b\r\n", b"x"])
def test_headers_without_end_are_cut_off(server: Server, opened: ExitStack, line: bytes) -> None:
    connection = stranger(server, opened, b"GET /stats HTTP/1.1\r\n")
    with suppress(ConnectionError):
        connection.sendall(line * (4 * BYTES_OF_A_REQUEST // len(line)))
    assert is_hung_up(connection)
    assert read(reader(server, opened)) == (200, b"0123456789")


def test_more_readers_than_places_are_told(server: Server, opened: ExitStack) -> None:
    readers = [reader(server, opened) for _ in range(CONNECTIONS)]
    assert {read(one)[0] for one in readers} == {200}
    status, said = read(reader(server, opened))
    assert (status, b'"busy"' in said) == (503, True)
    readers[0].close()
    until(lambda: read(reader(server, opened)) == (200, b"0123456789"))  # its thread has taken note


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (f"bytes={5000 * '9'}-", (416, None)),
        (f"bytes={5000 * '9'}-{5001 * '9'}", (416, None)),
        (f"bytes=20-{5000 * '9'}", (416, None)),
        (f"bytes=2-{5000 * '9'}", (206, b"23456789")),
        (f"bytes=-{5000 * '9'}", (206, b"0123456789")),
        (f"bytes={5000 * '0'}2-{5000 * '0'}3", (206, b"23")),
    ],
    ids=lambda value: str(value)[:12],
)
def test_numbers_of_any_length_are_positions(
    server: Server, opened: ExitStack, asked: str, answer: tuple[int, bytes | None]
) -> None:
    status, body = read(reader(server, opened), Range=asked)
    assert (status, body if answer[1] is not None else None) == answer
