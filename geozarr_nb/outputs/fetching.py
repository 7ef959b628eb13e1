"""Fetching files: which there are, how large they are, and their bytes, block by block."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from geozarr_nb.errors import DownloadBroken
from geozarr_runner.stores.access.concurrency import in_bounds
from geozarr_runner.stores.store import Store
from geozarr_runner.text.printable import printable
from geozarr_runner.trust import folders
from geozarr_runner.trust.addresses import redact
from geozarr_runner.trust.keys import refuse
from geozarr_runner.trust.tree import FolderTree

# Files at once, of a folder; and of one file as many blocks as are on their way at once.
WORKERS = 16
BLOCK = 8 << 20
BLOCKS_AHEAD = 4
ROOT = "zarr.json"
AGAIN = "fetch it again"
Told = Callable[[int], None]


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """Give threads that wait for answers; what has not begun is left when the block is left by an error."""
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="geozarr-download")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def append(path: Path, size: int, blocks: Callable[[int, int], Iterator[bytes]], told: Told) -> None:
    """Bring a file to its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(folders.append(path), "ab") as file:
        if file.tell() > size:
            file.truncate(0)
        for block in blocks(file.tell(), size):
            file.write(block)
            told(len(block))


def blocks_of(store: Store, key: str, start: int, stop: int) -> Iterator[bytes]:
    """Yield the bytes of a file from `start` to before `stop`."""
    for at in range(start, stop, BLOCK):
        yield _read(store, key, at, min(at + BLOCK, stop))


def blocks_ahead(pool: ThreadPoolExecutor, store: Store, start: int, stop: int) -> Iterator[bytes]:
    """Yield the same of a store that is one file; the next blocks are on their way meanwhile."""
    starts = iter(range(start, stop, BLOCK))

    def ask(count: int) -> Iterator[Future[bytes]]:
        return (pool.submit(_read, store, "", at, min(at + BLOCK, stop)) for at in islice(starts, count))

    waiting = deque(ask(BLOCKS_AHEAD))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(ask(1))


def _read(store: Store, key: str, start: int, stop: int) -> bytes:
    """Return a part of a file."""
    if store.local is None:
        ask = partial(store.filesystem._cat_file, store.path(key), start=start, end=stop)
        content = store.run(store.retried(ask, key))
    else:
        try:
            with os.fdopen(store.tree.open(key), "rb") as file:
                file.seek(start)
                content = file.read(stop - start)
        except OSError as error:
            place = store.local / key
            raise DownloadBroken(f"it cannot be read: {error.strerror}", given=place, remedy=AGAIN) from error
    if len(content) != stop - start:
        given = redact(f"{store.url}/{key}" if key else store.url)
        raise DownloadBroken("it became shorter while it was fetched", given=given, remedy=AGAIN)
    return bytes(content)


def size_and_time(store: Store) -> tuple[int, float] | None:
    """Return the size of a store that is one file, and when it was written; None where there is none."""
    if store.local is not None:
        size = store.tree.size("")
        return None if size is None else (size, store.local.stat().st_mtime)

    async def info() -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] = await store.filesystem._info(store.path(""))
        except FileNotFoundError:
            return None
        return found

    found = store.run(store.retried(info, ""))
    if found is None or found["type"] != "file":
        return None
    return int(found["size"]), float(found.get("mtime") or math.inf)


def listing(store: Store) -> dict[str, int]:
    """Return the size of every file below a store's root, by its path there."""
    if store.local is not None:
        return dict(FolderTree(store.local, DownloadBroken).files())

    async def below(folder: str) -> list[Mapping[str, Any]]:
        async def entries() -> list[Mapping[str, Any]]:
            return list(await store.filesystem._ls(folder, detail=True))

        return await store.retried(entries, "")

    base = store.path("").rstrip("/")
    sizes: dict[str, int] = {}
    waiting = [base]
    while waiting:
        asked, waiting = waiting, []
        entries = [entry for part in store.run(in_bounds([partial(below, each) for each in asked])) for entry in part]
        # Some object stores have an object for a folder itself.
        for entry in entries:
            name = str(entry["name"])
            if name.rstrip("/") in asked:
                continue
            # What does not begin so is nothing of this output, and no path here.
            key = name.removeprefix(f"{base}/") if name.startswith(f"{base}/") else f"/{name}"
            if entry["type"] == "directory":
                key = key.rstrip("/")
                waiting.append(f"{base}/{key}")
            else:
                sizes[key] = _size_in(entry, key)
            refuse(key)  # before anything below it is asked for
    return sizes


def _size_in(entry: Mapping[str, Any], key: str) -> int:
    size = entry.get("size")
    if not isinstance(size, int) or size < 0:
        raise DownloadBroken("the store does not say how large a file is", given=printable(key)[:200], remedy=AGAIN)
    return size
