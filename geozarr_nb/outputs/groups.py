"""The groups of a store as its metadata describe them, as far as these are believed."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from geozarr_nb.outputs.location import absent
from geozarr_runner.errors import InvalidRequest, ProductBroken
from geozarr_runner.events import human_bytes
from geozarr_runner.stores.store import Store
from geozarr_runner.trust import crs
from geozarr_runner.trust.addresses import redact
from geozarr_runner.trust.bounds import LARGEST_OBJECT, MOST_OBJECTS, from_json

if TYPE_CHECKING:
    import zarr


METADATA = ("zarr.json", ".zmetadata", ".zgroup")
# What others wrote says how large it is; nothing that it says is believed beyond these.
MOST_NODES = 20_000
MOST_ALONG_A_DIMENSION = 1_000_000
MOST_READ_AT_ONCE = 100_000_000  # bytes of an array that is read when its group is opened
CONVERT_AGAIN = "convert it again, with if_exists='overwrite'; if no conversion wrote it, tell whoever publishes it"


def read_groups(url: str) -> dict[str, zarr.Group]:
    """Return every group by its absolute path, parents before children."""
    import zarr

    store = Store(url)
    found = {name: content for name in METADATA[:2] if (content := store.read(name)) is not None}
    if not found and store.read(METADATA[2]) is None:
        raise absent(url, store)
    with trusted_no_further(redact(url)):
        _count_nodes(next(iter(found.values()), b"{}"), redact(url))
        try:
            root = zarr.open_group(store.for_zarr(), mode="r")
            members = {f"/{path}": node for path, node in root.members(max_depth=None)}
        except zarr.errors.ContainsArrayError as error:
            raise InvalidRequest(
                "this is a single array, not a store with groups",
                given=redact(url),
                remedy="give the store that it is in",
            ) from error
    if not members and store.local is None:
        raise ProductBroken(
            "the store has no consolidated metadata, and its server does not list what is there",
            given=redact(url),
            remedy="have it consolidated by whoever can write to it: zarr.consolidate_metadata(store)",
        )
    groups = {path: node for path, node in sorted(members.items()) if isinstance(node, zarr.Group)}
    return {"/": root, **groups}


def _count_nodes(metadata: bytes, address: str) -> None:
    """Refuse a store with more groups and arrays than anybody would open at once."""
    document = from_json(metadata)
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    listed = document.get("consolidated_metadata") if "zarr_format" in document else document
    nodes = listed.get("metadata") if isinstance(listed, dict) else None
    if isinstance(nodes, dict) and len(nodes) > MOST_NODES * (1 if "zarr_format" in document else 2):
        raise ProductBroken(
            f"it lists {len(nodes)} groups and arrays, and {MOST_NODES} are the most that is opened",
            given=address,
            remedy="open the groups that you want with xarray.open_dataset(address, engine='zarr', group=...)",
        )


def check_names(
    groups: Mapping[str, zarr.Group], arrays: Mapping[str, Mapping[str, zarr.Array[Any]]], address: str
) -> None:
    """Refuse names that end a line, or are more than names: all that show an output would have to expect them."""
    for path, group in groups.items():
        names = {*path.split("/"), *group.attrs.keys(), *arrays[path]}
        for array in arrays[path].values():
            names.update(array.attrs.keys(), map(str, dimensions(array)))
        for name in names:
            if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
                raise ProductBroken(
                    f"something in the group {path} has a name with control characters: {name!r}",
                    given=address,
                    remedy=CONVERT_AGAIN,
                )


def dimensions(array: zarr.Array[Any]) -> list[Any]:
    """Return the names of an array's dimensions; none where it names none."""
    named = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return list(named) if isinstance(named, list | tuple) else []


def check_array(array: zarr.Array[Any], name: str, place: str) -> None:
    """Refuse an array whose metadata promise more than can be opened."""
    from geozarr_runner.product.encoding import flaw

    objects = [math.ceil(size / max(chunk, 1)) for size, chunk in zip(array.shape, array.chunks, strict=True)]
    width = 100 if array.dtype.hasobject else max(array.dtype.itemsize, 1)
    chunk = math.prod(array.chunks) * width
    # An index is read when its group is opened, and of times the first and the last.
    index = len(array.shape) == 1 and dimensions(array) == [name]
    read = array.nbytes if index else 0
    if index or "since" in str(array.attrs.get("units", "")):
        read = max(read, chunk)
    if (wrong := crs.flaw(array.attrs)) is not None:
        wrong = f"{wrong}, which .rio.crs would open"
    elif (found := flaw(array.attrs, array.metadata.zarr_format, array.dtype)) is not None:
        wrong = found
    elif math.prod(objects) > MOST_OBJECTS or max(objects, default=0) > MOST_ALONG_A_DIMENSION:
        wrong = f"it says that it has {' x '.join(map(str, objects))} chunks"
    elif chunk > LARGEST_OBJECT:
        wrong = f"it says that each of its chunks has {human_bytes(chunk)}"
    elif read > MOST_READ_AT_ONCE:
        wrong = f"it is read when it is opened, and says that it has {human_bytes(read)}"
    if wrong is not None:
        raise ProductBroken(f"an array cannot be opened: {wrong}", given=f"{place}/{name}", remedy=CONVERT_AGAIN)


@contextmanager
def trusted_no_further(place: str) -> Iterator[None]:
    """Say `ProductBroken` of whatever comes of a store that is not what it seems."""
    from geozarr_runner.product.guard import within

    with within(place, "the store's metadata cannot be read", CONVERT_AGAIN):
        yield
