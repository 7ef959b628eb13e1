"""A folder that others have made as zarr opens it: what lies outside is refused, where zarr would follow links.

Metadata that zarr looks for itself are read up to a bound.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import LocalStore

from geozarr_runner.trust.bounds import is_document, largest_document, too_large
from geozarr_runner.trust.tree import FolderTree


class TreeStore(LocalStore):
    """Reads below a folder, see `tree.Tree`; it writes nothing."""

    def __init__(self, root: Path | str, *, read_only: bool = True) -> None:
        super().__init__(root, read_only=True)
        self._tree = FolderTree(root)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object, or a part of it; None where there is none of that name."""
        content = self._part(key, byte_range)
        return None if content is None else (prototype or default_buffer_prototype()).buffer.from_bytes(content)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the same."""
        content = await asyncio.to_thread(self._part, key, byte_range)
        return None if content is None else (prototype or default_buffer_prototype()).buffer.from_bytes(content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of several objects."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Return whether there is an object of that name."""
        return await asyncio.to_thread(self._tree.find, key) is not None

    async def getsize(self, key: str) -> int:
        """Return an object's size in bytes."""
        size = await asyncio.to_thread(self._tree.size, key)
        if size is None:
            raise FileNotFoundError(key)
        return size

    def _part(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        if byte_range is None and is_document(key):
            most = largest_document()
            found = self._tree.read(key, most + 1)
            if found is not None and len(found) > most:
                raise too_large(key, most)
            return found
        try:
            descriptor = self._tree.open(key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            match byte_range:
                case RangeByteRequest(start, end):
                    file.seek(min(start, size))
                    # No more than it has, as room for all of it is made first.
                    return file.read(max(min(end, size) - start, 0))
                case OffsetByteRequest(offset):
                    file.seek(min(offset, size))
                case SuffixByteRequest(suffix):
                    file.seek(max(0, size - suffix))
            return file.read()
