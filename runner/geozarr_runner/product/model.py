"""What a product holds, as its metadata say it: groups, arrays, their sizes, and how these are shown."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from itertools import product as cartesian
from operator import lt
from typing import Any

import numpy as np

from geozarr_runner.errors import GeozarrError
from geozarr_runner.events import human_bytes
from geozarr_runner.product import metadata
from geozarr_runner.product.attributes import OF_A_GRID_MAPPING, discovery_of, grid_mappings, time_of
from geozarr_runner.product.footprint import Footprint, footprint_of
from geozarr_runner.stores.store import Store
from geozarr_runner.text import html
from geozarr_runner.text.printable import printable
from geozarr_runner.text.shell import literal
from geozarr_runner.trust import crs
from geozarr_runner.trust.addresses import redact

Source = str | os.PathLike[str] | Mapping[str, Any]
ROWS_SHOWN = 60
UNUSABLE_SHOWN = 5
# Stored objects that are looked at to show what a product takes on this machine; a second's work.
LOOKED_AT = 20_000


@dataclass(frozen=True)
class Array:
    """One array of a product.

    Attributes
    ----------
    path
        Absolute path in the product: `/measurements/reflectance/r10m/b02`.
    shape, chunks
        Size of the array and of one stored object (a shard, where the array is sharded), in pixels.
    dims
        Names of the dimensions, as many as `shape` has.
    metadata
        The metadata document as it is stored: `.zarray` (Zarr v2) or `zarr.json` (v3).
    unusable
        Why its values, or where they lie, cannot be read; empty where they can.
    """

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    attributes: Mapping[str, Any] = field(repr=False)
    metadata: Mapping[str, Any] = field(repr=False)
    unusable: str = ""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def nbytes(self) -> int:
        """Size in memory as stored, before decoding and without compression."""
        return math.prod(self.shape) * self.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of one stored value; 0 for a type of no fixed size."""
        try:
            return int(np.dtype(self.dtype).itemsize)
        except (TypeError, ValueError, SyntaxError):
            return 0

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of stored objects along each dimension."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    @property
    def objects(self) -> int:
        """Number of objects that may be stored for it."""
        return math.prod(self.grid)

    @property
    def is_text(self) -> bool:
        """True for strings of any kind."""
        return self.dtype.lstrip("<>|=")[:1] in ("U", "S", "O") or self.dtype in ("string", "fixed_length_utf32")

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Yield the index of every object, counted along each dimension."""
        return cartesian(*(range(count) for count in self.grid))

    def object_keys(self) -> Iterator[str]:
        """Yield the key of every object that may be stored for this array, relative to the store."""
        root = self.path.lstrip("/")
        return (f"{root}/{self.key(index)}" for index in self.indices())

    def has_key(self, key: str) -> bool:
        """Return whether this is the key of one of its objects, relative to the array."""
        numbers = re.findall(r"[0-9]+", key)
        if len(numbers) != max(len(self.shape), 1) or any(len(number) > 19 for number in numbers):
            return False
        index = tuple(map(int, numbers)) if self.shape else ()
        return key == self.key(index) and all(map(lt, index, self.grid))

    def key(self, index: tuple[int, ...]) -> str:
        """Return the key of one object, relative to the array; `index` counts objects along each dimension."""
        return metadata.object_key(self.metadata, index)


@dataclass(frozen=True)
class Group:
    """One group that holds arrays."""

    path: str
    arrays: tuple[Array, ...]
    attributes: Mapping[str, Any] = field(repr=False)

    @cached_property
    def variables(self) -> tuple[Array, ...]:
        """The arrays that hold data."""
        return tuple(array for array in self.arrays if array.name not in self._coordinate_names)

    @cached_property
    def coordinates(self) -> tuple[Array, ...]:
        """The arrays that say where the data lie."""
        return tuple(array for array in self.arrays if array.name in self._coordinate_names)

    @cached_property
    def _coordinate_names(self) -> frozenset[str]:
        names = {dim for array in self.arrays for dim in array.dims}
        for attributes in (self.attributes, *(array.attributes for array in self.arrays)):
            listed = attributes.get("coordinates")
            if isinstance(listed, str):
                names.update(listed.split())
        for array in self.arrays:
            names.update(grid_mappings(array.attributes))
            if not array.shape and not OF_A_GRID_MAPPING.isdisjoint(array.attributes):
                names.add(array.name)
        return frozenset(names)

    @property
    def raster(self) -> Array | None:
        """The variable with most pixels among those of two or more dimensions."""
        rasters = [array for array in self.variables if len(array.shape) >= 2]
        return max(rasters, key=lambda array: math.prod(array.shape[-2:]), default=None)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Pixels of the largest variable, along each of its dimensions."""
        return None if self.raster is None else self.raster.shape

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Pixels of one stored object of the largest variable."""
        return None if self.raster is None else self.raster.chunks

    @property
    def nbytes(self) -> int:
        """Size of all its arrays in memory as stored, without compression."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def objects(self) -> int:
        """Number of objects that may be stored for all its arrays."""
        return sum(array.objects for array in self.arrays)

    @property
    def unusable(self) -> str:
        """Why one of its arrays cannot be read, or where it lies; empty where all can."""
        of_arrays = (f"{array.name}: {array.unusable}" for array in self.arrays if array.unusable)
        return next(of_arrays, crs.flaw(self.attributes) or "")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing of a product can be converted.

    Attributes
    ----------
    why
        The reason, after the name of its kind.
    instead
        What to type instead.
    """

    why: str
    instead: str


@dataclass(frozen=True)
class Product:
    """A product's structure.

    Attributes
    ----------
    url
        The address of the Zarr store itself.
    name
        The item's id, or the store's name.
    kind
        What its kind is called, such as "Sentinel-2 L2A"; "Zarr" for one of no known kind.
    zarr_format
        2 or 3.
    groups
        Every group that holds arrays, by its absolute path.
    parents
        Attributes of every group, those without arrays included.
    consolidated
        False where the metadata had to be collected by listing.
    item
        Of the STAC item that it was opened from: its `href` (where that is known), geometry, box and properties, and
        the `groups` that it names; empty where it was opened by its own address.
    asked
        The address that the person gave where this one was found from it; empty where they gave none: see `Store`.
    refusal
        Why nothing of it can be converted; None where its groups decide.
    """

    url: str
    name: str
    kind: str
    zarr_format: int
    groups: Mapping[str, Group] = field(repr=False)
    parents: Mapping[str, Mapping[str, Any]] = field(repr=False)
    consolidated: bool
    identity: str
    item: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    asked: str | None = field(default=None, repr=False, compare=False)
    refusal: Refusal | None = field(default=None, repr=False, compare=False)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The root's attributes."""
        return self.parents.get("/", {})

    @cached_property
    def store(self) -> Store:
        """The store that this was read from."""
        root = "zarr.json" if self.zarr_format == 3 else ".zmetadata" if self.consolidated else ".zgroup"
        return Store(self.url, asked=self.asked, root=root)

    @property
    def proposed(self) -> tuple[str, ...]:
        """The groups that its STAC item names, where it names them apart from the whole: for `groups=[...]`."""
        return tuple(self.item.get("groups", ()))

    @property
    def discovery(self) -> Mapping[str, Any]:
        """What the product says of itself as a STAC item: geometry, box, properties; empty where it does not."""
        return discovery_of(self.attributes)

    @property
    def when(self) -> str | None:
        """When the data were taken, or began to be, ISO 8601; None where the product does not say."""
        return time_of(self.item) or time_of(self.discovery)

    @cached_property
    def footprint(self) -> Footprint | None:
        """Where the data lie: the item that it was opened from says it, else the product itself, or None."""
        return footprint_of(self.item) or footprint_of(self.discovery)

    @property
    def bbox(self) -> tuple[float, float, float, float] | None:
        """West, south, east, north in degrees; None where it is not known.

        West is greater than east where it crosses the antimeridian (RFC 7946).
        """
        return None if self.footprint is None else self.footprint.bbox

    def stored_bytes(self, path: str) -> int | None:
        """Return the stored size of a group in bytes.

        None where it takes requests to know, or more than a moment to look at each object (see `estimate`).
        """
        group = self.groups[path]
        if self.store.local is None or group.objects > LOOKED_AT:
            return None
        keys = [key for array in group.arrays for key in array.object_keys()]
        return sum(size or 0 for size in self.store.sizes(keys).values())

    def empty(self, groups: Iterable[str]) -> tuple[str, ...]:
        """Return the variables of groups of which no chunk is stored, as far as that is known without a request."""
        chosen = [self.groups[path] for path in groups]
        if self.store.local is None or sum(group.objects for group in chosen) > LOOKED_AT:
            return ()
        arrays = (array for group in chosen for array in group.variables)
        return tuple(array.path for array in arrays if array.shape and self._is_empty(array))

    def _shown_empty(self) -> str:
        """Return those of the groups that are shown."""
        found = self.empty(islice(self.groups, ROWS_SHOWN))
        more = f" and {len(found) - UNUSABLE_SHOWN} more" if len(found) > UNUSABLE_SHOWN else ""
        return ", ".join(found[:UNUSABLE_SHOWN]) + more

    def _is_empty(self, array: Array) -> bool:
        with suppress(GeozarrError):  # of a link that leads out of it: it is something all the same
            return not array.unusable and not any(self.store.sizes([key]) for key in array.object_keys())
        return False

    def _stored(self, groups: Iterable[Group]) -> dict[str, int | None]:
        """Return the stored size of groups; None for all of them where one cannot be said, so that all are one kind."""
        chosen = list(groups)
        if self.store.local is not None and sum(group.objects for group in chosen) <= LOOKED_AT:
            with suppress(GeozarrError):  # of a link that leads out of it: what it is can be shown all the same
                return {group.path: self.stored_bytes(group.path) for group in chosen}
        return dict.fromkeys(group.path for group in chosen)

    def to_dict(self) -> dict[str, Any]:
        """Return the structure as plain values, for JSON."""
        stored = self._stored(self.groups.values())
        return {
            "url": redact(self.url),
            "name": self.name,
            "kind": self.kind,
            "refused": self.refusal and self.refusal.why,
            "when": self.when,
            "bbox": self.bbox,
            "zarr_format": self.zarr_format,
            "consolidated": self.consolidated,
            "groups": {
                path: {
                    "variables": [array.name for array in group.variables],
                    "shape": group.shape,
                    "chunks": group.chunks,
                    "unpacked_bytes": group.nbytes,
                    "stored_bytes": stored[path],
                }
                for path, group in self.groups.items()
            },
        }

    def __repr__(self) -> str:
        taken = [f"  {printable(self.when)}"] if self.when else []
        lines = [f"{self.kind}: {printable(self.name)}", f"  {printable(redact(self.url))}", *taken]
        groups = list(self.groups.values())[:ROWS_SHOWN]
        stored = self._stored(groups)
        rows = [tuple(map(printable, (group.path, *_row(group, stored[group.path])))) for group in groups]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
        lines.append(f"  {len(self.groups)} groups:")
        lines.extend(
            f"    {path:<{widths[0]}}  {shape:<{widths[1]}}  {size:>{widths[2]}}  {names[:70]}"
            for path, shape, size, names in rows
        )
        if len(self.groups) > ROWS_SHOWN:
            lines.append(f"    ... and {len(self.groups) - ROWS_SHOWN} more: product.groups has them all")
        lines += [f"  no chunk is stored of {printable(paths)}" for paths in (self._shown_empty(),) if paths]
        named = ", ".join(map(literal, self.proposed[:ROWS_SHOWN]))
        lines += [f"  its STAC item names groups=[{named}]"] if named else []
        lines += [f"  cannot be converted: {printable(text)}" for text in self._unusable]
        return "\n".join(lines)

    @cached_property
    def _unusable(self) -> list[str]:
        if self.refusal is not None:
            return [f"{self.refusal.why}. {self.refusal.instead}"]
        found = [f"{group.path}: {group.unusable}" for group in self.groups.values() if group.unusable]
        more = [f"and {len(found) - UNUSABLE_SHOWN} groups more"] if len(found) > UNUSABLE_SHOWN else []
        return found[:UNUSABLE_SHOWN] + more

    def _repr_html_(self) -> str:
        groups = list(self.groups.values())
        stored = self._stored(groups[:ROWS_SHOWN])
        rows = [(group.path, *_row(group, stored[group.path])) for group in groups[:ROWS_SHOWN]]
        size = "unpacked" if None in stored.values() else "stored"
        more = f"and {len(groups) - ROWS_SHOWN} more: <code>product.groups</code> has them all"
        facts = {"address": redact(self.url), "taken": self.when or "", "groups": str(len(groups))}
        facts["groups that its item names"] = ", ".join(self.proposed[:ROWS_SHOWN])
        facts["without a chunk"] = self._shown_empty()
        return html.block(
            f"{self.kind}: {self.name}",
            html.facts({**facts, "cannot be converted": "; ".join(self._unusable)}),
            html.table(("group", "pixels", size, "variables"), rows),
            more if len(groups) > ROWS_SHOWN else "",
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return html.bundle(self)


def parents_of(path: str) -> Iterator[str]:
    """Yield the paths of all groups that a group or an array lies in, the root last."""
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        yield path


def _row(group: Group, stored: int | None) -> tuple[str, str, str]:
    names = ", ".join(array.name for array in group.variables)
    return " x ".join(map(str, group.shape or ())), human_bytes(group.nbytes if stored is None else stored), names
