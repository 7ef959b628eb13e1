"""A folder served over HTTP/1.1 as a distant object store would be: late, slowly, and with every request counted.

In a test or a benchmark::

    with ProductServer(root, latency=0.03, bandwidth=25e6) as server:
        read(f"{server.url}/product.zarr/.zmetadata")
        assert server.counts.data == 1

In a process of its own, so that server and client do not share an interpreter::

    python benchmarks/server.py ROOT --latency 0.03 --bandwidth 25e6

which prints its URL, answers ``GET /-/counts`` with the counters as JSON and sets them to zero on ``POST /-/reset``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import enum
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl

from aiohttp import web

HOST = "127.0.0.1"
CONTROL = "/-/"  # below this path the server talks about itself: uncounted, undelayed, open to all
BLOCK = 1 << 18  # bytes read and written at once, and so what one response holds in memory
PACED_BLOCK = 1 << 16  # the same under a bandwidth limit, so that a body flows instead of arriving in gulps
HOLD_CHECK = 0.02  # seconds between two looks whether a held answer may go
BURST = 0.05  # seconds of bandwidth that may be caught up after a late wake-up
SHUTDOWN = 0.1  # seconds that answers under way get when the server stops


class Kind(enum.StrEnum):
    """What became of a request; every request has exactly one kind."""

    DATA = "data"  # 200 or 206 with an object's bytes
    HEAD = "head"  # any HEAD that was neither denied nor failed on purpose
    MISS = "miss"  # 404
    DENIED = "denied"  # 401 or 403
    FAULT = "fault"  # a status asked for with `fail`
    OTHER = "other"  # 405 or 416


@dataclass
class PathCounts:
    """What one path was asked for.

    Attributes
    ----------
    requests
        Number of requests by kind.
    bytes
        Body bytes sent.
    """

    requests: dict[Kind, int] = field(default_factory=dict)
    bytes: int = 0


@dataclass
class Counts:
    """Everything asked for since the start or the last reset.

    Attributes
    ----------
    requests
        Number of requests, of every kind.
    bytes
        Body bytes sent, of every kind.
    data, head, miss, denied, fault, other
        Number of requests of one kind (see `Kind`); together they are `requests`.
    peak
        Most requests under way at one moment.
    under_way
        Requests that wait for their answer, or get it, at this moment; a reset leaves them.
    paths
        The same by path, decoded and without the query.
    """

    requests: int = 0
    bytes: int = 0
    data: int = 0
    head: int = 0
    miss: int = 0
    denied: int = 0
    fault: int = 0
    other: int = 0
    peak: int = 0
    under_way: int = 0
    paths: dict[str, PathCounts] = field(default_factory=dict)

    def repeated(self) -> dict[str, int]:
        """Paths whose data was asked for more than once, with the number of times."""
        times = {path: counts.requests.get(Kind.DATA, 0) for path, counts in self.paths.items()}
        return {path: number for path, number in times.items() if number > 1}


class Ledger:
    """The counters: written by the server's thread, read from any other.

    Everything is entered before it is sent, so that a client that has its answer finds it counted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Count one request as being answered for as long as the block lasts."""
        with self._lock:
            self._counts.under_way += 1
            self._counts.peak = max(self._counts.peak, self._counts.under_way)
        try:
            yield
        finally:
            with self._lock:
                self._counts.under_way -= 1

    def enter(self, path: str, kind: Kind) -> None:
        """Count one request."""
        with self._lock:
            self._counts.requests += 1
            setattr(self._counts, kind.value, getattr(self._counts, kind.value) + 1)
            requests = self._counts.paths.setdefault(path, PathCounts()).requests
            requests[kind] = requests.get(kind, 0) + 1

    def sent(self, path: str, size: int) -> None:
        """Count `size` bytes of a body."""
        with self._lock:
            self._counts.bytes += size
            self._counts.paths.setdefault(path, PathCounts()).bytes += size

    def snapshot(self) -> Counts:
        """Return a copy that later requests do not change."""
        with self._lock:
            return copy.deepcopy(self._counts)

    def reset(self) -> None:
        """Set every counter to zero, except for what is under way."""
        with self._lock:
            under_way = self._counts.under_way
            self._counts = Counts(peak=under_way, under_way=under_way)


class Faults:
    """What is to go wrong, by path, and how many more times."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses: dict[str, list[int]] = {}
        self._lengths: dict[str, list[int]] = {}
        self._held: dict[str, int] = {}  # prefixes, and how many objects still go before their answers are kept back

    def hold(self, prefix: str, after: int) -> None:
        """Keep back every answer to a path that begins with `prefix`, when `after` objects of it have gone."""
        with self._lock:
            self._held[prefix] = after

    def release(self) -> None:
        """Let all answers go."""
        with self._lock:
            self._held = {}

    def holds(self, path: str) -> bool:
        """Whether the answer to `path` is kept back now."""
        with self._lock:
            return any(path.startswith(prefix) and left <= 0 for prefix, left in self._held.items())

    def goes(self, path: str) -> None:
        """Note that the object at `path` is sent now."""
        with self._lock:
            self._held = {prefix: left - path.startswith(prefix) for prefix, left in self._held.items()}

    def fail(self, path: str, status: int, times: int) -> None:
        """Answer the next `times` requests of `path` with `status`."""
        with self._lock:
            self._statuses.setdefault(path, []).extend([status] * times)

    def truncate(self, path: str, length: int, times: int) -> None:
        """End the next `times` bodies of `path` after `length` bytes."""
        with self._lock:
            self._lengths.setdefault(path, []).extend([length] * times)

    def status(self, path: str) -> int | None:
        """Take the status that this request of `path` is to fail with, if any."""
        return self._take(self._statuses, path)

    def length(self, path: str) -> int | None:
        """Take the length that this body of `path` is to break off at, if any."""
        return self._take(self._lengths, path)

    def _take(self, queues: dict[str, list[int]], path: str) -> int | None:
        with self._lock:
            queue = queues.get(path)
            return queue.pop(0) if queue else None


class TokenBucket:
    """Bandwidth of one connection, in bytes a second; it starts empty.

    HTTP/1.1 sends one answer at a time on a connection, so a bucket for each answer limits each connection.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = 0.0
        self._filled = asyncio.get_running_loop().time()

    async def take(self, size: int) -> None:
        """Wait until `size` bytes may be sent."""
        self._fill()
        while self._tokens < size:
            await asyncio.sleep((size - self._tokens) / self._rate)
            self._fill()
        self._tokens -= size

    def _fill(self) -> None:
        now = asyncio.get_running_loop().time()
        # The cap keeps a client that pauses from saving up; a block must always fit.
        capacity = max(self._rate * BURST, 2 * PACED_BLOCK)
        self._tokens = min(self._tokens + (now - self._filled) * self._rate, capacity)
        self._filled = now


def byte_range(header: str | None, size: int) -> range | None:
    """Return the positions that a ``Range`` header asks for in an object of `size` bytes.

    Returns
    -------
    range or None
        Empty if the object has none of them (416). None if the whole object is to be sent: without a header, with
        one that is not valid, and with several ranges, which a server may ignore.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").replace(" ", ""))
    if match is None:
        return None
    first, last = match.groups()
    if first:
        backwards = bool(last) and int(last) < int(first)
        return None if backwards else range(int(first), min(int(last) + 1, size) if last else size)
    return range(max(size - int(last), 0), size) if last else None


@dataclass(frozen=True)
class Site:
    """How a folder is served; `ProductServer` describes the settings.

    Everything here runs in the server's own event loop. Files are read in it too: a block from the page cache costs
    less than a hop to a thread, and what is served lies on a local disk.
    """

    root: Path
    latency: float
    bandwidth: float | None
    token: str | None
    signature: str | None
    ledger: Ledger
    faults: Faults

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request of any path and method."""
        if request.path.startswith(CONTROL):
            return self._control(request)
        with self.ledger.under_way():
            await asyncio.sleep(self.latency)
            while self.faults.holds(request.path):
                if request.transport is None:  # nobody waits for it any more
                    return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE)
                await asyncio.sleep(HOLD_CHECK)
            return await self._answer(request)

    def _control(self, request: web.Request) -> web.Response:
        match request.method, request.path.removeprefix(CONTROL):
            case "GET", "counts":
                return web.json_response(asdict(self.ledger.snapshot()))
            case "POST", "reset":
                self.ledger.reset()
                return web.Response(status=HTTPStatus.NO_CONTENT)
            case _:
                return web.Response(status=HTTPStatus.NOT_FOUND, text=f"GET {CONTROL}counts or POST {CONTROL}reset\n")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self._refusal(request)) is not None:
            return self._short(request, Kind.DENIED, refusal, headers={"WWW-Authenticate": "Bearer"})
        if (status := self.faults.status(request.path)) is not None:
            return self._short(request, Kind.FAULT, status)
        if request.method not in {"GET", "HEAD"}:
            headers = {"Allow": "GET, HEAD"}
            return self._short(request, Kind.OTHER, HTTPStatus.METHOD_NOT_ALLOWED, headers=headers)
        target = self._locate(request.path)
        if target is not None and target.is_file():
            return await self._object(request, target)
        return self._short(request, Kind.MISS, HTTPStatus.NOT_FOUND)

    def _refusal(self, request: web.Request) -> HTTPStatus | None:
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return HTTPStatus.UNAUTHORIZED
        if self.signature is not None and not set(parse_qsl(self.signature)) <= set(request.query.items()):
            return HTTPStatus.FORBIDDEN
        return None

    def _locate(self, path: str) -> Path | None:
        # Lexical on purpose: links that lead out of the folder are served, only the path must not climb out.
        parts = path.strip("/").split("/")
        return None if ".." in parts or "\0" in path else self.root.joinpath(*parts)

    def _short(
        self, request: web.Request, kind: Kind, status: int, *, headers: dict[str, str] | None = None
    ) -> web.Response:
        """Answer with no more than the status in words."""
        if request.method == "HEAD" and kind is Kind.MISS:
            kind = Kind.HEAD
        text = f"{status}\n"
        self.ledger.enter(request.path, kind)
        if request.method != "HEAD":
            self.ledger.sent(request.path, len(text))
        return web.Response(status=status, text=text, headers=headers)

    async def _object(self, request: web.Request, file: Path) -> web.StreamResponse:
        facts = file.stat()
        size = facts.st_size
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "ETag": f'"{facts.st_mtime_ns:x}-{size:x}"',
            "Last-Modified": formatdate(facts.st_mtime, usegmt=True),
        }
        if request.method == "HEAD":
            self.ledger.enter(request.path, Kind.HEAD)
            response = web.StreamResponse(headers=headers)
            response.content_length = size
            await response.prepare(request)
            return response
        span = byte_range(request.headers.get("Range"), size)
        if span is not None and not span:
            headers = {"Content-Range": f"bytes */{size}"}
            return self._short(request, Kind.OTHER, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
        status = HTTPStatus.OK
        if span is not None:
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
        self.ledger.enter(request.path, Kind.DATA)
        self.faults.goes(request.path)
        response = web.StreamResponse(status=status, headers=headers)
        with contextlib.suppress(ConnectionError):  # a client may leave whenever it likes
            await self._stream(request, response, file, span if span is not None else range(size))
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse, file: Path, span: range) -> None:
        response.content_length = len(span)
        await response.prepare(request)
        length = self.faults.length(request.path)
        left = len(span) if length is None else min(length, len(span))
        bucket = TokenBucket(self.bandwidth) if self.bandwidth else None
        size = PACED_BLOCK if bucket else BLOCK
        with file.open("rb", buffering=0) as source:
            source.seek(span.start)
            while left and (block := source.read(min(size, left))):
                if bucket:
                    await bucket.take(len(block))
                self.ledger.sent(request.path, len(block))
                await response.write(block)
                left -= len(block)
        if (left or length is not None) and request.transport is not None:
            request.transport.close()  # fewer bytes than announced: only the end of the connection says so


class ProductServer:
    """Serves a folder from a thread of its own, from `start` to `stop` or for the length of a ``with`` block.

    Parameters
    ----------
    root
        The folder. Links in it are followed.
    latency
        Seconds before each answer begins.
    bandwidth
        Bytes a second on each connection; None for no limit.
    token
        Bearer token without which every request gets 401.
    signature
        Query, such as ``"sig=s3cret"``, without which every request gets 403. It may be part of a longer one.
    host
        Address to listen on; by default nobody but this machine gets an answer.

    Attributes
    ----------
    url : str
        Where the folder is, without a slash at the end. Set by `start`.

    Raises
    ------
    NotADirectoryError
        There is no folder at `root`.
    ValueError
        `latency` is negative, or `bandwidth` is not more than zero.
    OSError
        From `start`: this machine has no address `host`.
    """

    def __init__(
        self,
        root: str | PathLike[str],
        *,
        latency: float = 0.0,
        bandwidth: float | None = None,
        token: str | None = None,
        signature: str | None = None,
        host: str = HOST,
    ) -> None:
        folder = Path(root).absolute()
        if not folder.is_dir():
            raise NotADirectoryError(f"Cannot serve {folder}: there is no such folder. Give one that exists.")
        if latency < 0:
            raise ValueError(f"latency={latency} is negative. Give seconds, such as 0.03.")
        if bandwidth is not None and bandwidth <= 0:
            raise ValueError(f"bandwidth={bandwidth} lets nothing pass. Give bytes a second, such as 25e6, or None.")
        self.url = ""
        self._host = host
        self._ledger = Ledger()
        self._faults = Faults()
        self._site = Site(folder, latency, bandwidth, token, signature, self._ledger, self._faults)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def counts(self) -> Counts:
        """The counters as they are now; later requests do not change what was returned."""
        return self._ledger.snapshot()

    def reset(self) -> None:
        """Set every counter to zero."""
        self._ledger.reset()

    def fail(self, path: str, status: int, times: int = 1) -> None:
        """Answer the next `times` requests of `path` (such as ``"/a/b"``) with `status`; repeated calls queue up."""
        self._faults.fail(path, status, times)

    def truncate(self, path: str, length: int, times: int = 1) -> None:
        """Break the connection after `length` bytes of the next `times` bodies of `path`."""
        self._faults.truncate(path, length, times)

    def hold(self, prefix: str, *, after: int = 0) -> None:
        """Keep back every answer to a path that begins with `prefix` (such as ``"/a/"``) until `release`.

        With `after`, that many objects below it are sent first, counted from now. So a test can have something happen
        between two objects, whatever the machine's pace.
        """
        self._faults.hold(prefix, after)

    def release(self) -> None:
        """Let the answers go that `hold` keeps back, and hold none any more."""
        self._faults.release()

    def start(self) -> Self:
        """Start to serve; the server answers when this returns."""
        if self._thread is not None:
            raise RuntimeError(f"The server at {self.url} runs already. Call stop() first.")
        started: Future[str] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="product-server", daemon=True)
        self._thread.start()
        try:
            self.url = started.result()
        except OSError:
            self._join()
            raise
        return self

    def stop(self) -> None:
        """Close every connection and wait for the thread to end. Does nothing on a server that does not run."""
        if self._loop is not None and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._thread = self._loop = self._stopping = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, started: Future[str]) -> None:
        try:
            asyncio.run(self._serve(started))
        except OSError as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, started: Future[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._site.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, 0).start()
            host, port = runner.addresses[0][:2]
            started.set_result(f"http://{host}:{port}")
            await self._stopping.wait()
        finally:
            await runner.cleanup()


def main(argv: list[str] | None = None) -> int:
    """Serve a folder until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="Serve a folder with latency, limited bandwidth and counters.")
    parser.add_argument("root", help="the folder")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds before each answer")
    parser.add_argument("--bandwidth", type=float, metavar="B", help="bytes a second on each connection")
    options = parser.parse_args(argv)
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before the thread starts, so that only sigwait gets them
    try:
        with ProductServer(options.root, latency=options.latency, bandwidth=options.bandwidth) as server:
            print(server.url, flush=True)
            signal.sigwait(ends)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
