"""Arrays of a server that answers the same for what it refuses and for what is not there.

One object of an array that such a server shows is a witness: what it refuses of that array is then not there. Without
a witness the array may be empty, or kept from whoever asks.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from itertools import batched, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from geozarr_runner.errors import ProductDenied

if TYPE_CHECKING:
    import zarr

MOST_ASKED = 1024
AT_ONCE = 16
# A variable that names a reference system has no value: all that it says is in its attributes.
_NAMES_A_GRID = frozenset({"grid_mapping_name", "crs_wkt", "spatial_ref"})


def untold(place: str) -> ProductDenied:
    """Return the error for an array that may be empty, and may be refused."""
    return ProductDenied(
        "every stored chunk of it that was asked for is refused: it is refused or empty, this server does not tell",
        given=place,
        remedy="ask whoever publishes it whether it is empty, or for the right to list; groups without it can be read",
    )


class Witness:
    """Looks for one stored object of an array that its server shows.

    Parameters
    ----------
    array
        An opened one.
    place
        What an error calls it.
    """

    def __init__(self, array: zarr.Array[Any], place: str) -> None:
        self._path = array.path.strip("/")
        self._metadata = array.metadata
        stored = array.shards or array.chunks
        self._grid = tuple(-(-size // max(edge, 1)) for size, edge in zip(array.shape, stored, strict=True))
        self._says_nothing = not array.shape and bool(_NAMES_A_GRID & array.attrs.keys())
        self._place = place
        self._found: bool | None = None
        self._lock = asyncio.Lock()

    async def check(self, getters: Sequence[Any]) -> None:
        """Look whether what was just read of a distant store may be believed.

        Raises
        ------
        ProductDenied
            All of it was refused, and so is whatever else was asked for of the array.
        """
        store = getattr(getters[0], "store", None) if getters else None
        is_refused = getattr(store, "is_refused", None)
        if self._found or self._says_nothing or store is None or is_refused is None:
            return
        refused = [is_refused(getter.path) for getter in getters]
        if not all(refused):
            self._found = self._found or True in refused
            return
        async with self._lock:
            if self._found is None:
                self._found = await self._look(store)
        if not self._found:
            raise untold(self._place)

    async def _look(self, store: Any) -> bool:
        for keys in batched(islice(self._spread(), MOST_ASKED), AT_ONCE):
            if await store.has_some(keys):
                return True
        return False

    def _spread(self) -> Iterator[str]:
        """Yield the keys of stored objects, neighbours far from one another."""
        count = math.prod(self._grid)
        step = next(step for step in range(int(count * 0.618) + 1, count + 2) if math.gcd(step, count) == 1)
        for number in range(count):
            index = np.unravel_index(number * step % count, self._grid) if self._grid else ()
            key = self._metadata.encode_chunk_key(tuple(map(int, index)))
            yield f"{self._path}/{key}" if self._path else key
