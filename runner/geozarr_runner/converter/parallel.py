"""Divides a conversion between several converters, and joins their outputs.

One converter handles one variable after the other and uses little more than one core. In the generic layout the
variables of a group do not depend on each other: each of several converters writes the same coordinates, the same
attributes, and its own variables. In the flat Sentinel-2 layout a band depends only on the same band at other
resolutions. The joined output equals the output of one converter, object for object.
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
from geozarr_runner.publishing.root_document import write_consolidated

# One more converter costs about five seconds of a core to start, which fewer pixels than this do not repay.
PIXELS_WORTH_A_CONVERTER = 60_000_000
# Cores that one converter keeps busy: about one with chosen groups, two with the many chunks of the flat layout.
CORES_OF_GENERIC, CORES_OF_FLAT = 1, 2
# Nanoseconds of a core for one value: a packed number, another number, a number of one byte. The compressor takes
# nearly all of this time.
COST_OF_PACKED, COST_OF_NUMBER, COST_OF_BYTE = 33, 16, 6
# In the flat layout each part needs a band in every one of these groups, from which the converter describes the levels.
RESOLUTIONS = tuple(f"{REFLECTANCE}/{name}" for name in ("r10m", "r20m", "r60m"))
# The converter recognises Sentinel-2 only if exactly these groups exist at this depth.
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
    """Return the arrays of each converter's part; empty if one converter shall do everything.

    Parameters
    ----------
    cores
        Number of cores for all converters together.
    memory
        Bytes of memory for all converters together; None if unknown.
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
    """Return the number of threads of each converter: its share of the cores, or fewer if memory is short."""
    fitting = (
        number
        for number in range(cores // count, 1, -1)
        if memory is None or count * memory_of_part(plan.product, plan.groups, number, options=plan.options) <= memory
    )
    return next(fitting, 1)


def _unit(plan: Plan, array: Array) -> str:
    """Return the name of an array's unit, which stays in one part: a variable; in the flat layout a band or a group."""
    if plan.groups:
        return array.path
    group = array.path.rpartition("/")[0] or "/"
    return array.name if group in RESOLUTIONS else group


def _cost(array: Array) -> int:
    if "scale_factor" in array.attributes:
        return COST_OF_PACKED
    return COST_OF_BYTE if array.itemsize == 1 else COST_OF_NUMBER


def _is_coordinate(plan: Plan, array: Array) -> bool:
    return any(array is one for one in plan.product.groups[array.path.rpartition("/")[0] or "/"].coordinates)


def _seeds(plan: Plan) -> list[list[str]]:
    """Return the first bands of each part in the flat layout, so that every part has a band at each resolution."""
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
    """Add each unit to the lightest part, the heaviest unit first; each part keeps the product's order."""
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
    """Return the variables of units, with the coordinates of their groups."""
    chosen = set(units)
    groups: dict[str, list[Array]] = {}
    for array in needed(plan.product, plan.groups):
        if _is_coordinate(plan, array) or _unit(plan, array) in chosen:
            groups.setdefault(array.path.rpartition("/")[0] or "/", []).append(array)
    return [
        array
        for arrays in groups.values()
        if not all(_is_coordinate(plan, array) for array in arrays)
        for array in arrays
    ]


def join(parts: Sequence[Path], target: Path) -> None:
    """Join the stores that the converters wrote into one, and remove them.

    Raises
    ------
    ConverterFailed
        The stores contradict each other.
    """
    first, *others = parts
    first.rename(target)
    for part in others:
        _merge(part, target)
        shutil.rmtree(part)
    _consolidate(target)


def _merge(source: Path, target: Path) -> None:
    """Move everything that `target` lacks into it, group by group; metadata of the same group has to be equal."""
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
    """Check that two parts have equal metadata for a group; the extent becomes that of both parts."""
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
    """Write again all consolidated metadata, which each converter wrote for its own part only."""
    documents = [path for path in store.rglob("zarr.json") if "consolidated_metadata" in json.loads(path.read_bytes())]
    for document in sorted(documents, key=lambda path: -len(path.parts)):  # deepest first
        write_consolidated(document.parent)
