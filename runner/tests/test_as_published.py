"""Products and servers as people report them: what becomes of each is known before anything is downloaded.

Each situation is one of a public thread, built anew:

- arrays that do not name their dimensions: https://github.com/source-cooperative/metadata-catalog/issues/145
- latitudes and longitudes as dimensions: https://github.com/xcube-dev/xcube/issues/763
- places as arrays of two dimensions: https://github.com/EOPF-Sample-Service/GDAL-ZARR-EOPF/issues/186
- coordinates that a group has from its parent: https://github.com/pydata/xarray/issues/9077
- steps that are not even, rows from south to north: https://github.com/zarr-developers/geozarr-spec/issues/17
- consolidated metadata that are older than a group: https://github.com/zarr-developers/zarr-python/issues/2921
- a store without a root: https://github.com/ScrollPrize/villa/issues/1758
- NaN in JSON: https://github.com/zarr-developers/zarr-python/issues/412
- collections with a store of their own, links to stores: https://github.com/stac-utils/xpystac/pull/11,
  https://github.com/radiantearth/stac-best-practices/pull/29
- pages in the place of "not found": https://github.com/EarthyScience/Browzarr/issues/331
"""

from __future__ import annotations

import json
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401  for .rio
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from geozarr_runner.errors import GeozarrError, InvalidRequest, ProductBroken, ProductNotFound
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds.grid import UNEVEN, uneven
from geozarr_runner.planning.groups import GroupReport, report
from geozarr_runner.product.sampler import StoredPixels
from runner.tests.support import run, write_terrain

SIZE = 40
type Version = Literal[2, 3]


def scene(size: int = SIZE, *, x: Any = None, y: Any = None, **more: Any) -> xr.Dataset:
    rows, columns = np.mgrid[:size, :size]
    places = {
        "x": 5e5 + 10.0 * (np.arange(size) + 0.5) if x is None else x,
        "y": 5e6 - 10.0 * (np.arange(size) + 0.5) if y is None else y,
    }
    found = xr.Dataset({"red": (("y", "x"), (rows + 2 * columns).astype("f4")), **more}, coords=places)
    return found.rio.write_crs("EPSG:32632")


def write(
    path: Path, data: xr.Dataset, version: Version = 2, *, group: str = "g", consolidated: bool = True, **options: Any
) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.to_zarr(path, group=group, zarr_format=version, consolidated=False, mode="a", **options)
        if consolidated:
            zarr.consolidate_metadata(str(path), zarr_format=version)
    return path


def consolidate(path: Path, version: Version) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(path), zarr_format=version)
    return path


def looked_at(path: Path | str, groups: Any = "/g") -> GroupReport:
    return report(open_product(str(path)), groups, reads=True)


@pytest.fixture(params=[2, 3])
def version(request: pytest.FixtureRequest) -> Version:
    found: Version = request.param
    return found


# --- grids that are none ---------------------------------------------------------------------------------------------


def two_dimensional(path: Path, version: Version) -> Path:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    place = zarr.open_group(str(path), mode="w", zarr_format=version).create_group("g")
    named: dict[str, Any] = {"dimension_names": ("y", "x")} if version == 3 else {}
    for name, values in (("red", rows + columns), ("x", 5e5 + 10 * columns), ("y", 5e6 - 10 * rows)):
        array = place.create_array(name, data=values.astype("f8"), fill_value=np.nan, **named)
        array.attrs.update({"_ARRAY_DIMENSIONS": ["y", "x"], "proj:epsg": 32632})
    return consolidate(path, version)


def two_grids(path: Path, version: Version) -> Path:
    write(path, scene(), version)
    place: Any = zarr.open_group(str(path))["g"]
    named: dict[str, Any] = {"dimension_names": ("y", "x")} if version == 3 else {}
    coarse = place.create_array("swir", data=np.ones((SIZE // 2, SIZE // 2), "f4"), **named)
    coarse.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    return consolidate(path, version)


def without_names(path: Path, version: Version) -> Path:
    write(path, scene(), version)
    for document in path.rglob("zarr.json" if version == 3 else ".zattrs"):
        said = json.loads(document.read_text())
        said.pop("dimension_names", None)
        said.pop("_ARRAY_DIMENSIONS", None)
        document.write_text(json.dumps(said))
    return consolidate(path, version)


def of_degrees(path: Path, version: Version) -> Path:
    return write(path, scene().rename(y="lat", x="lon"), version)


def turned(path: Path, version: Version) -> Path:
    data = scene()
    data["red"] = data["red"].transpose("x", "y")
    return write(path, data, version)


def inherited(path: Path, version: Version) -> Path:
    data = scene()
    tree = xr.DataTree.from_dict({"/": data.drop_vars("red"), "/g": data[["red"]].drop_vars(["x", "y", "spatial_ref"])})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree.to_zarr(path, zarr_format=version, write_inherited_coords=False)
    return path


def single(path: Path, version: Version) -> Path:
    return write(path, scene(1), version)


def named_like_an_overview(path: Path, version: Version) -> Path:
    return write(path, scene(520, r2=(("y", "x"), np.ones((520, 520), "u1"))), version)


def ascending(path: Path, version: Version) -> Path:
    return write(path, scene(y=5e6 + 10.0 * np.arange(SIZE)), version)


def falling(path: Path, version: Version) -> Path:
    return write(path, scene(x=5e5 - 10.0 * np.arange(SIZE)), version)


def bent(path: Path, version: Version) -> Path:
    return write(path, scene(y=5e6 - 10.0 * np.arange(SIZE) - np.arange(SIZE) ** 1.5), version)


def across_180(path: Path, version: Version) -> Path:
    return write(path, scene(x=(179.8 + 0.01 * np.arange(SIZE) + 180) % 360 - 180), version)


def of_nothing(path: Path, version: Version) -> Path:
    return write(path, scene(x=np.full(SIZE, 5e5)), version)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (two_dimensional, "each pixel has a place of its own"),
        (two_grids, "xarray opens no group of two grids"),
        (without_names, "do not name their dimensions"),
        (of_degrees, ".rename({'lat': 'y', 'lon': 'x'})"),
        (turned, "turn it with xarray"),
        (inherited, "writes those of a parent into each group"),
        (single, "one pixel, whose size nothing says"),
        (named_like_an_overview, ".rename({'r2': 'band_r2'})"),
        (ascending, ".sortby('y', ascending=False)"),
        (falling, ".sortby('x', ascending=True)"),
        (bent, "its y has no even steps"),
        (across_180, "its x has no even steps"),
        (of_nothing, "all the same"),
    ],
)
def test_what_no_transform_places_is_refused_with_what_to_type(
    make: Callable[[Path, Version], Path], why: str, version: Version, tmp_path: Path
) -> None:
    path = make(tmp_path / "p.zarr", version)
    for groups in ("/g", []):
        found = looked_at(path, groups)
        assert not found.ok
        assert not found.found
        assert why in f"{found.refused} {found.unfit}"


def test_nothing_is_staged_of_a_grid_without_even_steps(tmp_path: Path) -> None:
    path = bent(tmp_path / "p.zarr", 3)
    done = run(path, tmp_path / "out.zarr", "--groups", "/g")
    assert (done.code, done.error["code"]) == (2, "groups-missing")
    assert not [event for event in done.of("stage") if event["stage"] != "preflight"]


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(2, 400),
    start=st.floats(-180, 180),
    step=st.floats(1e-3, 1.0),
    off=st.floats(0, 1),
    dtype=st.sampled_from(["f4", "f8"]),
    data=st.data(),
)
def test_a_place_that_is_off_by_more_than_a_tenth_is_seen(
    size: int, start: float, step: float, off: float, dtype: str, data: st.DataObject
) -> None:
    """The truth is what the axis was made of. Float32 is exact to less than that, as long as it is exact at all."""
    values = start + step * np.arange(size)
    place = data.draw(st.integers(1, size - 2)) if size > 2 else 0
    if size > 2:
        values[place] += off * step
    rounded = values.astype(dtype)
    group, source = in_memory(rounded)
    error = abs(rounded.astype("f8") - values).max() / step
    moved = off if size > 2 else 0.0
    if moved + 3 * error < 0.9 * UNEVEN:
        assert uneven(group, source) is None
    if moved - 3 * error > 1.1 * UNEVEN:
        assert "no even steps" in str(uneven(group, source))


def in_memory(axis: np.ndarray[Any, Any]) -> tuple[Any, StoredPixels]:
    """Return a group whose only axis is one, and what reads it."""
    from geozarr_runner.product.model import Array, Group

    array = Array("/g/x", axis.shape, axis.shape, axis.dtype.str, ("x",), {}, {})

    class Source(StoredPixels):
        def __init__(self) -> None:
            pass

        def read(self, array: Array, window: Any) -> Any:
            return axis.astype("f8")

    return Group("/g", (array,), {}), Source()


# --- what is right ---------------------------------------------------------------------------------------------------


def cube(path: Path, version: Version) -> Path:
    times = pd.DatetimeIndex(["2025-01-01", "2025-01-06", "2025-01-11"], name="time")
    data = xr.concat([scene(300), scene(300) + 1, scene(300) + 2], dim=times)
    data = data.assign(where=("y", np.arange(300.0)))
    return write(path, data.drop_vars("where"), version)


def packed_axes(path: Path, version: Version) -> Path:
    """Coordinates as packed integers, float32 degrees nearby, NaN and Infinity in attributes."""
    data = scene(300)
    data.attrs["noise"] = float("nan")
    data["red"].attrs["limit"] = float("inf")
    packed = {"dtype": "i4", "scale_factor": 0.5, "_FillValue": -1}
    return write(
        path,
        data,
        version,
        encoding={"x": {**packed, "add_offset": 5e5}, "y": {**packed, "add_offset": 4e6}},
    )


def test_an_axis_with_its_fill_value_in_it_is_what_xarray_reads(version: Version, tmp_path: Path) -> None:
    axis = 10.0 * np.arange(-20, 20)
    path = write(tmp_path / "p.zarr", scene(x=axis.astype("i4"), y=-axis), version)
    for name in ("x", "y"):
        document = path / "g" / name / ("zarr.json" if version == 3 else ".zarray")
        document.write_text(json.dumps(json.loads(document.read_text()) | {"fill_value": 0}))
    read = xr.open_dataset(consolidate(path, version), group="g", engine="zarr")
    assert looked_at(path).ok == bool(read["x"].notnull().all())
    assert looked_at(path).ok == (version == 3)


def test_packed_axes_and_attributes_that_are_no_numbers_are_read(version: Version, tmp_path: Path) -> None:
    assert looked_at(packed_axes(tmp_path / "p.zarr", version)).ok


@pytest.mark.converter
@pytest.mark.parametrize("make", [cube, packed_axes])
def test_it_is_converted_as_xarray_reads_it(make: Callable[[Path, Version], Path], tmp_path: Path) -> None:
    path = make(tmp_path / "p.zarr", 2)
    done = run(path, tmp_path / "out.zarr", "--groups", "/g")
    assert done.code == 0, done.stdout + done.stderr
    expected = xr.open_dataset(path, group="g", engine="zarr")
    with xr.open_dataset(done.output, group="g", engine="zarr") as found:
        for name in ("red", "x", "y", *(["time"] if "time" in expected else [])):
            np.testing.assert_array_equal(found[name], expected[name])
    json.loads((done.output / "zarr.json").read_text(), parse_constant=pytest.fail)


# --- metadata and stores ---------------------------------------------------------------------------------------------


def test_a_group_that_consolidated_metadata_do_not_know_is_not_called_missing(version: Version, tmp_path: Path) -> None:
    path = write(tmp_path / "p.zarr", scene(), version)
    write(path, scene(), version, group="later", consolidated=False)
    found = looked_at(path, "/later /never")
    assert found.missing == ("/never",)
    assert "consolidate them again" in found.unfit["/later"]
    consolidate(path, version)
    assert looked_at(path, "/later").ok


def test_a_folder_of_stores_names_them(version: Version, tmp_path: Path) -> None:
    path = write(tmp_path / "p.zarr", scene(), version, group="horizontal")
    for document in (".zgroup", ".zattrs", ".zmetadata", "zarr.json"):
        (path / document).unlink(missing_ok=True)
    with pytest.raises(ProductNotFound) as caught:
        open_product(str(path))
    assert "horizontal" in caught.value.remedy


def test_of_a_whole_product_no_group_is_converted_beside_its_place(version: Version, tmp_path: Path) -> None:
    path = bent(tmp_path / "p.zarr", version)
    write(path, scene(), version, group="even")
    found = looked_at(path, [])
    assert (found.ok, found.available) == (False, ("/even",))
    assert "no even steps" in found.unfit["/g"]
    refused = run(path, tmp_path / "out.zarr")
    assert (refused.code, refused.error["code"]) == (2, "groups-missing")
    assert "/even" in str(refused.error["remedy"])
    assert looked_at(path, "/even").ok


# --- STAC ------------------------------------------------------------------------------------------------------------


def item(path: Path, **changes: Any) -> dict[str, Any]:
    document = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "scene",
        "geometry": None,
        "properties": {"datetime": "2025-01-01T00:00:00Z"},
        "assets": {},
        "links": [{"rel": "store", "href": str(path), "type": "application/vnd+zarr; version=2"}],
    }
    return document | changes


@pytest.mark.parametrize("name", ["p.zarr", "data"])
def test_an_item_may_link_to_its_store(name: str, tmp_path: Path) -> None:
    path = write_terrain(tmp_path / name, zarr_format=2, size=32)
    assert open_product(item(path)).url == str(path)
    asset = {"href": f"{path}/dem", "type": "application/vnd+zarr; version=2", "roles": ["data"]}
    product = open_product(item(path, assets={"heights": asset}))
    assert (product.url, product.proposed) == (str(path), ("/dem",))


def test_a_linked_store_has_to_be_one_that_may_be_named(tmp_path: Path) -> None:
    path = write_terrain(tmp_path / "p.zarr", zarr_format=2, size=32)
    of_web = item(path)
    of_web["links"].append({"rel": "root", "href": "https://stac.example.com/"})
    for document in (of_web, item(Path("file::simplecache::/etc"))):
        with pytest.raises(GeozarrError):
            open_product(document)


def test_a_collection_that_is_a_store_itself_says_so(tmp_path: Path) -> None:
    path = write_terrain(tmp_path / "daily.zarr", zarr_format=2, size=32)
    collection = {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": "daily",
        "links": [],
        "assets": {"zarr": {"href": str(path), "type": "application/vnd+zarr", "roles": ["data"]}},
    }
    with pytest.raises(InvalidRequest) as caught:
        open_product(collection)
    assert f'geozarr_nb.inspect("{path}")' in caught.value.remedy
    with pytest.raises(InvalidRequest) as caught:
        open_product(collection | {"assets": {}})
    assert "inspect" not in caught.value.remedy


# --- servers that do not say "not found" -----------------------------------------------------------------------------

PAGE = b"<!doctype html><html><body>an application</body></html>"


@contextmanager
def soft_server(folder: Path, answer: tuple[int, bytes]) -> Iterator[str]:
    """Serve a folder, with an answer of its own for what is not there."""

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            file = folder / self.path.lstrip("/")
            status, body = (200, file.read_bytes()) if file.is_file() else answer
            self.send_response(status)
            self.send_header("Content-Type", "application/octet-stream" if file.is_file() else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("answer", [(200, PAGE), (200, b""), (204, b"")], ids=["page", "nothing", "204"])
def test_a_page_in_place_of_not_found_is_no_document_and_no_chunk(
    answer: tuple[int, bytes], version: Version, tmp_path: Path
) -> None:
    """The product is seen. Of a chunk nobody can tell whether it was never stored: nothing is made of it."""
    path = write_terrain(tmp_path / "sparse.zarr", zarr_format=version, size=64)
    whole = shutil.copytree(path, tmp_path / "whole.zarr")
    height: Any = zarr.open_group(str(whole))["dem/height"]
    height[:] = 1.0
    with soft_server(tmp_path, answer) as url:
        assert open_product(f"{url}/{whole.name}").groups.keys() == {"/dem"}
        assert looked_at(f"{url}/{whole.name}", "/dem").ok
        with pytest.raises(ProductBroken):
            open_product(f"{url}/none.zarr")
        done = run(f"{url}/{path.name}", tmp_path / "out.zarr", "--groups", "/dem")
    assert (done.code, done.error["code"]) == (3, "product-broken")
    assert "is not what its array says" in str(done.error["message"])
