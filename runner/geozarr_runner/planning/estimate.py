"""What a conversion will cost, before it is run."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import batched
from typing import Unpack

from geozarr_runner.errors import InvalidRequest
from geozarr_runner.events import human_bytes
from geozarr_runner.kinds.layout import PlannedArray
from geozarr_runner.kinds.profiles import check_options, planned_arrays, profile_of
from geozarr_runner.planning.groups import report
from geozarr_runner.planning.memory import memory_needed
from geozarr_runner.product.emptiness import empty_arrays, sentence
from geozarr_runner.product.metadata import figure
from geozarr_runner.product.model import Array, Product
from geozarr_runner.spec.options import Groups, ResultOptions, resolved
from geozarr_runner.stores.store import ASKED_AT_ONCE, Store
from geozarr_runner.text import html
from geozarr_runner.text.printable import printable
from geozarr_runner.trust.bounds import MOST_OBJECTS

# Of so few objects each is asked for its size; of more, their folder is listed.
FEW = 20_000


@dataclass(frozen=True)
class Estimate:
    """The cost of a conversion.

    Attributes
    ----------
    download_bytes
        Stored bytes of the objects that the wanted groups need, the metadata that was read for this not counted; None
        where the store tells no sizes.
    requests
        Objects to read.
    output_bytes
        Size of the output on disk, overviews included. Compression depends on the data: within some 30 %.
    packed_bytes
        The same with `packed=True`; None where the converter cannot keep packed integers.
    memory_bytes
        Peak memory of one converter; several run side by side only where there is free memory for all of them.
    staging_bytes
        Scratch space; 0 where the product is read in place.
    exact
        False where a size had to be guessed.
    notes
        What the figures leave open.
    """

    product: str
    groups: tuple[str, ...]
    download_bytes: int | None
    requests: int
    output_bytes: int
    packed_bytes: int | None
    memory_bytes: int
    staging_bytes: int
    exact: bool
    notes: tuple[str, ...] = ()

    def _facts(self) -> dict[str, str]:
        download = "the store does not tell" if self.download_bytes is None else human_bytes(self.download_bytes)
        return {
            "groups": ", ".join(self.groups) or "the whole product",
            "to read": f"{download}{'' if self.exact else ' or more'} in {self.requests} objects",
            "output": f"about {human_bytes(self.output_bytes)}{self._other_choice()}",
            "memory": f"about {human_bytes(self.memory_bytes)}",
            "scratch space": human_bytes(self.staging_bytes) if self.staging_bytes else "none: read in place",
            "note": "; ".join(self.notes),
        }

    def _other_choice(self) -> str:
        if self.packed_bytes in (None, self.output_bytes):
            return ""
        return f"; about {human_bytes(self.packed_bytes)} with packed=True"

    def __repr__(self) -> str:
        lines = [printable(f"  {name}: {value}") for name, value in self._facts().items() if value]
        return "\n".join([printable(f"{self.product}:"), *lines])

    def _repr_html_(self) -> str:
        return html.block(self.product, html.facts(self._facts()))


def estimate(product: Product, groups: Groups | None = None, **options: Unpack[ResultOptions]) -> Estimate:
    """Return what converting these groups will cost.

    Takes one request for each stored object whose size the store does not list (http has no listing); no data are
    read. Missing groups are left out, as a run with `validate_groups=False` would.

    Raises
    ------
    GroupsMissing
        When none of the groups is left.
    InvalidRequest
        When it cannot have one of the options; when it has more stored objects than can be converted.
    ProductUnreachable
        When the store does not answer.
    """
    wished = resolved(options)
    chosen = report(product, groups)
    chosen.raise_for_missing(all_needed=False)
    check_options(product, chosen.found, wished)
    check_count(product, chosen.found)
    arrays = needed(product, chosen.found)
    found = _ask(product.store, arrays)
    empty = empty_arrays(product, arrays, {path for path, one in found.items() if one.objects}, is_to_be_read=False)
    requests = sum(one.objects for one in found.values())
    untold = sum(one.untold for one in found.values())
    notes = [sentence(path) for path in empty]
    if untold:
        notes.append(f"the store does not tell the size of {untold} of {requests} objects")
    download = sum(one.size for one in found.values()) if untold < requests or not requests else None
    stored = {path: one.size for path, one in found.items() if not one.untold}
    expected = planned_arrays(product, chosen.found, wished)
    if expected is None:
        output = _of_warped(product, chosen.found, stored)
        notes.append("the size of the output depends on where the scene lies")
    else:
        output = sum(_compressed(array, stored, flat=not chosen.found) for array in expected)
    in_integers = None
    if expected is not None and profile_of(product).refuses("packed", chosen.found) is None:
        in_integers = sum(int(_density(array, stored) * array.pixels) for array in expected)
    staging = (download or 0) if product.store.local is None else 0
    return Estimate(
        product=product.name,
        groups=chosen.found,
        download_bytes=download,
        requests=requests,
        output_bytes=in_integers if wished["packed"] and in_integers is not None else output,
        packed_bytes=in_integers,
        memory_bytes=memory_needed(product, chosen.found, wished),
        staging_bytes=staging,
        exact=not untold,
        notes=tuple(notes),
    )


def needed(product: Product, groups: Iterable[str]) -> list[Array]:
    """Return the arrays that converting these groups reads; all of the product's for no groups."""
    chosen = tuple(groups)
    if not chosen:
        left_out = profile_of(product).not_copied
        return [a for path, group in product.groups.items() if not path.startswith(left_out) for a in group.arrays]
    paths = dict.fromkeys((*chosen, *profile_of(product).companions(product, chosen)))
    return [array for path in paths for array in product.groups[path].arrays]


def check_count(product: Product, groups: Iterable[str]) -> None:
    """Refuse groups that are stored in more objects than can be asked for one by one.

    Raises
    ------
    InvalidRequest
    """
    chosen = tuple(groups)
    objects = sum(array.objects for array in needed(product, chosen))
    if objects > MOST_OBJECTS:
        raise InvalidRequest(
            f"this is stored in {figure(objects)} objects, and {figure(MOST_OBJECTS)} can be converted at once",
            given=f"{product.name}, {', '.join(chosen) or 'the whole product'}",
            remedy="choose fewer groups",
        )


@dataclass(slots=True)
class _Stored:
    """What a store says of one array: its objects, those that do not tell their size, and the bytes of the others."""

    objects: int = 0
    untold: int = 0
    size: int = 0


def _ask(store: Store, arrays: Sequence[Array]) -> dict[str, _Stored]:
    """Return what the store says of each array, by its path."""
    found = {array.path: _Stored() for array in arrays}
    asked = []
    for array in arrays:
        if store.local is None or array.objects <= FEW:
            asked += [array]
            continue
        for size in _objects_on_disk(store, array):
            found[array.path].objects += 1
            found[array.path].size += size
    keys = ((array.path, key) for array in asked for key in array.object_keys())
    for batch in batched(keys, ASKED_AT_ONCE):
        sizes = store.sizes(key for _, key in batch)
        for path, key in batch:
            if key in sizes:
                found[path].objects += 1
                found[path].untold += sizes[key] is None
                found[path].size += sizes[key] or 0
    return found


def _objects_on_disk(store: Store, array: Array) -> Iterator[int]:
    """Yield the size of each stored object of an array, as its folder lists them: what is not stored costs nothing."""
    root = array.path.lstrip("/")
    folder = store.path(root)
    for path in _files(folder):
        key = os.path.relpath(path, folder)
        if array.has_key(key):
            yield from (size for size in store.sizes([f"{root}/{key}"]).values() if size is not None)


def _files(folder: str) -> Iterator[str]:
    waiting = [folder]
    while waiting:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    yield entry.path


def _compressed(array: PlannedArray, stored: Mapping[str, int], *, flat: bool) -> int:
    """Return the size on disk of one array of the output.

    What was measured over sample products of 1080 to 10980 pixels: numbers that the converter unpacks (scale_factor)
    grow with the entropy of their digits, up to a bound; the flat layout makes float32 of everything, the generic one
    float64 of packed numbers only.
    """
    packed = _density(array, stored)
    unpacks = "scale_factor" in array.source.attributes
    if unpacks and "/measurements/" in array.source.path:
        each = min(3.0, 2.9 * packed) if flat else min(6.6, 6.4 * packed)
    elif unpacks:
        each = (0.75 if flat else 1.5) * packed
    elif array.source.itemsize == 1:
        each = (2.0 if flat else 1.0) * packed
    else:
        each = packed
    return int(each * array.pixels)


def _density(array: PlannedArray, stored: Mapping[str, int]) -> float:
    """Return the stored bytes of each value of the source, which are about those of the output where they are kept."""
    values = max(math.prod(array.source.shape), 1)
    return stored.get(array.source.path, values * array.source.itemsize) / values


def _of_warped(product: Product, groups: Iterable[str], stored: Mapping[str, int]) -> int:
    """Return the size of an output whose grid only the converter knows: the source's, on a grid about as large.

    Overviews add a third. OLCI keeps its packed integers, on a less compressed default.
    """
    chosen = tuple(groups) or tuple(product.groups)
    total = 0.0
    for array in (array for path in chosen for array in product.groups[path].arrays):
        overviews = 4 / 3 if len(array.shape) >= 2 else 1.0
        total += stored.get(array.path, array.nbytes) * overviews
    return int(total)
