"""Wrong outputs of every kind and format are refused with their reason, and the right ones pass.

One output of each kind, format and way of storing is made, and each mutation spoils a copy of it. One that passes is a
fault of the verification. `test_verify.py` spoils the structure, `test_no_data.py` the encodings, and
`test_absence.py` what is stored.
"""

from __future__ import annotations

import io
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.typing import NDArray

from geozarr_runner.errors import GeozarrError, VerificationFailed
from geozarr_runner.events import Reporter
from geozarr_runner.planning.preflight import Plan, preflight
from geozarr_runner.spec.request import Request
from geozarr_runner.verification.verify import verify
from runner.tests.formats import in_v3
from runner.tests.support import R10M, as_v3, consolidate_again, run, write_sentinel2
from tests.products import made_once, sample

type Values = NDArray[Any]
SCENE = "/S01SIWGRD_20241124T180254_0025_A324_BA27_06F516"
GRID = "/terrain"


@dataclass(frozen=True)
class Kind:
    """An output to be made and spoilt.

    Attributes
    ----------
    group, band
        Where it holds a variable at its native level.
    other
        The path of another variable of the same shape.
    asked
        The groups that are asked for; none for the whole product.
    """

    name: str
    group: str
    band: str
    other: str
    asked: tuple[str, ...] = ()
    is_packed: bool = False
    has_grid: bool = True
    is_warped: bool = False

    @property
    def path(self) -> str:
        return f"{self.group}/{self.band}"[1:]


def _sentinel2(name: str, **more: Any) -> Kind:
    return Kind(name, R10M, "b02", f"{R10M}/b03", **more)


def _radar(name: str) -> Kind:
    place = f"{SCENE}_VH/measurements"
    return Kind(name, place, "grd", f"{SCENE}_VV/measurements/grd", asked=("/measurements",), is_warped=True)


def _olci(name: str) -> Kind:
    group = "/measurements/r0"
    return Kind(name, group, "oa08_radiance", f"{group}/oa10_radiance", asked=("/measurements",), has_grid=False)


KINDS = [
    _sentinel2("s2-l2a-v2", asked=(R10M,)),
    _sentinel2("s2-l2a-v3", asked=(R10M,)),
    _sentinel2("s2-all-v2", is_packed=True),
    _sentinel2("s2-l2a-v3", is_packed=True),
    _sentinel2("s2-l1c-v2", asked=(R10M,)),
    _sentinel2("s2-l1c-v3", asked=(R10M,)),
    _radar("s1-grd-v2"),
    _radar("s1-grd-v3"),
    _olci("s3-efr-v2"),
    _olci("s3-err-v3"),
    Kind("grid-v2", GRID, "height", f"{GRID}/depth", asked=(GRID,)),
    Kind("grid-v3", GRID, "height", f"{GRID}/depth", asked=(GRID,)),
]


def _declared(store: Path, old: str, new: str) -> None:
    """Let a product say that it is of another type."""
    for name in (".zattrs", ".zmetadata"):
        text = (store / name).read_text(encoding="utf-8")
        assert old in text
        (store / name).write_text(text.replace(old, new), encoding="utf-8")


def write_grid(path: Path, zarr_format: int) -> None:
    """Write a product of no known kind: heights with a hole, classes, a mask, and a cube of named and dated layers."""
    rows, columns = np.mgrid[0:300, 0:300]
    height = (rows + 2.0 * columns).astype("f4")
    height[40:90, 50:120] = np.nan
    layers = np.stack([height + 1000 * number for number in range(3)])
    utm = {"proj:epsg": 32633}
    grid = xr.Dataset(
        {
            "height": (("y", "x"), height, utm),
            "depth": (("y", "x"), -height, utm),
            "classes": (("y", "x"), ((rows + columns) % 7).astype("u1"), utm),
            "water": (("y", "x"), (rows // 20 + columns // 30) % 3 == 0, utm),
            "cube": (("band", "y", "x"), layers.astype("f4"), utm),
        },
        {
            "y": 5_399_995.0 - 10 * np.arange(300),
            "x": 500_005.0 + 10 * np.arange(300),
            "band": [10, 20, 30],
            "label": ("band", ["first", "second", "third"]),
            "taken": ("band", np.array(["2025-01-01", "2025-02-01", "2025-03-01"], "M8[ns]")),
        },
    )
    encoding: dict[str, Any] = {name: {"_FillValue": np.float32(-9999)} for name in ("height", "depth", "cube")}
    encoding["cube"]["chunks"] = (1, 150, 150)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grid.to_zarr(path, group=GRID[1:], zarr_format=3 if zarr_format == 3 else 2, encoding=encoding)
        zarr.consolidate_metadata(str(path), zarr_format=3 if zarr_format == 3 else 2)


def _product(name: str, products: Path) -> Path:
    """Return a product, made once."""
    kind, _, version = name.rpartition("-")
    if kind == "grid":
        return made_once(products, f"{name}.zarr", lambda path: write_grid(path, int(version[1:])))
    if kind == "s2-all":  # the converter packs products of Zarr v2 that have every group
        return sample(products, "s2-small.zarr", 180, "s2-l2a")
    if kind.startswith("s2"):
        level, zarr_format = kind[-2:].upper(), int(version[1:])
        return made_once(
            products,
            f"{name}.zarr",
            lambda path: write_sentinel2(path, 360, zarr_format=zarr_format, level=level),
        )
    s1, s3 = sample(products, "s1.zarr", 300, "s1-grd"), sample(products, "s3-small.zarr", 120, "s3-olci")

    def err(path: Path) -> None:
        old = Path(shutil.copytree(s3, path.with_suffix(".v2")))
        _declared(old, "S03OLCEFR", "S03OLCERR")
        in_v3(old, path)
        shutil.rmtree(old)

    match name:
        case "s1-grd-v2":
            return s1
        case "s1-grd-v3":
            return made_once(products, "s1-v3.zarr", lambda path: as_v3(s1, path))
        case "s3-efr-v2":
            return s3
        case _:
            return made_once(products, "s3-err-v3.zarr", err)


@dataclass(frozen=True)
class Made:
    """A right output, and how it was asked for."""

    kind: Kind
    product: Path
    output: Path

    @cached_property
    def plan(self) -> Plan:
        request = Request.of(
            self.product, self.output.with_name("other.zarr"), groups=list(self.kind.asked), packed=self.kind.is_packed
        )
        return preflight(request, Reporter(io.StringIO()))


def _id(kind: Kind) -> str:
    return f"{kind.name}{'-packed' if kind.is_packed else ''}"


# One of each kind, format and way of storing; the others are the night's.
OFTEN = {"s2-l2a-v2", "s2-l2a-v3-packed", "s1-grd-v3", "s3-efr-v2", "grid-v3"}


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=() if _id(kind) in OFTEN else pytest.mark.nightly) for kind in KINDS],
    ids=_id,
)
def made(request: pytest.FixtureRequest, products: Path, shared: Path, replaying: dict[str, str]) -> Made:
    kind: Kind = request.param
    product = _product(kind.name, products)

    def make(folder: Path) -> None:
        folder.mkdir()
        options = [
            *(("--groups", ",".join(kind.asked)) if kind.asked else ()),
            *(("--packed",) if kind.is_packed else ()),
        ]
        done = run(product, folder / "out.zarr", *options, env=replaying)
        assert done.code == 0, done.stdout + done.stderr

    return Made(kind, product, made_once(shared / "mutation", _id(kind), make) / "out.zarr")


@pytest.fixture
def spoilt(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.output, tmp_path / "out.zarr"))


def check(made: Made, output: Path) -> None:
    verify(made.plan, made.plan.product.url, output, lambda done, total, unit: None)


# --- how outputs are spoilt ------------------------------------------------------------------------------------------


def read(store: Path, path: str) -> Values:
    group, _, name = path.strip("/").rpartition("/")
    return np.asarray(xr.open_dataset(store, group=group, engine="zarr", decode_times=False)[name].values)


def write(store: Path, path: str, values: Values, chunk: int | None = None) -> None:
    """Write decoded values in a variable's place, as they are."""
    path = path.strip("/")
    old: Any = zarr.open_array(str(store / path), mode="r")
    encoded = (
        "scale_factor",
        "add_offset",
        "_FillValue",
        "missing_value",
        "fill_value",
        "dtype",
        "valid_min",
        "valid_max",
    )
    attributes = {name: value for name, value in old.attrs.asdict().items() if name not in encoded}
    names = old.metadata.dimension_names
    shutil.rmtree(store / path)
    array = zarr.create_array(
        str(store / path),
        shape=values.shape,
        dtype=values.dtype,
        chunks=tuple(min(chunk or size, size) for size in values.shape),
        fill_value=np.nan if values.dtype.kind == "f" else 0,
        dimension_names=names,
        attributes=attributes,
    )
    array[...] = values
    consolidate_again(store)


def edit(store: Path, path: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a node's attributes."""
    document = store / path.strip("/") / "zarr.json"
    node = json.loads(document.read_bytes())
    change(node["attributes"])
    document.write_text(json.dumps(node))
    consolidate_again(store)


def objects(store: Path, path: str) -> list[Path]:
    return sorted(file for file in (store / path / "c").rglob("*") if file.is_file())


def a_lost_chunk(store: Path, kind: Kind) -> None:
    """One of many, and not the one in the middle."""
    values = read(store, kind.path)
    write(store, kind.path, values, chunk=32)
    holds = [
        (row, column)
        for row in range(0, values.shape[0] - 32, 32)
        for column in range(0, values.shape[1] - 32, 32)
        if np.isfinite(values[row : row + 32, column : column + 32]).all()
    ]
    row, column = holds[len(holds) // 5]
    (store / kind.path / "c" / str(row // 32) / str(column // 32)).unlink()


def a_cut_off_object(store: Path, kind: Kind) -> None:
    file = objects(store, kind.path)[-1]
    file.write_bytes(file.read_bytes()[:-1])


def no_data_is_a_number(store: Path, kind: Kind) -> None:
    write(store, kind.path, np.nan_to_num(read(store, kind.path), nan=-0.1).astype("f4"))


def no_data_is_zero(store: Path, kind: Kind) -> None:
    write(store, kind.path, np.nan_to_num(read(store, kind.path)).astype("f4"))


def an_empty_band(store: Path, kind: Kind) -> None:
    write(store, kind.path, np.full_like(read(store, kind.path), np.nan))


def swapped_bands(store: Path, kind: Kind) -> None:
    (store / kind.path / "c").rename(store / "kept")
    (store / kind.other[1:] / "c").rename(store / kind.path / "c")
    (store / "kept").rename(store / kind.other[1:] / "c")


def doubles_of_other_values(store: Path, kind: Kind) -> None:
    factor = 1.5 if kind.is_warped else 1.0002  # what is warped is between its neighbours
    write(store, kind.path, read(store, kind.path).astype("f8") * factor + 1e-3)


def half_a_pixel_of_pixels(store: Path, kind: Kind) -> None:
    """The image lies half a pixel beside its place."""
    values = read(store, kind.path).astype("f4")
    write(store, kind.path, (values + np.roll(values, 1, axis=1)) / 2)


def half_a_pixel_of_x(store: Path, kind: Kind) -> None:
    values = read(store, f"{kind.group}/x").astype("f8")
    write(store, f"{kind.group}/x", values + (values[1] - values[0]) / 2)


def half_a_pixel_of_the_transform(store: Path, kind: Kind) -> None:
    def move(attributes: dict[str, Any]) -> None:
        for level in attributes["multiscales"]["layout"]:
            if "spatial:transform" in level:
                level["spatial:transform"][2] += level["spatial:transform"][0] / 2
        if "spatial:transform" in attributes:
            attributes["spatial:transform"][2] += attributes["spatial:transform"][0] / 2

    path = kind.group
    if "multiscales" not in json.loads((store / path[1:] / "zarr.json").read_bytes())["attributes"]:
        path = path.rpartition("/")[0]
    edit(store, path, move)


def half_a_pixel_of_the_box(store: Path, kind: Kind) -> None:
    y = read(store, f"{kind.group}/y")
    step = (y[1] - y[0]) / 2
    edit(store, kind.group, lambda node: node["spatial:bbox"].__setitem__(1, node["spatial:bbox"][1] + step))


def a_stale_coordinate(store: Path, kind: Kind) -> None:
    """That of another scene."""
    values = read(store, f"{kind.group}/y").astype("f8")
    write(store, f"{kind.group}/y", values + 40 * (values[-1] - values[0]))


def the_end_of_a_coordinate(store: Path, kind: Kind) -> None:
    values = read(store, f"{kind.group}/x").astype("f8")
    values[-3:] += 2 * (values[1] - values[0])
    write(store, f"{kind.group}/x", values)


def a_lost_coordinate(store: Path, kind: Kind) -> None:
    for file in objects(store, f"{kind.group}/y"[1:]):
        file.unlink()


def another_crs(store: Path, kind: Kind) -> None:
    edit(store, kind.group, lambda node: node.update({"proj:code": "EPSG:32701"}))


def another_crs_of_readers(store: Path, kind: Kind) -> None:
    """The one that rioxarray and GDAL read."""
    from pyproj import CRS

    wkt = CRS.from_epsg(32701).to_wkt()
    edit(store, f"{kind.group}/spatial_ref", lambda node: node.update({"crs_wkt": wkt, "spatial_ref": wkt}))


BANDS: dict[Callable[[Path, Kind], None], str] = {
    a_lost_chunk: "is not stored, and reads as|differ from the source|are no data, where",
    a_cut_off_object: "cut off",
    no_data_is_a_number: "-0.1 instead of nan|-0.1, where the source has no data",
    no_data_is_zero: "e.g. 0 instead of nan|e.g. 0, where the source has no data",
    an_empty_band: "differ from the source|its middle holds no data",
    swapped_bands: "differ from the source|are not among the source's",
    doubles_of_other_values: "differ from the source|are not among the source's|beside its place",
    half_a_pixel_of_pixels: "differ from the source|beside its place",
}
PLACES: dict[Callable[[Path, Kind], None], str] = {
    half_a_pixel_of_x: "x and y say|differ from the source",
    half_a_pixel_of_the_transform: "its spatial:transform is .*, where its x and y say",
    half_a_pixel_of_the_box: "its spatial:bbox is .*, where its x and y say",
    a_stale_coordinate: "x and y say|differ from the source",
    the_end_of_a_coordinate: "differ from the source|does not go on in equal steps",
    a_lost_coordinate: "differ from the source|does not go on in equal steps",
    another_crs: "EPSG:32701",
    another_crs_of_readers: "EPSG:32701",
}


def _name(value: Any) -> str:
    return getattr(value, "__name__", "")


def test_the_right_output_passes(made: Made) -> None:
    check(made, made.output)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_same_values_stored_in_another_way_pass(made: Made, spoilt: Path, dtype: str) -> None:
    values = read(made.output, made.kind.path)
    write(spoilt, made.kind.path, values.astype(dtype), chunk=64)
    check(made, spoilt)


@pytest.mark.parametrize("spoil", BANDS, ids=_name)
def test_wrong_pixels_are_refused(spoil: Callable[[Path, Kind], None], made: Made, spoilt: Path) -> None:
    if spoil in (no_data_is_a_number, no_data_is_zero):
        assert np.isnan(read(made.output, made.kind.path)).any(), "there is something to spoil"
    spoil(spoilt, made.kind)
    with pytest.raises(VerificationFailed, match=BANDS[spoil]) as caught:
        check(made, spoilt)
    assert made.kind.band in caught.value.message


@pytest.mark.parametrize("spoil", PLACES, ids=_name)
def test_wrong_places_are_refused(spoil: Callable[[Path, Kind], None], made: Made, spoilt: Path) -> None:
    if not made.kind.has_grid:
        pytest.skip("it lies along a swath")
    spoil(spoilt, made.kind)
    with pytest.raises(VerificationFailed, match=PLACES[spoil]) as caught:
        check(made, spoilt)
    assert made.kind.group in caught.value.message


def test_a_group_that_says_of_an_array_what_it_does_not_is_refused(made: Made, spoilt: Path) -> None:
    """A reader of the group takes its word: for another scale, say."""
    document = spoilt / made.kind.group[1:] / "zarr.json"
    zarr.consolidate_metadata(str(document.parent))
    check(made, spoilt)
    node = json.loads(document.read_bytes())
    node["consolidated_metadata"]["metadata"][made.kind.band]["attributes"]["scale_factor"] = 10.0
    document.write_text(json.dumps(node))
    with pytest.raises(
        VerificationFailed, match=f"{made.kind.group}: its consolidated metadata says of /{made.kind.path}"
    ):
        check(made, spoilt)


@pytest.mark.parametrize("name", ["latitude", "longitude"])
def test_wrong_places_of_a_swath_are_refused(name: str, made: Made, spoilt: Path) -> None:
    if made.kind.has_grid:
        pytest.skip("it lies on a grid")
    path = f"{made.kind.group}/{name}"
    values = read(spoilt, path)
    write(spoilt, path, (values + np.roll(values, 1, axis=0)) / 2)
    with pytest.raises(VerificationFailed, match=f"{path}: .*differ from the source"):
        check(made, spoilt)


def relabelled(values: Values) -> Values:
    return np.roll(values, 1)


def swapped_layers(values: Values) -> Values:
    return values[[1, 0, 2]]


def inverted(values: Values) -> Values:
    return ~values.astype(bool)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("band", relabelled),
        ("label", relabelled),
        ("taken", relabelled),
        ("cube", swapped_layers),
        ("water", inverted),
        ("classes", relabelled),
    ],
)
def test_each_variable_and_coordinate_of_a_grid_is_compared(
    name: str, change: Callable[[Values], Values], made: Made, spoilt: Path
) -> None:
    if made.kind.group != GRID:
        pytest.skip("of other kinds their bands are")
    array: Any = zarr.open_array(str(spoilt / GRID[1:] / name), mode="r+")
    array[...] = change(np.asarray(array[...]))
    with pytest.raises(VerificationFailed, match=f"{GRID}/{name}: .*differ from the source"):
        check(made, spoilt)


# --- wrong inputs ----------------------------------------------------------------------------------------------------


def source_objects(product: Path, kind: Kind) -> list[Path]:
    group = kind.group.removesuffix("/r0")[1:]
    folder = product / group / kind.band
    return sorted(
        file for file in folder.rglob("*") if file.is_file() and not file.name.startswith((".z", "zarr.json"))
    )


def lost(file: Path) -> None:
    file.unlink()


def emptied(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("spoil", [lost, emptied])
def test_an_output_is_not_of_an_input_that_lacks_its_pixels(
    spoil: Callable[[Path], None], made: Made, tmp_path: Path
) -> None:
    product = Path(shutil.copytree(made.product, tmp_path / made.product.name))
    for file in source_objects(product, made.kind):
        spoil(file)
    reasons = "differ from the source|where the source has no data|are not among the source's|cannot be decoded"
    with pytest.raises(GeozarrError, match=reasons):
        check(Made(made.kind, product, made.output), made.output)


def test_an_input_that_is_cut_off_is_refused_before_it_is_converted(
    made: Made, tmp_path: Path, fake_converter: Callable[[str], dict[str, str]]
) -> None:
    if made.kind.is_packed or "l1c" in made.kind.name:
        pytest.skip("the input is staged as of the others")
    product = Path(shutil.copytree(made.product, tmp_path / made.product.name))
    file = source_objects(product, made.kind)[-1]
    file.write_bytes(file.read_bytes()[:-1])
    groups = ("--groups", ",".join(made.kind.asked))
    done = run(product, tmp_path / "out.zarr", *groups, env=fake_converter("sys.exit('enough')"))
    assert (done.code, done.error["code"], done.error["given"]) == (3, "product-broken", str(file))
    assert "cut off" in str(done.error["message"])
