"""Converts variables side by side, and joins what the converters wrote.

The converter handles one variable after the other, and is far from keeping a machine busy. In the generic layout the
variables of a group do not depend on each other: converters with some of them each write the same coordinates, the
same attributes, and their own arrays. In the flat Sentinel-2 layout a band depends on the same band at other
resolutions, and on nothing else. Joined, the parts are what one converter would have written, object for object.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from geozarr_runner.errors import ConverterFailed
from geozarr_runner.kinds.layout import REFLECTANCE
from geozarr_runner.kinds.profiles import planned_arrays
from geozarr_runner.planning.estimate import needed
from geozarr_runner.planning.memory import memory_of_part
from geozarr_runner.planning.preflight import Plan
from geozarr_runner.product.model import Array
from geozarr_runner.publishing.local import write_consolidated

# A converter more costs some five seconds of a core to start; less than this many pixels do not earn it.
PIXELS_WORTH_A_CONVERTER = 60_000_000
# Cores that one converter has work for: with chosen groups for little more than one, with the flat layout's many chunks
# for two.
CORES_OF_GENERIC, CORES_OF_FLAT = 1, 2
# Nanoseconds of a core for one value: of a packed number, of another one, of one that has only a byte. Nearly all of it
# is for the digits that the compressor has to keep.
COST_OF_PACKED, COST_OF_NUMBER, COST_OF_BYTE = 33, 16, 6
# The flat layout needs every one of these in each part: its levels are described from what lies in them.
RESOLUTIONS = tuple(f"{REFLECTANCE}/{name}" for name in ("r10m", "r20m", "r60m"))
# Groups of this depth without which the converter does not recognise Sentinel-2, nor with any other beside them.
RECOGNISED = {
    "/measurements",
    "/measurements/reflectance",
    "/quality",
    "/conditions",
    "/conditions/geometry",
    "/conditions/mask",
    "/conditions/meteorology",
}


def split(plan: Plan, *, cores: int, memory: int | None) -> list[list[Array]]:
    """Return the arrays of each part; one part where dividing would not pay.

    Parameters
    ----------
    cores
        How many there are for them.
    memory
        Bytes that all of them may use together; None where nobody knows.
    """
    expected = planned_arrays(plan.product, plan.groups, plan.options)
    if not expected:
        return []
    weights = {_unit(plan, array): 0 for array in needed(plan.product, plan.groups) if not _is_coordinate(plan, array)}
    for one in expected:
        weights[_unit(plan, one.source)] += one.computed * _cost(one.source)
    seeds = [[unit] for unit in weights] if plan.groups else _seeds(plan)
    busy = cores // (CORES_OF_GENERIC if plan.groups else CORES_OF_FLAT)
    count = min(busy, len(seeds), sum(one.pixels for one in expected) // PIXELS_WORTH_A_CONVERTER)
    if memory is not None:
        count = min(count, memory // memory_of_part(plan.product, plan.groups, options=plan.options))
    if count < 2:
        return []
    parts = _balanced(weights, [[] for _ in range(count)] if plan.groups else seeds[:count])
    return [_with_coordinates(plan, units) for units in parts]


def threads(plan: Plan, count: int, *, cores: int, memory: int | None) -> int:
    """Return how many threads each of several converters may have: its share of the cores, as far as memory goes."""
    fitting = (
        number
        for number in range(cores // count, 1, -1)
        if memory is None or count * memory_of_part(plan.product, plan.groups, number, options=plan.options) <= memory
    )
    return next(fitting, 1)


def _unit(plan: Plan, array: Array) -> str:
    """Return a name for what has to be converted together: a variable; in the flat layout a band, or a group."""
    if plan.groups:
        return array.path
    group = array.path.rpartition("/")[0]
    return array.name if group in RESOLUTIONS else group


def _cost(array: Array) -> int:
    if "scale_factor" in array.attributes:
        return COST_OF_PACKED
    return COST_OF_BYTE if array.itemsize == 1 else COST_OF_NUMBER


def _is_coordinate(plan: Plan, array: Array) -> bool:
    return any(array is one for one in plan.product.groups[array.path.rpartition("/")[0]].coordinates)


def _seeds(plan: Plan) -> list[list[str]]:
    """Return bands for each part of the flat layout, such that every part has some at each resolution."""
    product = plan.product
    beside = {path for path in product.parents if path.count("/") < 3 and not path.startswith("/quality/")} - {"/"}
    if beside != RECOGNISED or not set(RESOLUTIONS) <= product.groups.keys():
        return []
    free = [[array.name for array in product.groups[path].variables] for path in RESOLUTIONS]
    seeds: list[list[str]] = []
    while all(free):
        seed: list[str] = []
        for names in free:
            if not set(seed) & set(names):
                seed.append(names[0])
        seeds.append(seed)
        free = [[name for name in names if name not in seed] for names in free]
    return seeds


def _balanced(weights: Mapping[str, int], seeds: Sequence[Sequence[str]]) -> list[list[str]]:
    """Put the heaviest into the lightest part, again and again; order within a part stays the product's."""
    parts = [list(seed) for seed in seeds]
    loads = [sum(weights[unit] for unit in part) for part in parts]
    placed = {unit for part in parts for unit in part}
    for unit in sorted(weights.keys() - placed, key=lambda unit: (-weights[unit], unit)):
        lightest = loads.index(min(loads))
        parts[lightest].append(unit)
        loads[lightest] += weights[unit]
    order = {unit: place for place, unit in enumerate(weights)}
    return [sorted(part, key=order.__getitem__) for part in parts]


def _with_coordinates(plan: Plan, units: Iterable[str]) -> list[Array]:
    """Return the variables of some units, with the coordinates of their groups."""
    chosen = set(units)
    groups: dict[str, list[Array]] = {}
    for array in needed(plan.product, plan.groups):
        if _is_coordinate(plan, array) or _unit(plan, array) in chosen:
            groups.setdefault(array.path.rpartition("/")[0], []).append(array)
    return [
        array
        for arrays in groups.values()
        if not all(_is_coordinate(plan, array) for array in arrays)
        for array in arrays
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
