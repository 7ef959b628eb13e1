"""Compares the output with the input: only this tells whether a conversion succeeded.

The converter ends with exit code 0 also when it made no GeoZarr at all. Here every wanted group has to be in the
output with all its variables, its size, its reference system, its overviews and its GeoZarr metadata; sampled pixels
have to be those of the source; and nothing else may be there when groups were chosen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from geozarr_runner.errors import ProductBroken, ProductUnreachable, VerificationFailed
from geozarr_runner.events import Progress
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds.layout import REFLECTANCE, SMALLEST_OVERVIEW
from geozarr_runner.kinds.profiles import encoding_of, profile_of
from geozarr_runner.planning.preflight import Plan
from geozarr_runner.product.chunk_check import flaws
from geozarr_runner.product.emptiness import PLACES
from geozarr_runner.product.model import Array, Group, Product
from geozarr_runner.product.sampler import Pair, StoredPixels, compare
from geozarr_runner.stores.store import Store
from geozarr_runner.trust.addresses import redact
from geozarr_runner.verification.absence import lost
from geozarr_runner.verification.documents import contradicted
from geozarr_runner.verification.grid import misplaced
from geozarr_runner.verification.reference_system import unlike

PROBLEMS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Verified:
    """What was seen in the output."""

    groups: tuple[str, ...]
    variables: int
    pixels_compared: int


@dataclass
class _Findings:
    problems: list[str] = field(default_factory=list)

    def add(self, where: str, what: str) -> None:
        self.problems.append(f"{where}: {what}")


def verify(plan: Plan, source_url: str, output: Path, progress: Progress) -> Verified:
    """Check an output against its source.

    Parameters
    ----------
    source_url
        Where the source's pixels are read: the staged view, or the product itself.
    output
        The store that the converter wrote.

    Raises
    ------
    VerificationFailed
        With the first problems in its message.
    ProductUnreachable, ProductBroken
        When the source's pixels cannot be read any more, or cannot be decoded.
    """
    findings = _Findings()
    try:
        result = open_product(str(output))
    except ProductUnreachable as error:
        raise _failed(plan, [f"the converter wrote no readable Zarr store: {error.message}"]) from error
    if result.zarr_format != 3 or not result.consolidated:
        findings.add("/", "it is not a Zarr v3 store with consolidated metadata")
    pairs = list(_pairs(plan, result, findings))
    if plan.groups:
        _check_nothing_else(plan, result, findings)
    if not pairs and not findings.problems:
        findings.add("/", "no group of it is GeoZarr")
    for group, problem in contradicted(output):
        findings.add(group, problem)
    if findings.problems:  # the pixels of a wrong structure say nothing
        raise _failed(plan, findings.problems)
    in_place = plan.is_product(source_url)  # and is read as the product was
    store = plan.product.store if in_place else Store(source_url)
    source = StoredPixels(
        store,
        plan.product.zarr_format,
        redact(plan.product.url),
        is_view=not in_place,
        encoding=partial(encoding_of, plan.product),
    )
    written = StoredPixels(Store(str(output)), 3, str(output))
    is_warped = profile_of(plan.product).is_warped
    if is_warped:  # pixels are compared where x and y say
        _check_grids(plan, result, written, output, findings)
        if findings.problems:
            raise _failed(plan, findings.problems)
    check = _check_for(plan, source, written, output)
    compared = 0
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for done, (problems, pixels) in enumerate(pool.map(check, pairs), start=1):
            findings.problems += problems
            compared += pixels
            progress(done, len(pairs), "variables")
    if not is_warped:
        _check_grids(plan, result, written, output, findings)
    if findings.problems:
        raise _failed(plan, findings.problems)
    groups = tuple(dict.fromkeys(pair.output.path.rpartition("/")[0] for pair in pairs))
    return Verified(groups, len(pairs), compared)


def _check_for(
    plan: Plan, source: StoredPixels, written: StoredPixels, output: Path
) -> Callable[[Pair], tuple[list[str], int]]:
    """Return the function that compares a variable's pixels."""
    from geozarr_runner.product.guard import MISREAD

    warped = profile_of(plan.product).warp(plan.product, source)

    def check(pair: Pair) -> tuple[list[str], int]:
        # Before anything is decoded: what a decoder makes of a cut-off chunk is a matter of luck.
        if broken := [flaw for array in (pair.output, *pair.overviews) for flaw in _broken(array, output)]:
            return broken, 0
        try:
            if pair.warped and warped is not None:
                problems, pixels = warped.compare(pair, written)
                problems = problems or warped.lost(pair, written, output)
            else:
                problems, pixels = compare(pair, source, written)
            return problems or lost(pair, source, written, output), pixels
        except ProductBroken as error:
            if not str(error.given).startswith(written.address):
                raise
            return [f"{pair.output.path}: its pixels cannot be read: {error.message}"], 0
        except MISREAD as error:  # attributes that are no numbers, say
            return [f"{pair.output.path}: its pixels cannot be compared: {error}"], 0

    return check


def _broken(array: Array, output: Path) -> list[str]:
    """Return what is wrong with the first stored chunk of an array that is not what it says; at most one sentence."""
    return [f"{array.path}: a chunk cannot be read: {found}" for found in islice(flaws(array, output), 1)]


def _failed(plan: Plan, problems: list[str]) -> VerificationFailed:
    shown = "; ".join(problems[:PROBLEMS_SHOWN])
    more = f"; and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
    return VerificationFailed(
        f"the converter reported success, but its output is not what was asked for: {shown}{more}",
        given=", ".join(plan.groups) or "the whole product",
        remedy="nothing was published; the log file has the converter's own words. "
        "If the product is sound, report it with that file",
    )


# --- structure -------------------------------------------------------------------------------------------------------


def _pairs(plan: Plan, result: Product, findings: _Findings) -> Iterator[Pair]:
    """Check the structure, and yield each variable with what became of it."""
    multiscale = {path: attributes for path, attributes in result.parents.items() if "multiscales" in attributes}
    for path, attributes in multiscale.items():
        _check_multiscale(path, attributes, result, findings)
    left_out = profile_of(plan.product).not_copied
    geo_needed = _geo_needed(plan)
    for path in plan.groups or plan.product.groups:
        source = plan.product.groups[path]
        if not plan.groups and path.startswith(left_out) and REFLECTANCE in multiscale:
            continue
        place = _place(plan, path, result)
        if place is None:
            if source.variables:
                findings.add(path, "the group is not in the output")
            continue
        target = result.groups[place]
        if path in geo_needed:
            _check_georeference(plan, source, target, result, findings)
        yield from _variables(plan, source, target, result, findings)


def _geo_needed(plan: Plan) -> set[str]:
    """Return the groups of the source that have to be GeoZarr."""
    left_out = profile_of(plan.product).not_copied
    return set(plan.groups) or {path for path in plan.report.available if not path.startswith(left_out)}


def _georeferenced(plan: Plan, result: Product) -> Iterator[tuple[Group, Group]]:
    """Yield the groups of the source that lie on a grid, with what became of each."""
    if profile_of(plan.product).is_swath:
        return
    for path in sorted(_geo_needed(plan)):
        if path in plan.product.groups and (place := _place(plan, path, result)) is not None:
            yield plan.product.groups[path], result.groups[place]


def _place(plan: Plan, path: str, result: Product) -> str | None:
    """Return the group of the output that holds a source group's data at full size."""
    place = profile_of(plan.product).output_group(path)
    return place if place in result.groups else None


def _variables(plan: Plan, source: Group, target: Group, result: Product, findings: _Findings) -> Iterator[Pair]:
    written = {array.name: array for array in target.arrays}
    warped = profile_of(plan.product).is_warped and source.path in plan.report.available
    overviews = _overview_groups(plan, target.path, result)
    coordinates = () if warped else source.coordinates
    for array in (*source.variables, *coordinates):
        found = written.get(array.name)
        if found is None and array in coordinates and array.name not in PLACES:
            continue  # the converter keeps those that xarray calls so
        if found is None:
            if array.shape:  # GeoZarr has no place for scalars, and the converter drops them
                findings.add(f"{source.path}/{array.name}", "the variable is not in the output")
            continue
        if not warped and found.shape != array.shape:
            findings.add(found.path, f"its shape is {found.shape} and not {array.shape}")
            continue
        coarser = []
        for group in overviews if array in source.variables else ():
            overview = next((one for one in group.arrays if one.name == array.name), None)
            if overview is None:
                findings.add(group.path, f"the overview lacks {array.name}")
            else:
                coarser.append(overview)
        yield Pair(array, found, tuple(coarser), warped)


def _overview_groups(plan: Plan, path: str, result: Product) -> tuple[Group, ...]:
    """Return the coarser levels of a group: those it names below itself, or those its parent names beside it.

    Beside it, only levels that the source does not have itself are overviews: r20m is none of r10m.
    """
    places = [f"{path}/{asset}" for asset in _assets(result, path) if asset != "."]
    parent, _, name = path.rpartition("/")
    beside = _assets(result, parent)
    if name in beside:
        later = [f"{parent}/{asset}" for asset in beside[beside.index(name) + 1 :]]
        if not any(place in plan.product.groups for place in later):
            places += later
    return tuple(result.groups[place] for place in places if place in result.groups)


def _assets(result: Product, path: str) -> list[str]:
    return [str(level.get("asset", "")) for level in _layout(result.parents.get(path, {}))]


def _layout(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    multiscales = attributes.get("multiscales")
    layout = multiscales.get("layout") if isinstance(multiscales, Mapping) else None
    return [level for level in layout if isinstance(level, dict)] if isinstance(layout, list) else []


def _check_multiscale(path: str, attributes: Mapping[str, Any], result: Product, findings: _Findings) -> None:
    layout = _layout(attributes)
    if not layout:
        findings.add(path, "its multiscales attribute names no levels")
    previous: tuple[int, ...] | None = None
    for level in layout:
        place = path if level.get("asset") == "." else f"{path}/{level.get('asset')}"
        group = result.groups.get(place)
        if group is None or group.shape is None:
            findings.add(path, f"its level {level.get('asset')!r} is not there")
            continue
        size = group.shape[-2:]
        if previous is not None and not all(0 < now < before for now, before in zip(size, previous, strict=True)):
            findings.add(place, f"the overview of {size} is not smaller than the level before it, {previous}")
        previous = size
    if path in result.groups and previous is not None and min(previous) >= 2 * SMALLEST_OVERVIEW:
        findings.add(path, f"its overviews end at {previous}: coarser ones are missing")


def _check_georeference(plan: Plan, source: Group, target: Group, result: Product, findings: _Findings) -> None:
    """Check that a group says where it lies: conventions, extent, reference system, levels."""
    profile = profile_of(plan.product)
    own = result.parents.get(target.path, {})
    parent = result.parents.get(target.path.rpartition("/")[0] or "/", {})
    in_layout = any(level.get("asset") == target.path.rpartition("/")[2] for level in _layout(parent))
    if not own.get("zarr_conventions"):
        findings.add(target.path, "it declares no Zarr conventions: this is a plain copy and no GeoZarr")
        return
    flat = not plan.groups and REFLECTANCE in result.parents
    large = source.shape is None or min(source.shape[-2:]) >= 2 * SMALLEST_OVERVIEW
    if not in_layout and not _layout(own) and not flat and (large or not profile.is_swath):
        findings.add(target.path, "it has no multiscales")
    if profile.is_swath:
        return  # its latitudes and longitudes are compared as data
    if "spatial:bbox" not in own:
        findings.add(target.path, "it has no spatial:bbox")
    wanted = profile.output_crs(plan.product, source)
    for problem in unlike(wanted, target, own):
        findings.add(target.path, problem)


def _check_grids(plan: Plan, result: Product, written: StoredPixels, output: Path, findings: _Findings) -> None:
    """Check that what groups say of their place is where their x and y are."""
    is_warped = profile_of(plan.product).is_warped
    for source, target in _georeferenced(plan, result):
        broken = [flaw for array in target.arrays if array.name in ("x", "y") for flaw in _broken(array, output)]
        if broken:
            findings.problems += broken if is_warped else []  # else they are known
            continue
        own = result.parents.get(target.path, {})
        parent, _, name = target.path.rpartition("/")
        told = [own, *(level for level in _layout(own) if level.get("asset") == ".")]
        told += [level for level in _layout(result.parents.get(parent or "/", {})) if level.get("asset") == name]
        try:
            for problem in misplaced(target, source, told, written, is_warped=is_warped):
                findings.add(target.path, problem)
        except ProductBroken as error:
            findings.add(target.path, f"its x and y cannot be read: {error.message}")


def _check_nothing_else(plan: Plan, result: Product, findings: _Findings) -> None:
    allowed = set()
    for path in plan.groups:
        place = _place(plan, path, result) or path
        allowed |= {place, *(group.path for group in _overview_groups(plan, place, result))}
    for path in result.groups:
        if path not in allowed:
            findings.add(path, "the group was not asked for")
