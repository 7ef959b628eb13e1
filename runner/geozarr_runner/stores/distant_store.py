"""A distant store as zarr opens it: what it cannot do it says in our words, and metadata are read up to a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from functools import cached_property, partial
from typing import Any, Protocol

from zarr.abc.store import ByteRequest, RangeByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore

from geozarr_runner.errors import ProductDenied
from geozarr_runner.stores.absence import Confirmation, is_absent, may_be_absent
from geozarr_runner.trust.bounds import is_document, largest_document, too_large

MOST_KEPT = 64 * 2**20  # bytes of objects that were read before they are downloaded


class Place(Protocol):
    """What is asked of a `Store` here."""

    @property
    def original(self) -> Place | None:
        """The store behind a cache."""

    def for_zarr(self) -> Any:
        """Return what zarr opens of it."""

    def shows_root(self) -> bool:
        """Return whether the root's document can be read now."""

    def sizes(self, keys: Iterable[str]) -> dict[str, int | None]:
        """Return the size of each object that exists."""

    async def retried[T](self, call: Callable[[], Coroutine[Any, Any, T]], key: str) -> T:
        """Return what a request gives, or raise one of our errors."""


class DistantStore(FsspecStore):
    """Reads below an address of a store that is not on this machine.

    Parameters
    ----------
    place
        The store, as everything else reads it.
    is_bounded
        Its filesystem bounds metadata by itself.
    query
        What follows the key in each object's address, a signature say; empty, or with its question mark.
    kept
        Takes whole objects by their keys, up to a bound; None for a reader who will not need them again.
    """

    def __init__(
        self,
        fs: Any,
        *,
        path: str,
        place: Place,
        is_bounded: bool,
        query: str = "",
        kept: dict[str, bytes] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(fs, **{**options, "read_only": True, "path": path, "allowed_exceptions": ()})
        self._place = place
        self._is_bounded = is_bounded
        # zarr takes a slash from the end of a path.
        self._query = f"{query[:-1]}%2F" if query.endswith("/") else query
        self._kept = kept
        self._refused: set[str] = set()
        self._root = Confirmation(partial(asyncio.to_thread, place.shows_root))

    def with_read_only(self, read_only: bool = False) -> DistantStore:
        """Return the store itself: nobody writes to it."""
        return self

    def is_refused(self, key: str) -> bool:
        """Return whether an object that was taken for absent was refused."""
        behind = getattr(self._original, "is_refused", None)  # a folder of this machine refuses nothing
        return key in self._refused or (behind is not None and behind(key))

    async def has_some(self, keys: Iterable[str]) -> bool:
        """Return whether there is one of several objects."""
        return bool(await asyncio.to_thread(self._place.sizes, keys))

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object, or a part of it; None where there is none of that name.

        Raises
        ------
        ProductBroken
            It is metadata, and larger than those may be.
        ProductUnreachable
            And its kinds: it cannot be read, or is refused.
        """
        if byte_range is None and self._kept is not None and key in self._kept:
            return prototype.buffer.from_bytes(self._kept[key])
        is_whole_document = byte_range is None and is_document(key) and not self._is_bounded
        most = largest_document()
        asked = RangeByteRequest(0, most + 1) if is_whole_document else byte_range

        async def once() -> Buffer | None:
            try:
                return await FsspecStore.get(self, f"{key}{self._query}", prototype, asked)
            except (IsADirectoryError, NotADirectoryError):
                return None
            except FileNotFoundError as error:
                if is_absent(error):
                    return None
                raise error.__cause__ or error from None

        refused = found = None
        try:
            found = await self._place.retried(once, key)
        except ProductDenied as denied:
            refused = denied
        if found is None and self._original is not None:
            kept: Buffer | None = await self._original.get(key, prototype, byte_range)
            return kept
        if refused is not None:
            if not (may_be_absent(refused.__cause__) and await self._root.now()):
                raise refused
            self._refused.add(key)
        if found is not None and is_whole_document and len(found) > most:
            raise too_large(key, most)
        if found is not None and byte_range is None and not is_document(key):
            self._keep(key, found)
        return found

    def _keep(self, key: str, found: Buffer) -> None:
        if self._kept is not None and len(found) + sum(map(len, self._kept.values())) <= MOST_KEPT:
            self._kept[key] = found.to_bytes()

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of several objects."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Return whether there is an object of that name."""
        return key in await asyncio.to_thread(self._place.sizes, [key])

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield what is listed in a folder."""

        async def listed() -> list[str]:
            return [name async for name in FsspecStore.list_dir(self, prefix)]

        for name in await self._place.retried(listed, prefix):
            yield name

    @cached_property
    def _original(self) -> Any:
        return self._place.original.for_zarr() if self._place.original is not None else None
