"""A distant store as zarr opens it: metadata that zarr looks for itself are read up to a bound too."""

from __future__ import annotations

from zarr.abc.store import ByteRequest, RangeByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore

from geozarr_runner.trust.bounds import is_document, largest_document, too_large


class DistantStore(FsspecStore):
    """Reads below an address of a store that sends parts of its objects."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object, or a part of it; None where there is none of that name.

        Raises
        ------
        ProductBroken
            It is metadata, and larger than those may be.
        """
        if byte_range is not None or not is_document(key):
            return await super().get(key, prototype, byte_range)
        most = largest_document()
        found = await super().get(key, prototype, RangeByteRequest(0, most + 1))
        if found is not None and len(found) > most:
            raise too_large(key, most)
        return found
