"""Converts the variables of chosen groups side by side, and joins what the converters wrote.

The converter handles one variable after the other and keeps little more than one core busy. In the generic layout the
variables of a group do not depend on each other: converters with some of them each write the same coordinates, the
same attributes, and their own arrays. Joined, these are what one converter would have written, object for object.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from geozarr_runner.errors import ConverterFailed
from geozarr_runner.estimate import memory_for
from geozarr_runner.layout import written
from geozarr_runner.preflight import Plan
from geozarr_runner.product import Array
from geozarr_runner.publish import write_consolidated

# A converter more costs some five seconds of a core to start; less than this many pixels do not earn it.
PIXELS_WORTH_A_CONVERTER = 60_000_000


def split(plan: Plan, *, cores: int, memory: int | None) -> list[list[Array]]:
    """Return the arrays of each part; one part where dividing would not pay.

    Parameters
    ----------
    cores
        Converters that can be kept busy.
    memory
        Bytes that all of them may use together; None where nobody knows.
    """
    expected = written(plan.product, plan.groups) if plan.groups else None
    if not expected:
        return []
    pixels: dict[str, int] = {}
    for array in expected:
        pixels[array.source.path] = pixels.get(array.source.path, 0) + array.pixels
    count = min(cores, len(pixels), sum(pixels.values()) // PIXELS_WORTH_A_CONVERTER)
    if memory is not None:
        count = min(count, memory // memory_for(expected))
    if count < 2:
        return []
    return [_with_coordinates(plan, paths) for paths in _balanced(pixels, count)]


def _balanced(weights: Mapping[str, int], count: int) -> list[list[str]]:
    """Put the heaviest into the lightest part, again and again; order within a part stays the product's."""
    parts: list[list[str]] = [[] for _ in range(count)]
    loads = [0] * count
    for path in sorted(weights, key=lambda path: -weights[path]):
        lightest = loads.index(min(loads))
        parts[lightest].append(path)
        loads[lightest] += weights[path]
    order = {path: place for place, path in enumerate(weights)}
    return [sorted(part, key=order.__getitem__) for part in parts]


def _with_coordinates(plan: Plan, paths: Iterable[str]) -> list[Array]:
    chosen = set(paths)
    groups = [plan.product.groups[path] for path in plan.groups]
    return [
        array
        for group in groups
        if any(variable.path in chosen for variable in group.variables)
        for array in group.arrays
        if array.path in chosen or array in group.coordinates
    ]


def join(parts: Sequence[Path], target: Path) -> None:
    """Make one store of those that the converters wrote; the parts are gone afterwards.

    Raises
    ------
    ConverterFailed
        The parts contradict each other.
    """
    first, *others = parts
    first.rename(target)
    for part in others:
        _merge(part, target)
        shutil.rmtree(part)
    _consolidate(target)


def _merge(source: Path, target: Path) -> None:
    """Move what `target` lacks into it, group by group; metadata of the same group has to be the same."""
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if not place.exists():
            entry.rename(place)
        elif entry.is_dir() and not _is_array(entry):
            _merge(entry, place)
        elif entry.name == "zarr.json":
            _agree(entry, place)


def _is_array(folder: Path) -> bool:
    document = folder / "zarr.json"
    return document.is_file() and json.loads(document.read_bytes()).get("node_type") == "array"


def _agree(source: Path, target: Path) -> None:
    """Check that two parts say the same of a group; the store's extent is that of both."""
    theirs, ours = json.loads(source.read_bytes()), json.loads(target.read_bytes())
    other, own = theirs.get("attributes", {}), ours.get("attributes", {})
    box, own_box = other.get("spatial:bbox"), own.get("spatial:bbox")
    if box != own_box and _is_box(box) and _is_box(own_box):
        half = len(box) // 2
        own["spatial:bbox"] = [*map(min, own_box[:half], box[:half]), *map(max, own_box[half:], box[half:])]
        other = {**other, "spatial:bbox": own["spatial:bbox"]}
        target.write_text(json.dumps(ours), encoding="utf-8")
    if other != own:
        differing = sorted(name for name in {*other, *own} if other.get(name) != own.get(name))
        raise ConverterFailed(
            f"two converters described the group {target.parent.name} differently",
            given=", ".join(differing),
            remedy="please report it, with the log file",
        )


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) in (4, 6) and all(isinstance(edge, int | float) for edge in value)


def _consolidate(store: Path) -> None:
    """Write anew every consolidated metadata that the converters wrote of their own part."""
    documents = [path for path in store.rglob("zarr.json") if "consolidated_metadata" in json.loads(path.read_bytes())]
    for document in sorted(documents, key=lambda path: -len(path.parts)):  # deepest first
        write_consolidated(document.parent)
