"""Objects come as they are, each byte once, from servers that misbehave too."""

from __future__ import annotations

import random
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from tenacity import Future, RetryCallState, Retrying, wait_none

from benchmarks.server import Kind, ProductServer
from geozarr_runner.errors import ProductBroken, ProductDenied, ProductUnreachable
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.planning.estimate import needed
from geozarr_runner.staging.download import PIECE, download
from geozarr_runner.stores.access import filesystem, retries
from geozarr_runner.stores.store import Store
from runner.tests.support import RUNNER, contents, run, until

LARGE = 5 * PIECE + 12345


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one large object and some small ones."""
    root = tmp_path_factory.mktemp("objects")
    random = np.random.default_rng(1)
    (root / "large").write_bytes(random.bytes(LARGE))
    for number in range(20):
        (root / f"small{number}").write_bytes(random.bytes(1000 + number))
    return root


@pytest.fixture
def objects(folder: Path) -> Iterator[ProductServer]:
    with ProductServer(folder) as running:
        yield running


@pytest.fixture
def without_ranges(folder: Path) -> Iterator[str]:
    """The address of a server that sends whole objects only."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def fetch(url: str, target: Path, keys: list[str], sizes: dict[str, int | None] | None = None) -> tuple[int, int]:
    """Download `keys`; returns the bytes that came, and those that progress counted."""
    store = Store(url)
    counted = 0

    def progress(count: int) -> None:
        nonlocal counted
        counted += count

    sizes = store.sizes(keys) if sizes is None else sizes
    came = download(store, {key: target / key for key in keys}, sizes, progress)
    assert not list(target.glob("*.part"))
    return came, counted


def assert_equal(folder: Path, target: Path, keys: list[str]) -> None:
    for key in keys:
        assert (target / key).read_bytes() == (folder / key).read_bytes(), key


def test_a_large_object_comes_in_pieces_and_each_byte_once(
    objects: ProductServer, folder: Path, tmp_path: Path
) -> None:
    assert fetch(objects.url, tmp_path, ["large"]) == (LARGE, LARGE)
    assert_equal(folder, tmp_path, ["large"])
    seen = objects.counts.paths["/large"]
    assert (seen.requests["data"], seen.bytes) == (1 + 6, 1 + LARGE)  # the first byte, to see whether it sends parts


def test_many_objects_come_at_once(objects: ProductServer, folder: Path, tmp_path: Path) -> None:
    keys = [f"small{number}" for number in range(20)]
    sizes = Store(objects.url).sizes(keys)
    objects.hold("/small")
    with ThreadPoolExecutor(1) as pool:
        several = pool.submit(until, lambda: objects.counts.under_way > 4)
        several.add_done_callback(lambda _: objects.release())
        fetch(objects.url, tmp_path, keys, sizes)
        assert several.result()
    assert_equal(folder, tmp_path, keys)
    assert not objects.counts.repeated()


def test_a_server_without_ranges_sends_the_whole(without_ranges: str, folder: Path, tmp_path: Path) -> None:
    assert fetch(without_ranges, tmp_path, ["large"]) == (LARGE, LARGE)
    assert_equal(folder, tmp_path, ["large"])


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("key", ["large", "small3"])
def test_a_server_that_is_busy_for_a_while_is_asked_again(
    objects: ProductServer, folder: Path, tmp_path: Path, key: str, status: int
) -> None:
    sizes = Store(objects.url).sizes([key])
    objects.fail(f"/{key}", status, times=2)
    fetch(objects.url, tmp_path, [key], sizes)
    assert_equal(folder, tmp_path, [key])


@pytest.mark.parametrize("key", ["large", "small3"])
def test_what_breaks_off_is_fetched_again_and_counted_once(
    objects: ProductServer, folder: Path, tmp_path: Path, key: str
) -> None:
    size = (folder / key).stat().st_size
    objects.truncate(f"/{key}", 700)
    came, counted = fetch(objects.url, tmp_path, [key])
    assert came == counted == size
    assert_equal(folder, tmp_path, [key])


def test_what_is_there_already_is_not_fetched_again(objects: ProductServer, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "small1").write_bytes((folder / "small1").read_bytes())
    (tmp_path / "small2.part").write_bytes(b"half")
    came, counted = fetch(objects.url, tmp_path, ["small1", "small2"])
    assert (came, counted) == (1002, 1001 + 1002)
    assert objects.counts.paths["/small1"].requests.get("data", 0) == 0
    assert_equal(folder, tmp_path, ["small1", "small2"])


@pytest.mark.parametrize(("key", "size"), [("small1", 500), ("gone", 500)])
def test_an_object_that_changes_meanwhile_is_an_error_that_names_it(
    objects: ProductServer, tmp_path: Path, key: str, size: int
) -> None:
    with pytest.raises(ProductBroken) as caught:
        fetch(objects.url, tmp_path, [key], {key: size})
    assert key in str(caught.value.given)
    assert not list(tmp_path.iterdir())


def test_a_server_that_falls_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It promises a body, and no byte of it ever comes."""
    monkeypatch.setattr(filesystem, "SECONDS_WITHOUT_A_BYTE", 0.2)
    monkeypatch.setattr(retries, "_patience", wait_none())
    asked: list[str] = []

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.flush()
            over.wait()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    over = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            with pytest.raises(ProductUnreachable) as caught:
                fetch(f"http://127.0.0.1:{server.server_port}", tmp_path, ["chunk"], {"chunk": 1000})
            until(lambda: len(asked) == retries.ATTEMPTS)
        finally:
            over.set()
            server.shutdown()
            thread.join()
    assert caught.value.retryable
    assert asked == ["/chunk"] * retries.ATTEMPTS
    assert not list(tmp_path.iterdir())


type Trick = Callable[[BaseHTTPRequestHandler, bytes], None]


def resets(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    begin(handler, body)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()  # with a reset instead of an end


def stalls_half_way(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    begin(handler, body)
    assert handler.connection.recv(1) == b"", "it is given up"


def promises_more_than_it_sends(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    begin(handler, body)


def is_overloaded(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(503)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def asks_to_wait(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(429)
    handler.send_header("Retry-After", "1")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def begin(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Announce a body, and send half of it."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()


QUIET = 2.0  # the server has to answer within it, on a busy machine too


@contextmanager
def tricky(body: bytes, tricks: list[Trick]) -> Iterator[tuple[str, list[str]]]:
    """Serve one object, after some tricks; yields the address, and the paths that were asked for."""
    asked: list[str] = []
    left = iter(tricks)

    class Tricky(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if (trick := next(left, None)) is not None:
                trick(self, body)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Tricky) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("trick", "times"),
    [
        (resets, 2),
        (stalls_half_way, 1),
        (promises_more_than_it_sends, 2),
        (is_overloaded, retries.ATTEMPTS - 1),
        (asks_to_wait, 1),
    ],
)
def test_a_request_that_fails_is_no_failure_of_the_run(
    trick: Trick, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trick is stalls_half_way:
        monkeypatch.setattr(filesystem, "SECONDS_WITHOUT_A_BYTE", QUIET)
    body = bytes(range(256)) * 40
    start = time.monotonic()
    with tricky(body, [trick] * times) as (url, asked):
        assert fetch(url, tmp_path, ["chunk"], {"chunk": len(body)}) == (len(body), len(body))
    assert (tmp_path / "chunk").read_bytes() == body
    assert len(asked) == times + 1
    if trick is asks_to_wait:
        assert time.monotonic() - start >= 1


def test_a_slow_server_is_waited_for_as_long_as_bytes_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "SECONDS_WITHOUT_A_BYTE", QUIET)
    body = bytes(range(256)) * 40

    def drips(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        for start in range(0, len(body), 512):
            handler.wfile.write(body[start : start + 512])
            handler.wfile.flush()
            time.sleep(QUIET / 16)

    start = time.monotonic()
    with tricky(body, [drips]) as (url, asked):
        fetch(url, tmp_path, ["chunk"], {"chunk": len(body)})
    assert time.monotonic() - start > QUIET
    assert asked == ["/chunk"]
    assert (tmp_path / "chunk").read_bytes() == body


def test_a_redirect_is_followed(tmp_path: Path) -> None:
    def elsewhere(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/elsewhere/chunk")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with tricky(b"abc", [elsewhere]) as (url, asked):
        fetch(url, tmp_path, ["chunk"], {"chunk": 3})
    assert asked == ["/chunk", "/elsewhere/chunk"]
    assert (tmp_path / "chunk").read_bytes() == b"abc"


@pytest.mark.parametrize("status", [401, 403])
def test_after_a_token_has_expired_in_mid_run_the_next_one_goes_on(
    objects: ProductServer, folder: Path, tmp_path: Path, status: int
) -> None:
    keys = [f"small{number}" for number in range(20)]
    sizes = Store(objects.url).sizes(keys)
    objects.fail("/small19", status)
    with pytest.raises(ProductDenied) as caught:
        fetch(objects.url, tmp_path, keys, sizes)
    assert "small19" in str(caught.value.given)
    came = {path.name for path in tmp_path.iterdir()}
    assert came
    objects.reset()
    fetch(objects.url, tmp_path, keys, sizes)
    assert_equal(folder, tmp_path, keys)
    again = {path[1:] for path, seen in objects.counts.paths.items() if seen.requests.get(Kind.DATA, 0)}
    assert not again & came


def test_the_server_says_how_long_to_wait() -> None:
    class TooMany(Exception):
        headers = {"Retry-After": "7"}  # noqa: RUF012

    state = RetryCallState(Retrying(), None, (), {})
    state.outcome = Future.construct(1, TooMany(), has_exception=True)
    assert retries._patience(state) == 7
    TooMany.headers["Retry-After"] = "86400"
    assert retries._patience(state) == retries.LONGEST_PATIENCE
    TooMany.headers["Retry-After"] = "soon"
    assert 0 < retries._patience(state) < 7


def test_a_killed_run_goes_on_with_what_is_missing(s2: Path, products: Path, tmp_path: Path) -> None:
    """A whole product, killed with SIGKILL in the middle of staging."""
    output = tmp_path / "out.zarr"
    with ProductServer(products) as server:
        url = f"{server.url}/{s2.name}"
        server.hold("/", after=30)
        killed = subprocess.Popen([*RUNNER, "convert", url, str(output)], stdout=subprocess.DEVNULL)
        until(lambda: complete(tmp_path))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        server.release()
        whole = complete(tmp_path)
        done = run(url, output)
        requests = {path: seen.requests.get("data", 0) for path, seen in server.counts.paths.items()}
    assert done.result["bytes_read"] > 0
    assert whole
    assert all(requests[f"/{s2.name}/{key}"] <= 2 for key in whole)  # a little of each variable is compared
    keys = {f"/{s2.name}/{key}" for array in needed(open_product(s2), ()) for key in array.object_keys()}
    assert {path for path, count in requests.items() if count and not path.endswith(".zmetadata")} == {
        key for key in keys if (products / key[1:]).exists()
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr", "out.zarr.log.jsonl", "out.zarr.stac.json"]


def test_killed_twenty_times_it_ends_as_if_undisturbed(s2: Path, products: Path, tmp_path: Path) -> None:
    """Each time when some more objects were sent, and some of those are staged."""
    undisturbed = run(s2, tmp_path / "undisturbed.zarr")
    folder = tmp_path / "killed"
    folder.mkdir()
    output = folder / "out.zarr"
    moments = random.Random(2026)
    with ProductServer(products) as server:
        url = f"{server.url}/{s2.name}"
        for _ in range(20):
            whole = complete(folder)
            sent = moments.randrange(9)  # the first is the product's metadata
            staged = moments.randrange(max(sent, 1))
            server.hold("/", after=sent)
            killed = subprocess.Popen([*RUNNER, "convert", url, str(output)], stdout=subprocess.DEVNULL)
            until(lambda sent=sent: server.counts.data == sent and server.counts.under_way)
            until(lambda staged=staged, whole=whole: len(complete(folder) - whole) >= staged)
            killed.kill()
            killed.wait()
            until(lambda: not server.counts.under_way)
            assert not whole & fetched(server, s2.name)
            assert whole <= complete(folder)
            assert not output.exists()
            server.reset()
        server.release()
        whole = complete(folder)
        done = run(url, output)
        assert fetched(server, s2.name) - {".zmetadata"}, "something was still to come"
        again = sum(server.counts.paths[f"/{s2.name}/{key}"].bytes for key in whole & fetched(server, s2.name))
    there = sum((products / s2.name / key).stat().st_size for key in whole)
    assert again <= (there + done.result["bytes_read"]) // 100, "a little of each variable is compared"
    assert done.result["bytes_written"] > 0
    assert contents(output) == contents(undisturbed.output)
    assert sorted(path.name for path in folder.iterdir()) == ["out.zarr", "out.zarr.log.jsonl", "out.zarr.stac.json"]


def fetched(server: ProductServer, name: str) -> set[str]:
    """Return the keys of the objects whose data a server was asked for."""
    return {
        path.removeprefix(f"/{name}/") for path, seen in server.counts.paths.items() if seen.requests.get(Kind.DATA, 0)
    }


def complete(folder: Path) -> set[str]:
    """Return the keys of the objects that a run has staged."""
    staged = next(folder.glob(".out.zarr.partial/input-*.zarr"), None)
    files = [] if staged is None else [path.relative_to(staged) for path in staged.rglob("*") if path.is_file()]
    return {str(path) for path in files if not path.name.startswith(".z") and path.suffix != ".part"}
