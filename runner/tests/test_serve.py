"""The read-only server of a folder: the real command, asked over sockets."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from geozarr_runner import serve
from geozarr_runner.serving.handler import MARK, TOKEN_HEADER, Counters
from runner.tests.support import until

TOKEN = "not-a-secret"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()
CONTENT = bytes(range(256)) * 40
SECRET = b"outside of the volume"
RUNNER = (sys.executable, "-m", "geozarr_runner", "serve")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    process: subprocess.Popen[str]
    port: int

    def ask(self, path: str, method: str = "GET", token: str | None = TOKEN, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            return ask(connection, path, method, token, **headers)
        finally:
            connection.close()

    def stats(self) -> dict[str, int]:
        return dict(self.ask("/stats").document)


def ask(
    connection: http.client.HTTPConnection, path: str, method: str = "GET", token: str | None = TOKEN, **headers: str
) -> Answer:
    if token is not None:
        headers[TOKEN_HEADER] = token
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return Answer(response.status, dict(response.getheaders()), response.read())


@contextmanager
def served(root: Path, idle: float = 3600) -> Iterator[Served]:
    command = [*RUNNER, str(root), "--port", "0", "--address", "127.0.0.1", "--idle", str(idle)]
    with subprocess.Popen([*command, "--token-sha256", DIGEST], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = re.fullmatch(r"serving .* on port (\d+)\n", line)
        assert port, line
        try:
            yield Served(process, int(port[1]))
        finally:
            with suppress(ProcessLookupError):
                process.kill()


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume with a store in it, with links inside and out of it; beside it, what must not be seen."""
    place = tmp_path_factory.mktemp("serve")
    root = place / "data"
    (root / "s.zarr" / "c").mkdir(parents=True)
    (root / "s.zarr" / "zarr.json").write_bytes(b"{}")
    (root / "s.zarr" / "c" / "0").write_bytes(CONTENT)
    (root / "s.zarr" / "empty").write_bytes(b"")
    (root / "odd ü%2F?#&+.txt").write_bytes(b"odd")
    os.mkfifo(root / "pipe")
    (place / "data-beside").mkdir()
    for folder in (place, place / "data-beside"):
        (folder / "secret").write_bytes(SECRET)
    links = {
        "inside": "s.zarr",
        "inside-absolute": root / "s.zarr" / "zarr.json",
        "file-out": "../secret",
        "file-out-absolute": place / "secret",
        "folder-out": "..",
        "folder-beside": "../data-beside",
        "root-out": "/",
        "two-steps": "folder-out/secret",
        "dangling-out": "../nothing",
        "dangling": "nothing",
        "loop": "loop",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    return root


@pytest.fixture(scope="module")
def server(volume: Path) -> Iterator[Served]:
    with served(volume) as one:
        yield one


def test_a_file_is_read(server: Served) -> None:
    answer = server.ask("/files/s.zarr/c/0")
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.headers[MARK] == "1"
    assert server.ask("/files/s.zarr/empty").body == b""


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("0-0", 0, 1),
        ("10-19", 10, 20),
        ("10000-", 10000, 10240),
        ("-5", 10235, 10240),
        ("10239-99999999", 10239, 10240),
        ("-99999999", 0, 10240),
    ],
)
def test_a_part_of_a_file_is_read(server: Served, asked: str, start: int, stop: int) -> None:
    answer = server.ask("/files/s.zarr/c/0", Range=f"bytes={asked}")
    assert (answer.status, answer.body) == (206, CONTENT[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/10240"


@pytest.mark.parametrize("asked", ["bytes=10240-", "bytes=-0", "bytes=99999-100000"])
def test_a_part_that_is_not_there_is_refused(server: Served, asked: str) -> None:
    answer = server.ask("/files/s.zarr/c/0", Range=asked)
    assert answer.status == 416
    assert answer.headers["Content-Range"] == "bytes */10240"


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "bytes=5-1", "bytes=-", "lines=1-2", "bytes=a-b"])
def test_what_is_no_single_range_gives_the_whole(server: Served, asked: str) -> None:
    answer = server.ask("/files/s.zarr/c/0", Range=asked)
    assert (answer.status, answer.body) == (200, CONTENT)


def test_head_tells_the_size_alone(server: Served) -> None:
    answer = server.ask("/files/s.zarr/c/0", "HEAD")
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "10240", b"")
    assert server.ask("/files/nothing", "HEAD").status == 404


def test_an_entry_is_described(server: Served) -> None:
    entry = server.ask("/info/s.zarr/c/0").document
    assert (entry["name"], entry["type"], entry["size"]) == ("0", "file", 10240)
    assert abs(entry["modified"] - time.time()) < 3600
    assert server.ask("/info/s.zarr").document["type"] == "directory"
    assert server.ask("/info/").document["type"] == "directory"


def test_a_folder_is_listed_without_what_leads_out_of_it(server: Served) -> None:
    lines = [json.loads(line) for line in server.ask("/list/").body.splitlines()]
    assert {line["name"]: line["type"] for line in lines} == {
        "s.zarr": "directory",
        "inside": "directory",
        "inside-absolute": "file",
        "odd ü%2F?#&+.txt": "file",
    }


def test_a_large_folder_is_listed_in_pieces(tmp_path: Path) -> None:
    for number in range(700):
        (tmp_path / f"{number}").touch()
    with served(tmp_path) as server:
        answer = server.ask("/list")
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert {json.loads(line)["name"] for line in answer.body.splitlines()} == {str(number) for number in range(700)}


def test_odd_names_are_found(server: Served) -> None:
    assert server.ask("/files/odd%20%C3%BC%252F%3F%23%26+.txt").body == b"odd"


def test_links_inside_are_followed(server: Served) -> None:
    assert server.ask("/files/inside/c/0").body == CONTENT
    assert server.ask("/files/inside-absolute").body == b"{}"


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "s.zarr/../../secret",
        "%2e%2e/secret",
        "%2e%2e%2fsecret",
        "s.zarr/%2E./%2E%2E/secret",
        "..%2fdata-beside/secret",
        "%252e%252e/secret",
        "/etc/passwd",
        "//etc/passwd",
        "%2fetc%2fpasswd",
        "file-out",
        "file-out-absolute",
        "folder-out/secret",
        "folder-beside/secret",
        "root-out/etc/passwd",
        "inside/../../secret",
        "inside/../folder-out/secret",
        "two-steps",
        "secret%00",
        "..%5csecret",
    ],
)
@pytest.mark.parametrize("what", ["files", "list", "info"])
def test_nothing_outside_is_shown(server: Served, what: str, path: str) -> None:
    answer = server.ask(f"/{what}/{path}")
    assert answer.status in (400, 403, 404)
    assert answer.document["code"] in ("outside", "not-found")
    assert SECRET not in answer.body


def test_whether_something_outside_is_there_is_not_told(server: Served) -> None:
    there, nothing = server.ask("/files/file-out"), server.ask("/files/dangling-out")
    assert (there.status, there.body) == (nothing.status, nothing.body)


def test_an_address_without_a_slash_or_with_a_host_is_answered_alike(server: Served) -> None:
    for path in ("http://other/files/../../secret", "*", "/", "/other/x", "/files/%ff"):
        assert server.ask(path).status in (400, 404)


def test_what_cannot_be_read_is_refused(server: Served, volume: Path) -> None:
    assert server.ask("/files/nothing").document["code"] == "not-found"
    assert server.ask("/files/s.zarr/zarr.json/more").document["code"] == "not-found"
    assert server.ask(f"/files/{'x' * 300}").document["code"] == "not-found"
    assert server.ask("/files/s.zarr").document["code"] == "is-directory"
    assert server.ask("/list/s.zarr/zarr.json").document["code"] == "not-a-directory"
    assert server.ask("/files/pipe").document["code"] == "denied"  # and does not wait for a writer
    assert server.ask("/files/loop").status == 403
    assert server.ask("/files/dangling").status == 404


def test_a_link_made_while_it_is_read_does_not_lead_out(tmp_path: Path) -> None:
    """Someone who can write to the volume swaps a folder for a link again and again."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_bytes(SECRET)
    root = tmp_path / "data"
    (root / "real").mkdir(parents=True)
    (root / "real" / "file").write_bytes(b"inside")
    (root / "way").symlink_to("real")
    over = threading.Event()

    def swap() -> None:
        for number in iter(lambda: not over.is_set(), False):
            for target in ("../out", "real"):
                new = root / f"new{number}"
                new.symlink_to(target)
                new.rename(root / "way")

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        with served(root) as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
            answers = [ask(connection, "/files/way/file") for _ in range(500)]
            connection.close()
    finally:
        over.set()
        swapping.join()
    assert {answer.body for answer in answers if answer.status == 200} == {b"inside"}
    assert {answer.status for answer in answers} <= {200, 403, 404}


@pytest.mark.parametrize("token", [None, "", "wrong", DIGEST, "ü"])
def test_without_the_token_nothing_is_said(server: Served, token: str | None) -> None:
    before = server.stats()
    for path in ("/files/s.zarr/zarr.json", "/files/nothing", "/stats", "/list/"):
        answer = server.ask(path, token=token and token.encode().decode("latin-1"))
        assert (answer.status, answer.document["code"]) == (401, "unauthorised")
    assert server.stats()["requests"] == before["requests"] + 1, "and it does not count"


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "MKCOL", "INVENTED"])
def test_nothing_is_written(server: Served, volume: Path, method: str) -> None:
    answer = server.ask("/files/s.zarr/zarr.json", method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert (volume / "s.zarr" / "zarr.json").read_bytes() == b"{}"


def test_what_is_read_is_counted(server: Served) -> None:
    before = server.stats()
    server.ask("/files/s.zarr/c/0")
    server.ask("/files/s.zarr/c/0", Range="bytes=0-99")
    server.ask("/list/")
    asked = [before]

    def is_counted() -> bool:
        asked.append(server.stats())
        return asked[-1]["reads"] - before["reads"] == 2

    until(is_counted)
    after = asked[-1]
    assert after["bytes"] - before["bytes"] == len(CONTENT) + 100
    assert after["requests"] - before["requests"] == 3 + len(asked[1:])


def test_one_connection_serves_many_requests(server: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.connect()
    used = connection.sock
    for _ in range(20):
        assert ask(connection, "/files/s.zarr/c/0", Range="bytes=0-9").body == CONTENT[:10]
        assert ask(connection, "/files/nothing").status == 404
    assert connection.sock is used
    connection.close()


def test_many_read_at_once(server: Served) -> None:
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: server.ask("/files/s.zarr/c/0").body, range(128)))
    assert set(answers) == {CONTENT}


def test_a_big_file_takes_no_memory(tmp_path: Path) -> None:
    size = 512 << 20
    with (tmp_path / "big").open("wb") as file:
        file.truncate(size)
    with served(tmp_path) as server:
        memory = psutil.Process(server.process.pid).memory_info
        before = memory().rss
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        connection.request("GET", "/files/big", headers={TOKEN_HEADER: TOKEN})
        response = connection.getresponse()
        received, most = 0, 0
        while block := response.read(8 << 20):
            received += len(block)
            most = max(most, memory().rss)
        connection.close()
        assert received == size
        assert most - before < 8 << 20


class Hours:
    """The time of a server, and the event that would end it: where it waits, hours pass."""

    def __init__(self, meanwhile: Iterator[float]) -> None:
        self.now = 0.0
        self._meanwhile = meanwhile

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += next(self._meanwhile, seconds)
        return False


def serve_for(
    root: Path, hours: Callable[[int], Iterator[float]], monkeypatch: pytest.MonkeyPatch, idle: float = 1.0
) -> tuple[Counters, float]:
    """Serve a folder while hours pass as they are yielded; returns what was answered, and when it ended."""
    ports: list[int] = []
    clock = Hours(hour for port in ports for hour in hours(port))
    monkeypatch.setattr(serve, "time", clock)
    ending = cast(threading.Event, clock)
    options: dict[str, Any] = {"port": 0, "address": "127.0.0.1", "token_sha256": DIGEST}
    return serve.serve(root, idle=idle, ready=ports.append, ending=ending, **options), clock.now


def test_as_long_as_it_is_used_it_stays(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def used(port: int) -> Iterator[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        for _ in range(4):
            yield 0.75
            assert ask(connection, "/files/s.zarr/zarr.json").status == 200
        connection.close()

    counters, ended = serve_for(volume, used, monkeypatch)
    assert (counters.requests, counters.bytes) == (4, 8)
    assert ended >= 4 * 0.75 + 1


def test_it_ends_by_itself_when_nothing_is_asked(volume: Path) -> None:
    with served(volume, idle=0.5) as server:
        output, _ = server.process.communicate(timeout=300)
        assert server.process.returncode == 0
        assert output == "served 0 requests, 0 bytes of files; nothing was asked for 0.5 s\n"


def test_whoever_lacks_the_token_does_not_keep_it_alive(volume: Path) -> None:
    with served(volume, idle=0.5) as server:
        # It may end in the middle of an answer.
        with suppress(ConnectionError, TimeoutError, http.client.HTTPException):
            while server.process.poll() is None:
                server.ask("/stats", token="wrong")
        assert server.process.wait(60) == 0


def test_a_slow_reader_keeps_it_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(64 << 20)

    def read_slowly(port: int) -> Iterator[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("GET", "/files/big", headers={TOKEN_HEADER: TOKEN})
        response = connection.getresponse()
        for _ in range(3):
            yield 100.0
        assert len(response.read()) == 64 << 20
        connection.close()

    counters, ended = serve_for(tmp_path, read_slowly, monkeypatch)
    assert counters.bytes == 64 << 20
    assert ended > 300


def test_a_reader_that_goes_away_does_no_harm(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(64 << 20)
    with served(tmp_path, idle=30) as server:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port), timeout=300) as one:
                one.sendall(f"GET /files/big HTTP/1.1\r\nHost: x\r\n{TOKEN_HEADER}: {TOKEN}\r\n\r\n".encode())
                one.recv(1000)
        assert server.ask("/stats").status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once(volume: Path, number: signal.Signals) -> None:
    with served(volume) as server:
        assert server.ask("/files/s.zarr/zarr.json").status == 200
        until(lambda: server.stats()["bytes"] == 2)  # it counts what it has sent, so whoever has it may be earlier
        server.process.send_signal(number)
        output, _ = server.process.communicate(timeout=300)
        assert server.process.returncode == 0
        assert re.fullmatch(r"served \d+ requests, 2 bytes of files; a signal ended it\n", output)


def test_its_memory_is_small(server: Served) -> None:
    assert psutil.Process(server.process.pid).memory_info().rss < 40 << 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--token-sha256", DIGEST], "no such folder"),
        ([".", "--token-sha256", TOKEN], "64 hexadecimal digits"),
        ([".", "--token-sha256", DIGEST, "--idle", "0"], "end at once"),
        ([".", "--token-sha256", DIGEST, "--port", "99999"], "choose another port"),
        ([".", "--token-sha256", DIGEST, "--address", "192.0.2.77"], "cannot be listened to"),
    ],
)
def test_a_bad_value_is_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = subprocess.run([*RUNNER, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_token_is_required(tmp_path: Path) -> None:
    done = subprocess.run([*RUNNER, "."], capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 2
    assert "--token-sha256" in done.stderr
