"""Copies objects of a store as they are, compressed: many at once, large ones in pieces, each byte once.

What arrives is written beside its name and gets it when it is whole, so a file under its name is complete: a run that
was killed goes on with what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fsspec.callbacks import Callback

from geozarr_runner.errors import ProductBroken
from geozarr_runner.stores.access.concurrency import in_bounds
from geozarr_runner.stores.store import Store
from geozarr_runner.trust.bounds import LARGEST_OBJECT, seconds_for

# A connection has its own pace: a large object comes as fast as many small ones when it is split.
PIECE = 8_000_000


def download(
    store: Store,
    targets: Mapping[str, Path],
    sizes: Mapping[str, int | None],
    progress: Callable[[int], None],
    most: Mapping[str, int] | None = None,
) -> int:
    """Copy objects; returns the bytes that came.

    Parameters
    ----------
    targets
        The file to write for each object's key. What is there already is complete, and not fetched again.
    sizes
        The size of each object in bytes; None where the store does not tell it.
    progress
        Called with the number of bytes of each block that arrived or was there; less than 0 for what was lost.
    most
        How large an object can be at most whose size the store does not tell; else what a codec can decode at once.

    Raises
    ------
    ProductUnreachable, ProductDenied, ProductBroken, StorageFailed
    """
    jobs: list[Callable[[], Coroutine[Any, Any, int]]] = []
    in_pieces: bool | None = None
    for key, target in targets.items():
        size = sizes[key]
        if target.exists() and (size is None or target.stat().st_size == size):
            progress(target.stat().st_size)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if size is not None and size >= 2 * PIECE:
            in_pieces = store.sends_ranges(key) if in_pieces is None else in_pieces
        if size is not None and size >= 2 * PIECE and in_pieces:
            jobs += _pieces(store, key, target, size, progress)
        else:
            largest = (most or {}).get(key, LARGEST_OBJECT)
            jobs.append(partial(_whole, store, key, target, size, largest, progress))
    return sum(store.run(in_bounds(jobs)))


async def _whole(
    store: Store, key: str, target: Path, size: int | None, most: int, progress: Callable[[int], None]
) -> int:
    arriving = _arriving(target)
    kept = store.kept.pop(key, None)
    if kept is not None and (size is None or len(kept) == size):
        with arriving.open("wb") as file:
            _write(file.fileno(), kept, 0)
        arriving.replace(target)
        progress(len(kept))
        return len(kept)

    async def fetch() -> int:
        counter = _DownloadCounter(progress, partial(_check_growth, key, size, most))
        try:
            try:
                await store.filesystem._get_file(store.path(key), str(arriving), callback=counter)
            except FileNotFoundError as error:  # a chunk that never was is none of `sizes`
                raise ProductBroken(
                    "an object that was there a moment ago is gone",
                    given=key,
                    remedy="run the same command again when nobody changes the product",
                ) from error
            came = arriving.stat().st_size
            _check_length(key, came, size)
        except BaseException:
            progress(-counter.value)
            raise
        if came > counter.value:  # a filesystem that counts nothing while it copies
            progress(came - counter.value)
        arriving.replace(target)
        return came

    try:
        return await store.retried(fetch, key, seconds_for(most if size is None else size))
    finally:
        arriving.unlink(missing_ok=True)


def _pieces(
    store: Store, key: str, target: Path, size: int, progress: Callable[[int], None]
) -> list[Callable[[], Coroutine[Any, Any, int]]]:
    """Return a job for each piece of an object; the last one that is done gives the file its name."""
    arriving = _arriving(target)
    with arriving.open("wb") as file:
        file.truncate(size)
    starts = range(0, size, PIECE)
    missing = set(starts)

    async def one(start: int) -> int:
        end = min(start + PIECE, size)

        async def fetch() -> bytes:
            block: bytes = await store.filesystem._cat_file(store.path(key), start=start, end=end)
            _check_length(key, len(block), end - start)
            return block

        try:
            block = await store.retried(fetch, key, seconds_for(end - start))
            with arriving.open("r+b") as file:
                _write(file.fileno(), block, start)
        except BaseException:
            arriving.unlink(missing_ok=True)
            raise
        progress(len(block))
        missing.remove(start)
        if not missing:
            arriving.replace(target)
        return len(block)

    return [partial(one, start) for start in starts]


def _write(descriptor: int, block: bytes, start: int) -> None:
    """Write all of a block: on a disk that fills the system takes a part of it first, and then refuses."""
    rest = memoryview(block)
    while rest:
        written = os.pwrite(descriptor, rest, start)
        start += written
        rest = rest[written:]


def _arriving(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _check_length(key: str, came: int, expected: int | None) -> None:
    if expected is None or came == expected:
        return
    if came < expected:
        raise ConnectionError(f"{came} of {expected} bytes came of {key}")  # and is tried again
    raise ProductBroken(
        f"{came} bytes came of an object of {expected}: it changes while it is read",
        given=key,
        remedy="run the same command again when the product is complete",
    )


def _check_growth(key: str, size: int | None, most: int, came: int) -> None:
    """Look at an object while it comes: what is longer than it can be is not waited for."""
    if size is not None and came > size:
        _check_length(key, came, size)
    if came > most and size is None:
        raise ProductBroken(
            f"more than {most} bytes come of an object, which is more than its array can need",
            given=key,
            remedy="tell whoever publishes the product; groups without it can be converted",
        )


class _DownloadCounter(Callback):  # type: ignore[misc]
    """Passes on the size of each block of one object; `check` is called with what came of it, and may end it."""

    def __init__(self, progress: Callable[[int], None], check: Callable[[int], None]) -> None:
        super().__init__()
        self._progress = progress
        self._check = check

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        self._progress(inc)
        self._check(self.value)

    def absolute_update(self, value: int) -> None:
        self.relative_update(value - self.value)
