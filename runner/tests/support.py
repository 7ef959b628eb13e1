"""What the tests of the runner share: runs of the real command, small products, and what an output holds."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from geozarr_runner.events import Event, parse
from geozarr_runner.publishing.root_document import PROVENANCE

type Document = dict[str, Any]

RUNNER = (sys.executable, "-m", "geozarr_runner")
R10M = "/measurements/reflectance/r10m"
R20M = "/measurements/reflectance/r20m"
R60M = "/measurements/reflectance/r60m"
POLL = 0.01
# What takes seconds on a quiet machine takes minutes on a busy one: whoever waits for longer waits for nothing.
PATIENCE = 600.0


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    code: int
    stdout: str
    stderr: str
    output: Path

    @property
    def events(self) -> list[Event]:
        """Every line of its stdout as an event; a line that is none fails the test."""
        events = [parse(line) for line in self.stdout.splitlines()]
        assert None not in events, self.stdout
        return [event for event in events if event is not None]

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.type == kind]

    @property
    def error(self) -> Event:
        [error] = self.of("error")
        assert self.events[-1] is error or self.events[-1].type == "error", "an error is the last event"
        return error

    @property
    def result(self) -> Event:
        assert self.code == 0, self.stdout + self.stderr
        assert self.events[-1].type == "result"
        return self.events[-1]


def environment(**changes: str) -> dict[str, str]:
    """The tests' own environment without what would change a run's request."""
    kept = {name: value for name, value in os.environ.items() if name not in ("ARGO_GROUPS", "ARGO_PROGRESS_FILE")}
    return kept | changes


def run(*arguments: object, env: Mapping[str, str] | None = None, timeout: float = PATIENCE) -> Run:
    """Run `geozarr-runner convert ARGUMENTS` to its end; the second argument is the output."""
    done = subprocess.run(
        [*RUNNER, "convert", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**(env or {})),
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr, Path(str(arguments[1])))


def until[T](condition: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Wait for something to become true; returns it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(POLL)
    return value


def calls_in(work: Callable[[], object]) -> int:
    """Return how many functions of Python were called while something is done: the same on every machine."""
    calls = itertools.count()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, argument: next(calls) if event == "call" else None)
    try:
        work()
    finally:
        sys.setprofile(before)
    return next(calls)


def beside(output: Path) -> set[str]:
    """What lies in the output's folder, its log file and its item aside."""
    return {entry.name for entry in output.parent.iterdir()} - {f"{output.name}.log.jsonl", f"{output.name}.stac.json"}


# --- products --------------------------------------------------------------------------------------------------------


def write_store(root: Path, documents: Mapping[str, object]) -> Path:
    """Write documents and bytes by their keys."""
    for key, document in documents.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    root.mkdir(parents=True, exist_ok=True)
    return root


def array_v2(shape: Sequence[int], dims: Sequence[str], path: str, **changes: object) -> dict[str, Document]:
    """The two documents of a Zarr v2 array."""
    metadata: Document = {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": list(shape),
        "dtype": "<u2",
        "fill_value": 0,
        "order": "C",
        "compressor": None,
        "filters": None,
    }
    return {f"{path}/.zarray": metadata | changes, f"{path}/.zattrs": {"_ARRAY_DIMENSIONS": list(dims)}}


def grid_v2(group: str, size: int = 8, **attributes: object) -> dict[str, Document]:
    """A group with one raster, `data`, over y and x."""
    documents = {f"{group}/.zgroup": {"zarr_format": 2}, f"{group}/.zattrs": {}}
    documents |= array_v2((size, size), ("y", "x"), f"{group}/data")
    documents[f"{group}/data/.zattrs"] |= {"proj:epsg": 32632, **attributes}
    documents |= array_v2((size,), ("y",), f"{group}/y") | array_v2((size,), ("x",), f"{group}/x")
    return documents


def with_axes(root: Path, *groups: str, size: int = 8) -> Path:
    """Store the values of y and x, which say where the pixels of groups lie."""
    for group in groups:
        for name, axis in {"y": range(size, 0, -1), "x": range(1, size + 1)}.items():
            stored = b"".join(value.to_bytes(2, "little") for value in axis)
            write_store(root / group / name, {"0": stored, "c/0": stored})
    return root


def consolidated_v2(documents: Mapping[str, Document]) -> dict[str, Document]:
    """Documents with the `.zmetadata` that gathers them."""
    root = {".zgroup": {"zarr_format": 2}, ".zattrs": {}} | dict(documents)
    return root | {".zmetadata": {"zarr_consolidated_format": 1, "metadata": root}}


def write_terrain(
    path: Path,
    *,
    zarr_format: int = 3,
    group: str = "dem",
    size: int = 640,
    text: bool = False,
    sharded: bool = False,
    chunk: int | None = None,
    compressed: bool = True,
) -> Path:
    """Write a product of no known kind: one raster in UTM, the upper right quarter of which was never stored.

    Parameters
    ----------
    text
        Add an array of text with a fill value: the converter ends on it.
    sharded
        Each stored object of the raster holds four chunks.
    chunk
        Edge of the raster's stored objects, in pixels; half of its own where none is given.
    compressed
        Store the raster compressed.
    """
    root = zarr.create_group(str(path), zarr_format=3 if zarr_format == 3 else 2)
    place = root.require_group(group) if group else root
    half = size // 2

    def create(where: zarr.Group, name: str, dims: tuple[str, ...], **options: Any) -> Any:
        named = {"dimension_names": dims} if zarr_format == 3 else {}
        array = where.create_array(name, **options, **named)
        if zarr_format == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = list(dims)
        return array

    stored: Document = {"chunks": (chunk or half,) * 2}
    if sharded:
        stored = {"shards": (half, half), "chunks": (half // 2, half // 2)}
    if not compressed:
        stored["compressors"] = None
    height = create(place, "height", ("y", "x"), shape=(size, size), **stored, dtype="f4", fill_value=np.nan)
    values = np.add.outer(np.arange(size), 2 * np.arange(size)).astype("f4")
    height[:half, :half] = values[:half, :half]
    height[half:] = values[half:]
    height.attrs["proj:epsg"] = 32632
    for dim, start, step in (("y", 5e6, -10.0), ("x", 5e5, 10.0)):
        axis = create(place, dim, (dim,), shape=(size,), chunks=(size,), dtype="f8")
        axis[:] = start + step * (np.arange(size) + 0.5)
    if text:
        names = create(root.create_group("info"), "names", ("name",), shape=(2,), dtype="<U4", fill_value="")
        names[:] = np.array(["Brix", "Lech"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata is no part of the v3 specification yet
        zarr.consolidate_metadata(str(path), zarr_format=3 if zarr_format == 3 else 2)
    return path


def write_sentinel2(path: Path, size: int = 540, *, zarr_format: int = 3, level: str = "2A") -> Path:
    """Write a Sentinel-2 product. In Zarr v3 no array has `_FillValue`, and all have a fill value of 0.

    A part of its reflectances is no data, as their attributes say; its classes, probabilities and heights have zeros
    that are values.
    """
    root = zarr.create_group(str(path), zarr_format=3 if zarr_format == 3 else 2)

    def create(place: zarr.Group, name: str, dims: tuple[str, ...], attributes: Document, **stored: Any) -> Any:
        named = {"dimension_names": dims} if zarr_format == 3 else {}
        fill = 0 if zarr_format == 3 or "scale_factor" in attributes else None
        array = place.create_array(name, fill_value=fill, **stored, **named)
        array.attrs.update(attributes if zarr_format == 3 else {**attributes, "_ARRAY_DIMENSIONS": list(dims)})
        return array

    def grid(group: str, pixel: int, arrays: Mapping[str, tuple[str, Document]]) -> None:
        edge = size * 10 // pixel
        place = root.require_group(group)
        rows, columns = np.mgrid[0:edge, 0:edge]
        for number, (name, (dtype, attributes)) in enumerate(arrays.items()):
            chunks = (min(edge, 180),) * 2
            array = create(place, name, ("y", "x"), attributes, shape=(edge, edge), chunks=chunks, dtype=dtype)
            values = (rows + 2 * columns + number) % 11
            if dtype == "u2":
                values = np.where(columns < edge // 3, 0, 2000 + 90 * values)
            array[:] = values
        for name, start, step in (("y", 5_500_020.0, -pixel), ("x", 499_980.0, pixel)):
            axis = create(place, name, (name,), {}, shape=(edge,), chunks=(edge,), dtype="f8")
            axis[:] = start + step * (np.arange(edge) + 0.5)

    utm: Document = {"proj:epsg": 32633}
    counts = ("u2", {"scale_factor": 0.0001, "add_offset": -0.1, "fill_value": 0, "valid_min": 1, **utm})
    bands = {10: ("b02", "b03", "b04", "b08"), 20: ("b02", "b05", "b11"), 60: ("b01", "b02", "b09")}
    for pixel, names in bands.items():
        grid(f"measurements/reflectance/r{pixel}m", pixel, dict.fromkeys(names, counts))
    classes = ("u1", {"flag_values": list(range(12)), **utm})
    heights = ("i2", {"units": "m", "fill_value": -32768, "valid_min": -500, **utm})
    grid("conditions/mask/l2a_classification/r20m", 20, {"scl": classes, "height": heights})
    grid("quality/probability/r20m", 20, {"cld": ("u1", {"valid_min": 0, "valid_max": 100, "units": "%", **utm})})
    root.attrs["stac_discovery"] = {"properties": {"product:type": f"S02MSIL{level}", "proj:code": "EPSG:32633"}}
    root.attrs["other_metadata"] = {"horizontal_CRS_code": "EPSG:32633"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(path), zarr_format=3 if zarr_format == 3 else 2)
    return path


def as_v3(source: Path, path: Path) -> Path:
    """Write a product of Zarr v2 once more, as Zarr v3: a fill value that is none becomes 0."""

    def copy(group: Any, target: Any) -> None:
        target.attrs.update(dict(group.attrs))
        for name, member in group.members():
            if isinstance(member, zarr.Group):
                copy(member, target.create_group(name))
                continue
            attributes = dict(member.attrs)
            dims = attributes.pop("_ARRAY_DIMENSIONS")
            fill: Document = {} if member.fill_value is None else {"fill_value": member.fill_value}
            array = target.create_array(
                name, shape=member.shape, chunks=member.chunks, dtype=member.dtype, dimension_names=dims, **fill
            )
            array.attrs.update(attributes)
            array[...] = member[...]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copy(zarr.open_group(str(source), mode="r", zarr_format=2), zarr.create_group(str(path), zarr_format=3))
        zarr.consolidate_metadata(str(path), zarr_format=3)
    return path


def drop_top_group(store: Path, name: str) -> None:
    """Take one of the root's groups out of a consolidated Zarr v2 store."""
    import shutil

    shutil.rmtree(store / name)
    document = json.loads((store / ".zmetadata").read_bytes())
    kept = {key: node for key, node in document["metadata"].items() if not key.startswith(f"{name}/")}
    (store / ".zmetadata").write_text(json.dumps(document | {"metadata": kept}))


# --- outputs ---------------------------------------------------------------------------------------------------------


def nodes(store: Path) -> dict[str, Document]:
    """Every node's document of a Zarr v3 store as it lies on disk, by absolute path."""
    found = {}
    for document in sorted(store.rglob("zarr.json")):
        place = document.parent.relative_to(store).as_posix()
        found["/" if place == "." else f"/{place}"] = json.loads(document.read_bytes())
    return found


def contents(store: Path) -> Document:
    """Return every file: metadata as what it says, without how this run made it; data as its bytes."""
    found: Document = {}
    for path in store.rglob("*"):
        if path.name == "zarr.json":
            document = json.loads(path.read_bytes())
            document["attributes"].pop(PROVENANCE, None)
            found[str(path.relative_to(store))] = document
        elif path.is_file():
            found[str(path.relative_to(store))] = path.read_bytes()
    return found


def consolidate_again(store: Path) -> None:
    """Consolidate the metadata of an output that was changed."""
    for document in store.rglob("zarr.json"):  # what a group says of those below it would be taken for what they are
        node = json.loads(document.read_bytes())
        if node.pop("consolidated_metadata", None) is not None:
            document.write_text(json.dumps(node))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(store))


def data_groups(store: Path) -> set[str]:
    """The groups that hold arrays."""
    return {path.rpartition("/")[0] or "/" for path, node in nodes(store).items() if node["node_type"] == "array"}


def structure(store: Path, pixels: Iterable[str] = ()) -> Document:
    """What an output holds: groups with the names of their attributes and conventions, arrays, and some pixels.

    Parameters
    ----------
    pixels
        Arrays to sample, in 25 places each.
    """
    found = nodes(store)
    groups: Document = {}
    for path, node in found.items():
        if node["node_type"] == "group":
            conventions = node["attributes"].get("zarr_conventions", [])
            groups[path] = {
                "attributes": sorted(node["attributes"]),
                "conventions": sorted(convention["name"] for convention in conventions),
                "arrays": {},
            }
    for path, node in found.items():
        if node["node_type"] == "array":
            parent, _, name = path.rpartition("/")
            dtype = node["data_type"]["name"] if isinstance(node["data_type"], dict) else node["data_type"]
            shape = "x".join(map(str, node["shape"]))
            dims = " ".join(map(str, node.get("dimension_names") or ()))
            groups[parent or "/"]["arrays"][name] = f"{dtype} ({dims}) {shape}"
    opened = zarr.open_group(str(store), mode="r")
    return {"groups": groups, "pixels": {path: _sampled(opened[path.strip("/")]) for path in pixels}}


def _sampled(array: Any) -> list[float | None]:
    rows, columns = (np.linspace(0, size - 1, 5).astype(int) for size in array.shape[-2:])
    values = np.asarray(array[:], dtype=np.float64)[..., rows[:, None], columns].ravel()
    return [None if np.isnan(value) else float(f"{value:.7g}") for value in values]


def start(*arguments: object, env: Mapping[str, str], command: Sequence[str] = RUNNER) -> subprocess.Popen[str]:
    """Start `geozarr-runner convert ARGUMENTS`."""
    return subprocess.Popen(
        [*command, "convert", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**env),
    )


def finish(process: subprocess.Popen[str], output: Path, timeout: float = PATIENCE) -> Run:
    """Wait for what was started."""
    stdout, stderr = process.communicate(timeout=timeout)
    return Run(process.returncode, stdout, stderr, output)


def alive(pid: int) -> bool:
    """Whether a process is there and at work."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
