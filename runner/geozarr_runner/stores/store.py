"""One Zarr store: documents, sizes and parts of its objects, and which of them are absent."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import weakref
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import cached_property, partial
from itertools import batched
from pathlib import Path
from typing import Any

from geozarr_runner.errors import ProductBroken, ProductDenied
from geozarr_runner.stores.absence import ROOTS, may_be_absent
from geozarr_runner.stores.access.concurrency import in_bounds
from geozarr_runner.stores.access.connection import Connection
from geozarr_runner.stores.access.filesystem import close_session, lists_sizes
from geozarr_runner.stores.listing import Listing
from geozarr_runner.trust import bounds
from geozarr_runner.trust.addresses import CACHES, redact
from geozarr_runner.trust.tree import FolderTree

ASKED_AT_ONCE = 100_000


class Store(Connection):
    """Reads the objects below one address.

    Parameters
    ----------
    url
        A path, or an address of any protocol that fsspec knows. A query (a signature, say) goes with every object.
    asked
        The address that a person gave, where this one was found from it; empty where it was not. Credentials that name
        no host go to that one's host alone. None: the person gave this one.
    root
        The key of the document that its product was read from; empty where that is not known. What is not found counts
        as absent only as long as this one can be read: see `absence`.

    Attributes
    ----------
    local
        The folder, where the store is one on this machine; else None.
    kept
        Objects by their keys that were read before the download, which takes them from here.
    """

    def __init__(self, url: str | os.PathLike[str], *, asked: str | None = None, root: str = "") -> None:
        super().__init__(url, asked=asked)
        self._known_root = root
        self._hides_absence = False
        self.kept: dict[str, bytes] = {}

    @cached_property
    def original(self) -> Store | None:
        """The store behind a cache, which alone knows what is there; None where this one is no cache."""
        first, chained, rest = self.url.partition("::")
        if not chained or first.partition("://")[0] not in CACHES:
            return None
        return Store(rest, asked=self._asked, root=self._known_root)

    @property
    def hides_absence(self) -> bool:
        """Whether something was refused that counts as absent: no other reader would take it for that."""
        return self._hides_absence or (self.original is not None and self.original.hides_absence)

    @cached_property
    def tree(self) -> FolderTree:
        """The folder, where the store is one on this machine: nothing that is read of it lies outside."""
        if self.local is None:
            raise TypeError(f"{self!r} is no folder of this machine")
        return FolderTree(self.local)

    def is_file(self) -> bool | None:
        """Return whether the store's path on this machine is a file; None where there is nothing of that name.

        Raises
        ------
        ProductUnreachable
            And its kinds: it cannot be looked at.
        """
        try:
            return stat.S_ISREG(Path(self.path("")).stat().st_mode)
        except ValueError:  # of what cannot be a name
            return None
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                return None
            raise self.failure(error, "") from error

    def for_zarr(self, *, is_view: bool = False, keeps: bool = False) -> Any:
        """Return what zarr-python opens, for reading: it has an event loop of its own, and so needs its own session.

        Parameters
        ----------
        keeps
            Whole objects that are read go into `kept`.
        is_view
            It may be a view of this run's own, whose links were looked at when they were made, and lead elsewhere.
        """
        if self.local is not None:
            if is_view:
                return self.local  # as text it would be an address, whose query and fragment are cut off
            from geozarr_runner.stores.tree_store import TreeStore

            return TreeStore(self.local)
        from geozarr_runner.stores.distant_store import DistantStore

        filesystem, base = self.opened(encoded=bool(self._query), for_another_loop=True)
        store = DistantStore(
            filesystem,
            path=base,
            place=self,
            is_bounded=not lists_sizes(filesystem),
            query=self._query,
            kept=self.kept if keeps else None,
        )
        weakref.finalize(store, close_session, filesystem)
        return store

    def read(self, key: str, *, is_json: bool = False) -> bytes | None:
        """Return the bytes of one document: metadata, an item, a line with a checksum.

        Parameters
        ----------
        is_json
            It is given up at its first bytes if they are those of something else.

        Returns
        -------
        bytes | None
            None where there is none of that name.

        Raises
        ------
        ProductBroken
            It is larger than a document may be, no file, or something else.
        ProductUnreachable
            And its kinds: it cannot be read, or does not come to its end.
        """
        most = bounds.largest_document()
        given = redact(f"{self.url.partition('?')[0].rstrip('/')}/{key}" if key else self.url)

        def check(beginning: bytes) -> None:
            if is_json:
                bounds.check_beginning(beginning, given)

        if self.local is not None:
            try:
                content = self.tree.read(key, most + 1)
            except OSError as error:
                raise self.failure(error, key) from error
        else:
            content = self._unless_absent(key, self._part_or_stream(key, most, given, check))
        if content is None and self.original is not None:
            return self.original.read(key, is_json=is_json)
        if content is not None:
            check(content)
            if len(content) > most:
                raise bounds.too_large(given, most)
            if key in ROOTS:
                self._known_root = self._known_root or key
        return content

    def _part_or_stream(
        self, key: str, most: int, given: str, check: Callable[[bytes], None]
    ) -> Coroutine[Any, Any, bytes | None]:
        if not self.is_web:
            return self._document(key, partial(self.part, key, most + 1))
        return self._document(key, partial(self.stream, key, most, given, check))

    def _unless_absent[T](self, key: str, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what a request gives; None where it is refused by a server that has it not."""
        try:
            return self.run(work)
        except ProductDenied as denied:
            refused = denied
        if self.original is None and not self.is_without(key, refused):
            raise refused
        return None

    def is_without(self, key: str, refused: ProductDenied) -> bool:
        """Return whether a refusal means that there is no object of a name: asks for the root's document after it."""
        return key != "" and may_be_absent(refused.__cause__) and self.shows_root(besides=key)

    def shows_root(self, *, besides: str = "") -> bool:
        """Return whether the document of the root can be read now, another one than `besides`."""
        return self.run(self._shows_root(besides))

    async def _shows_root(self, besides: str = "") -> bool:
        for key in (self._known_root,) if self._known_root else ROOTS:
            if key == besides:
                continue
            try:
                is_there, _ = await self.retried(partial(self.first_byte, key), key, bounds.seconds_for(0))
            except ProductDenied:
                continue
            if is_there:
                self._known_root = key
                return True
        return False

    async def _document[T](self, key: str, get: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what comes, with as many tries as fit into the time that a document has."""
        seconds = bounds.SECONDS_FOR_A_DOCUMENT
        try:
            async with asyncio.timeout(seconds):
                return await self.retried(get, key)
        except TimeoutError as error:
            late = TimeoutError(f"it did not come to its end within {seconds:g} s")
            raise self.failure(late, key, tries=1) from error

    def sizes(self, keys: Iterable[str], progress: Callable[[int], None] | None = None) -> dict[str, int | None]:
        """Return the stored size of each object that exists, in bytes; None where the store does not tell it.

        One request an object, many at once. A store that lists with sizes (object stores) is asked once a folder; what
        its listing lacks is asked for by name. Of objects that do not exist, however many, nothing is kept.

        Raises
        ------
        ProductDenied
            One is refused, and that does not mean that there is none: see `absence`.
        ProductBroken
            Some are not found, and the root's document is not any more either.
        ProductUnreachable
            The store does not answer.
        """
        found: dict[str, int | None] = {}
        if self.local is not None:
            for key in keys:
                try:
                    size = self.tree.size(key)
                except OSError as error:
                    raise self.failure(error, key) from error
                if size is not None:
                    found[key] = size
            return found
        if self.original is not None:
            return self.original.sizes(keys, progress)
        listing = None if self.is_web else Listing(self)
        look = self.size_on_web if listing is None else listing.look_behind
        for part in batched(keys, ASKED_AT_ONCE):
            lacking: Sequence[str] = part
            if listing is not None:
                found |= self.run(listing.sizes(part))
                lacking = [key for key in part if key not in found]
            found |= self._asked_by_name(lacking, look, progress)
        return found

    def _asked_by_name(
        self,
        keys: Sequence[str],
        look: Callable[[str], Coroutine[Any, Any, tuple[bool, int | None]]],
        progress: Callable[[int], None] | None,
    ) -> dict[str, int | None]:
        """Return the sizes of the objects that exist; none is taken for absent before the root was seen after it."""
        refused: list[ProductDenied] = []

        async def one(key: str) -> tuple[bool, int | None]:
            try:
                return await self.retried(partial(look, key), key, bounds.seconds_for(0))
            except ProductDenied as denied:
                if not may_be_absent(denied.__cause__):
                    raise
                refused[1:] = [denied]
                return False, None

        answers = self.run(in_bounds([partial(one, key) for key in keys], progress))
        found = {key: size for key, (is_there, size) in zip(keys, answers, strict=True) if is_there}
        # Nobody has to have read a root before: then one that says "not found" is believed, and none that refuses.
        if len(found) < len(keys) and (refused or self._known_root) and not self.shows_root():
            raise (
                refused[0]
                if refused
                else ProductBroken(
                    "objects of it are not found, and its metadata are not any more either",
                    given=redact(self.url),
                    remedy="run the same command again when nobody changes the product",
                )
            )
        self._hides_absence |= bool(refused)
        return found

    def parts(self, wanted: Sequence[tuple[str, int, int]]) -> list[tuple[bytes, int | None] | None]:
        """Return parts of objects, many at once: the bytes from a place up to another one.

        Returns
        -------
        list
            For each its bytes, and the size of the whole object where that comes with them; None where the store sends
            whole objects only.

        Raises
        ------
        ProductBroken
            An object is gone.
        ProductUnreachable
            And its kinds: one cannot be read.
        """
        if self.local is not None:
            return [(self._local_part(*each), None) for each in wanted]

        async def tried(key: str, start: int, stop: int) -> tuple[bytes, int | None] | None:
            return await self.retried(partial(self.part_of, key, start, stop), key, bounds.seconds_for(stop - start))

        return self.run(in_bounds([partial(tried, *each) for each in wanted]))

    def _local_part(self, key: str, start: int, stop: int) -> bytes:
        try:
            with os.fdopen(self.tree.open(key), "rb") as file:
                file.seek(start)
                return file.read(stop - start)
        except OSError as error:
            raise self.failure(error, key) from error

    def refuses(self, key: str) -> bool:
        """Return whether an object is refused by a server that may have it not."""
        if self.local is not None:
            return False
        if self.original is not None:
            return self.original.refuses(key)
        try:
            self.run(self.retried(partial(self.first_byte, key), key, bounds.seconds_for(0)))
        except ProductDenied as denied:
            if not may_be_absent(denied.__cause__):
                raise
            return True
        return False
