"""The product server behaves as an HTTP server does, and counts what it did."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from benchmarks import server as server_module
from benchmarks.server import Kind, PathCounts, ProductServer, TokenBucket, byte_range

BODY = bytes(range(256)) * 4096  # 1 MiB, more than one block


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "a").mkdir()
    (folder / "a" / "0.0").write_bytes(BODY)
    (folder / "a" / "with space & more").write_bytes(b"spaced")
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture
def server(root: Path) -> Iterator[ProductServer]:
    with ProductServer(root) as running:
        yield running


class Client:
    """One connection, kept open, so that a test sees what keep-alive does."""

    def __init__(self, server: ProductServer, opened: ExitStack) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
        opened.callback(self.connection.close)

    def __call__(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
        self.connection.request(
            method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = self.connection.getresponse()
        return response.status, response.read(), response.headers


type Connect = Callable[[ProductServer], Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as opened:
        yield lambda server: Client(server, opened)


@pytest.fixture
def client(server: ProductServer, connect: Connect) -> Client:
    return connect(server)


def test_whole_object(server: ProductServer, client: Client) -> None:
    status, body, headers = client("/a/0.0")
    assert (status, body) == (200, BODY)
    assert headers["Content-Length"] == str(len(BODY))
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["ETag"]
    assert headers["Last-Modified"]


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=700000-", 700000, len(BODY)),
        ("bytes=-5", len(BODY) - 5, len(BODY)),
        ("bytes=5-99999999", 5, len(BODY)),
    ],
)
def test_part_of_an_object(server: ProductServer, client: Client, asked: str, start: int, stop: int) -> None:
    status, body, headers = client("/a/0.0", Range=asked)
    assert (status, body) == (206, BODY[start:stop])
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(BODY)}"
    assert server.counts.data == 1
    assert server.counts.bytes == stop - start


def test_range_beyond_the_end(server: ProductServer, client: Client) -> None:
    status, _, headers = client("/a/0.0", Range=f"bytes={len(BODY)}-")
    assert status == 416
    assert headers["Content-Range"] == f"bytes */{len(BODY)}"
    assert (server.counts.data, server.counts.other) == (0, 1)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=5-4", None),
        ("bytes=0-1,4-5", None),
        ("items=0-1", None),
        ("bytes=0-", range(10)),
        ("bytes=-20", range(10)),
        ("bytes=-0", range(10, 10)),
        ("bytes=9-9", range(9, 10)),
    ],
)
def test_byte_range(header: str | None, expected: range | None) -> None:
    assert byte_range(header, 10) == expected


def test_byte_range_of_nothing() -> None:
    assert byte_range("bytes=0-", 0) == range(0)


def test_empty_object(client: Client) -> None:
    assert client("/empty")[:2] == (200, b"")


def test_head_has_the_length_and_no_body(server: ProductServer, client: Client) -> None:
    status, body, headers = client("/a/0.0", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(BODY)))
    assert client("/nothing", "HEAD")[:2] == (404, b"")
    counts = server.counts
    assert (counts.head, counts.data, counts.miss, counts.bytes) == (2, 0, 0, 0)


@pytest.mark.parametrize(
    "path", ["/nothing", "/a", "/a/", "/", "/a/0.0/deeper", "/%00", "/../secret", "/a/..%2f..%2fsecret"]
)
def test_missing(root: Path, server: ProductServer, client: Client, path: str) -> None:
    (root.parent / "secret").write_bytes(b"beside the folder, not in it")
    assert client(path)[0] == 404
    assert (server.counts.miss, server.counts.data) == (1, 0)


def test_links_out_of_the_folder_are_followed(tmp_path: Path, connect: Connect) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"linked")
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "link").symlink_to(elsewhere)
    with ProductServer(tmp_path / "served") as server:
        assert connect(server)("/link")[:2] == (200, b"linked")


def test_other_methods(server: ProductServer, client: Client) -> None:
    status, _, headers = client("/a/0.0", "PUT")
    assert (status, headers["Allow"], server.counts.other) == (405, "GET, HEAD", 1)


def test_counts_by_path(server: ProductServer, client: Client) -> None:
    client("/a/0.0")
    client("/a/0.0?sig=1", Range="bytes=0-9")
    client("/a/with%20space%20%26%20more")
    client("/nothing")
    counts = server.counts
    assert (counts.requests, counts.data, counts.miss) == (4, 3, 1)
    assert counts.paths["/a/0.0"] == PathCounts({Kind.DATA: 2}, len(BODY) + 10)
    assert counts.paths["/a/with space & more"] == PathCounts({Kind.DATA: 1}, 6)
    assert counts.paths["/nothing"].requests == {Kind.MISS: 1}
    assert counts.repeated() == {"/a/0.0": 2}
    assert counts.bytes == sum(path.bytes for path in counts.paths.values())


def test_reset_and_snapshot(server: ProductServer, client: Client) -> None:
    client("/a/0.0")
    before = server.counts
    server.reset()
    assert before.data == 1
    assert server.counts.requests == 0
    assert not server.counts.paths


def test_connection_is_kept(client: Client) -> None:
    client("/a/0.0")
    socket = client.connection.sock
    client("/nothing")
    client("/a/0.0", "HEAD")
    client("/a/0.0")
    assert client.connection.sock is socket


def test_latency(root: Path, connect: Connect) -> None:
    with ProductServer(root, latency=0.05) as server:
        client = connect(server)
        start = time.perf_counter()
        client("/empty")
        client("/nothing")
        assert time.perf_counter() - start >= 0.1


def test_latency_of_requests_at_once_is_shared(root: Path, connect: Connect) -> None:
    """Several wait at once: a server that slept would let one in after the other."""
    with ProductServer(root, latency=1) as server, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: connect(server)("/empty"), range(8)))
        assert server.counts.peak > 1


def test_bandwidth_of_a_connection(root: Path, connect: Connect) -> None:
    rate = 5e6
    with ProductServer(root, bandwidth=rate) as server:
        client = connect(server)
        client("/empty")
        start = time.perf_counter()
        client("/a/0.0")
        client("/a/0.0")
        seconds = time.perf_counter() - start
    assert seconds >= 0.98 * 2 * len(BODY) / rate  # slower by what a busy machine adds, never faster


def test_each_answer_has_a_bandwidth_of_its_own(root: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    buckets: list[TokenBucket] = []

    class Noted(TokenBucket):
        def __init__(self, rate: float) -> None:
            super().__init__(rate)
            buckets.append(self)

    monkeypatch.setattr(server_module, "TokenBucket", Noted)
    with ProductServer(root, bandwidth=5e7) as server, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: connect(server)("/a/0.0"), range(4)))
    assert len(buckets) == 4


class Hour:
    """The loop of a bucket: where it sleeps, time passes."""

    now = 0.0

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("late", [0.0, 0.01], ids=["on time", "woken late"])
def test_a_bucket_gives_what_its_rate_says(late: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rate, block = 5e6, 50_000
    clock = Hour()

    async def sleep(seconds: float) -> None:
        await clock.sleep(max(seconds, 1e-6) + late)  # no clock is finer

    monkeypatch.setattr(server_module, "asyncio", SimpleNamespace(get_running_loop=lambda: clock, sleep=sleep))
    buckets = [TokenBucket(rate) for _ in range(2)]  # of two connections: neither takes anything from the other
    for _ in range(100):
        for bucket in buckets:
            asyncio.run(bucket.take(block))
    assert 100 * block / rate <= clock.now <= 1.01 * 100 * block / rate + 2 * late


def test_token(root: Path, connect: Connect) -> None:
    with ProductServer(root, token="t0ken") as server:
        client = connect(server)
        status, _, headers = client("/a/0.0")
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert client("/a/0.0", Authorization="Bearer other")[0] == 401
        assert client("/a/0.0", Authorization="Bearer t0ken")[0] == 200
        assert (server.counts.denied, server.counts.data) == (2, 1)


def test_signature(root: Path, connect: Connect) -> None:
    with ProductServer(root, signature="sig=s3cret&v=1") as server:
        client = connect(server)
        assert client("/a/0.0")[0] == 403
        assert client("/a/0.0?sig=s3cret")[0] == 403
        assert client("/a/0.0?v=1&more=2&sig=s3cret")[0] == 200
        assert (server.counts.denied, server.counts.data) == (2, 1)


def test_fail_then_recover(server: ProductServer, client: Client) -> None:
    server.fail("/a/0.0", 503, times=2)
    assert client("/empty")[0] == 200
    assert [client("/a/0.0")[0] for _ in range(3)] == [503, 503, 200]
    assert (server.counts.fault, server.counts.data) == (2, 2)


def test_truncated_body(server: ProductServer, connect: Connect) -> None:
    server.truncate("/a/0.0", 300_000)
    with pytest.raises(http.client.IncompleteRead) as broken:
        connect(server)("/a/0.0")
    assert broken.value.partial == BODY[:300_000]
    assert server.counts.bytes == 300_000
    assert connect(server)("/a/0.0")[1] == BODY


def test_client_that_leaves(root: Path, caplog: pytest.LogCaptureFixture, connect: Connect) -> None:
    with ProductServer(root, bandwidth=2e5) as server:
        client = connect(server)
        client.connection.request("GET", "/a/0.0")
        client.connection.getresponse().read(1000)
        client.connection.close()
        assert connect(server)("/empty")[0] == 200
    assert not caplog.records


@pytest.mark.parametrize("after", [0, 2])
def test_answers_are_held_until_they_are_released(
    root: Path, server: ProductServer, connect: Connect, after: int
) -> None:
    server.hold("/a/", after=after)
    with ThreadPoolExecutor(1) as pool:
        client = connect(server)
        for _ in range(after):
            assert client("/a/0.0", "HEAD")[0] == client("/a/0.0")[0] == 200, "objects are counted"
        held = pool.submit(client, "/a/0.0", "HEAD")
        assert connect(server)("/empty")[0] == 200, "others are answered"
        assert not held.done()
        while not server.counts.under_way:
            assert not held.done()
        server.release()
        assert held.result()[0] == 200
    while server.counts.under_way:  # until the server has seen that its answer is sent
        pass


def test_stop_in_the_middle_of_an_answer(root: Path, connect: Connect) -> None:
    with ProductServer(root, bandwidth=1) as server:
        client = connect(server)
        client.connection.request("GET", "/a/0.0")
        client.connection.getresponse()
    assert server.counts.bytes < len(BODY), "what is left is not waited for"


def test_may_start_again(root: Path, connect: Connect) -> None:
    server = ProductServer(root)
    for _ in range(2):
        with server:
            assert connect(server)("/empty")[0] == 200
            with pytest.raises(RuntimeError, match="runs already"):
                server.start()
    server.stop()


def test_bad_settings(root: Path, tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="nowhere"):
        ProductServer(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="latency=-1"):
        ProductServer(root, latency=-1)
    with pytest.raises(ValueError, match="bandwidth=0"):
        ProductServer(root, bandwidth=0)
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        ProductServer(root, host="192.0.2.1").start()  # an address for documentation: no machine has it


def test_from_a_shell(root: Path, connect: Connect) -> None:
    script = Path(server_module.__file__)
    command = [sys.executable, script, root, "--latency", "0.001", "--bandwidth", "25e6"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        server = ProductServer(root)
        server.url = process.stdout.readline().strip()
        client = connect(server)
        assert client("/a/0.0")[1] == BODY
        assert client("/nothing")[0] == 404
        counts = json.loads(client("/-/counts")[1])
        assert (counts["requests"], counts["data"], counts["miss"]) == (2, 1, 1)
        assert counts["paths"]["/a/0.0"] == {"requests": {"data": 1}, "bytes": len(BODY)}
        assert client("/-/reset", "POST")[0] == 204
        assert json.loads(client("/-/counts")[1])["requests"] == 0
        assert client("/-/other")[0] == 404
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def test_shell_says_what_is_wrong(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, Path(server_module.__file__), tmp_path / "nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "there is no such folder" in done.stderr
