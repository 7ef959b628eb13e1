"""Gives the converter an input that holds what is wanted and nothing else.

The converter copies every group it can see. So for chosen groups it is shown a view: a Zarr store of its own with the
chosen groups, their parents' attributes and what they refer to. Objects of a local product are linked, those of a
remote one downloaded as they are, compressed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any, cast

from geozarr_runner.errors import ProductBroken, StorageFull
from geozarr_runner.events import Progress, Reporter, human_bytes
from geozarr_runner.kinds import spelling
from geozarr_runner.kinds.profiles import profile_of
from geozarr_runner.planning.estimate import needed
from geozarr_runner.planning.preflight import Plan, attributes_for_converter, fill_of_text
from geozarr_runner.product.chunk_check import flaws
from geozarr_runner.product.emptiness import empty_arrays, sentence
from geozarr_runner.product.model import Array, Product, parents_of
from geozarr_runner.publishing.local import Workspace
from geozarr_runner.staging.download import download
from geozarr_runner.staging.spot_check import SpotCheck, spot_check
from geozarr_runner.stores.access.failures import storage_errors
from geozarr_runner.stores.store import Store
from geozarr_runner.trust.addresses import redact
from geozarr_runner.trust.bounds import LARGEST_OBJECT
from geozarr_runner.trust.keys import inside
from geozarr_runner.trust.tree import FolderTree

OVERHEAD = 1_000_000  # of an object, beside its values


@dataclass(frozen=True, slots=True)
class Staged:
    """The converter's input.

    Attributes
    ----------
    url
        Where it is.
    bytes_read
        Bytes that came over the network for it.
    empty
        Paths of the arrays of which nothing is stored.
    check
        What was read again of the product, and compared with what came.
    """

    url: str
    bytes_read: int
    empty: tuple[str, ...] = ()
    check: SpotCheck = field(default_factory=SpotCheck)


class DoesNotFit(StorageFull):
    """What a run would stage is larger than the scratch space."""


def stage(plan: Plan, space: Workspace, progress: Progress, reporter: Reporter) -> Staged:
    """Make the view, where one is needed.

    A whole product that does not fit into scratch space is read in place, though parts of it several times.

    Returns
    -------
    Staged
        The view, or the product itself where it can be read in place.

    Raises
    ------
    ProductUnreachable, ProductBroken, StorageFailed
    DoesNotFit
        Chosen groups are larger than the scratch space.
    """
    product = plan.product
    arrays = needed(product, plan.groups)
    if not plan.narrowed:
        # The converter follows links, and reads whatever is listed.
        product.store.tree.check()
        folder = cast(Path, product.store.local)
        _check_frames(plan, arrays, folder)
        return Staged(str(folder), 0, _empty_in(product, arrays, folder))
    with storage_errors(space.staged):
        write_metadata(plan, [*arrays, *profile_of(product).made_arrays(product)], space.staged)
        if product.store.local is not None:
            # What was seen of its folders before may have become a link since.
            _link(FolderTree(product.store.local).find, arrays, space.staged, progress)
            _check_frames(plan, arrays, space.staged)
            _make(product, space.staged, reporter)
            return Staged(str(space.staged), 0, _empty_in(product, arrays, space.staged))
        sizes = product.store.sizes(key for array in arrays for key in array.object_keys())
        empty = empty_arrays(product, arrays, sizes)
        for path in empty:
            reporter.warning("no-chunks", sentence(path), "ask whoever publishes the product whether that is meant")
        targets = {key: inside(space.staged, key) for key in sizes}
        total = None if None in sizes.values() else sum(size or 0 for size in sizes.values())
        missing = (total or 0) - sum(target.stat().st_size for target in targets.values() if target.is_file())
        if (lack := _lack_of_space(space, missing)) is not None:
            if plan.groups or not plan.readable or product.store.hides_absence:
                raise lack
            reporter.warning("read-in-place", f"{lack.message}: it is read in place, parts several times", lack.remedy)
            return Staged(product.url, 0, empty)
        done = 0

        def arrived(count: int) -> None:
            nonlocal done
            done += count
            progress(done, total, "bytes")

        most = {}
        if total is None:
            most = {key: _most(array) for array in arrays for key in array.object_keys() if key in sizes}
        came = download(product.store, targets, sizes, arrived, most)
        _check_frames(plan, arrays, space.staged)
        check = spot_check(product.store, arrays, sizes, space.staged)
        _make(product, space.staged, reporter)
    return Staged(str(space.staged), came, empty, check)


def _empty_in(product: Product, arrays: Iterable[Array], folder: Path) -> tuple[str, ...]:
    """Return the paths of the arrays of which a folder has nothing."""
    with_chunks = (array for array in arrays if any((folder / key).exists() for key in array.object_keys()))
    return empty_arrays(product, arrays, {array.path for array in with_chunks})


def _make(product: Product, view: Path, reporter: Reporter) -> None:
    """Write the arrays that the product lacks and the converter needs."""
    profile = profile_of(product)
    made = {array.path: array for array in profile.made_arrays(product)}
    if not made:
        return
    from geozarr_runner.product.sampler import StoredPixels

    source = StoredPixels(Store(str(view)), product.zarr_format, redact(product.url), is_view=True)
    found = profile.make(product, source)
    if found.caution:
        reporter.warning("placed-roughly", found.caution, "look at how it lies on a map before it is measured in")
    for path, values in found.values.items():
        target = inside(view, f"{path.lstrip('/')}/{made[path].key((0,))}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(values.astype("<f8").tobytes())


def _most(array: Array) -> int:
    """Return how many bytes a stored object of an array can have: what codecs may add to its values is generous."""
    if array.is_text or not array.itemsize:
        return LARGEST_OBJECT
    values = math.prod(array.chunks)
    return min(8 * values * array.itemsize + 16 * values + OVERHEAD, LARGEST_OBJECT)


def _check_frames(plan: Plan, arrays: Iterable[Array], root: Path) -> None:
    for array in arrays:
        for found in flaws(array, root):
            raise ProductBroken(
                f"a stored chunk of {array.path} is not what its array says: {found}",
                given=f"{redact(plan.product.url)}/{found.key}",
                remedy="fetch the product again, or tell whoever publishes it; groups without it can be converted",
            )


def write_metadata(plan: Plan, arrays: Iterable[Array], view: Path) -> None:
    """Write the narrowed metadata, consolidated and object by object."""
    product = plan.product
    kept = {array.path: array for array in arrays}
    groups = dict.fromkeys(["/", *profile_of(product).empty_groups(product)])
    for path in kept:
        groups.update(dict.fromkeys(parents_of(path)))
    if not plan.groups:
        groups.update(dict.fromkeys(product.parents))
    documents: dict[str, Mapping[str, Any]] = {}
    for path in sorted(groups):
        attributes = spelling.of_root(product) if path == "/" else product.parents.get(path, {})
        documents.update(_group_documents(path, attributes, product.zarr_format))
    for path, array in kept.items():
        attributes = attributes_for_converter(product, _respelled(product, array), plan.options)
        documents.update(_array_documents(path, array, attributes))
    if product.zarr_format == 2:
        documents[".zmetadata"] = {"zarr_consolidated_format": 1, "metadata": dict(documents)}
    else:
        inner = {key.removesuffix("/zarr.json"): node for key, node in documents.items() if key != "zarr.json"}
        consolidated = {"kind": "inline", "must_understand": False, "metadata": inner}
        documents["zarr.json"] = {**documents["zarr.json"], "consolidated_metadata": consolidated}
    for key, document in documents.items():
        target = inside(view, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(document), encoding="utf-8")


def _respelled(product: Product, array: Array) -> Array:
    """Return an array that says where it lies as the converter reads it."""
    group = product.groups.get(array.path.rpartition("/")[0] or "/")
    if group is None or array not in group.variables:
        return array
    return replace(array, attributes=spelling.of_array(product, group, array))


def _group_documents(path: str, attributes: Mapping[str, Any], zarr_format: int) -> dict[str, Mapping[str, Any]]:
    prefix = path.strip("/") + "/" if path != "/" else ""
    if zarr_format == 3:
        return {f"{prefix}zarr.json": {"zarr_format": 3, "node_type": "group", "attributes": attributes}}
    return {f"{prefix}.zgroup": {"zarr_format": 2}, f"{prefix}.zattrs": attributes}


def _array_documents(path: str, array: Array, attributes: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    prefix = path.strip("/") + "/"
    if array.metadata["zarr_format"] == 3:
        return {f"{prefix}zarr.json": {**array.metadata, "node_type": "array", "attributes": attributes}}
    metadata = dict(array.metadata)
    if array.is_text and fill_of_text(metadata):
        metadata["fill_value"] = None
    return {f"{prefix}.zarray": metadata, f"{prefix}.zattrs": attributes}


def make_view(plan: Plan, arrays: Sequence[Array], source: Path, view: Path) -> None:
    """Make a view of some arrays of a store on this machine, a view itself or one whose links were looked at."""
    write_metadata(plan, arrays, view)
    _link(_found_in(source), arrays, view, lambda done, total, unit: None)


def _found_in(source: Path) -> Callable[[str], Path | None]:
    def find(key: str) -> Path | None:
        path = inside(source, key)
        return path if path.exists() else None

    return find


def _link(find: Callable[[str], str | Path | None], arrays: Sequence[Array], view: Path, progress: Progress) -> None:
    """Link what exists; a chunk that does not is its fill value."""
    total = sum(array.objects for array in arrays)
    keys = (key for array in arrays for key in array.object_keys())
    for done, key in enumerate(keys, start=1):
        if (original := find(key)) is not None:
            target = inside(view, key)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(original)
        if done == total or done % 200 == 0:
            progress(done, total, "chunks")


def _lack_of_space(space: Workspace, wanted: int) -> DoesNotFit | None:
    usage = disk_usage(space.scratch)
    if wanted <= usage.free or not usage.total:  # some mounts do not tell their size
        return None
    return DoesNotFit(
        f"staging needs {human_bytes(wanted)}, and {human_bytes(usage.free)} are free",
        given=space.scratch,
        remedy="make space there, or name a larger folder with scratch=...",
    )
