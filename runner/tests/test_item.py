"""The STAC item beside an output, of real runs: valid without a network, and its hrefs lead to what it describes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
import xarray as xr
import zarr
from pyproj import CRS
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from shapely.geometry import shape

from benchmarks.server import ProductServer
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.product.model import Product
from geozarr_runner.publishing import stac_item as items
from geozarr_runner.publishing.root_document import provenance
from runner.tests.support import R10M, R60M, Run, beside, run, start, until

ACROSS = {"type": "Polygon", "coordinates": [[[-179.5, 1], [179.5, 1], [179.5, 2], [-179.5, 2]]]}
PLACED = {"type": "Polygon", "coordinates": [[[11.0, 42.0], [12.0, 42.0], [12.0, 43.0], [11.0, 43.0], [11.0, 42.0]]]}


def item_of(output: Path) -> pystac.Item:
    """Read the item of an output; what is no valid STAC fails the test."""
    item = pystac.Item.from_file(items.address_of(output))
    validated(item)
    item.make_asset_hrefs_absolute()
    return item


def validated(item: pystac.Item) -> None:
    """Check the item itself by the schemas that pystac ships; it has none of extensions, but classes that know them."""
    core = item.clone()
    core.stac_extensions = []
    core.validate()
    for asset in (asset for key, asset in item.assets.items() if key != items.STORE_ASSET):
        bands = RasterExtension.ext(asset).bands
        assert bands is not None
        assert [band["name"] for band in asset.extra_fields["bands"]] != []
        assert len(asset.extra_fields["bands"]) == len(bands)
        assert all(band.data_type is not None for band in bands)
        assert ProjectionExtension.ext(asset).shape is not None


@pytest.fixture(scope="module")
def l1c(s2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A product that says that it is of level 1C."""
    store = Path(shutil.copytree(s2, tmp_path_factory.mktemp("products") / "S2B_MSIL1C_20251008T100041.zarr"))
    for name in (".zattrs", ".zmetadata"):
        text = (store / name).read_text(encoding="utf-8")
        (store / name).write_text(text.replace("S02MSIL2A", "S02MSIL1C"), encoding="utf-8")
    return store


def test_the_item_of_a_group(good: Run, s2: Path) -> None:
    item = item_of(good.output)
    assert item.id == f"{s2.stem}_out"
    assert item.datetime == datetime(2025, 10, 8, 10, 0, 41, 24000, UTC)
    assert item.geometry is not None
    assert item.geometry["type"] == "Polygon"
    assert item.bbox == pytest.approx([11.427, 42.326, 11.561, 42.427], abs=0.1)
    assert list(item.assets) == ["product", R10M[1:]]
    assert {asset.media_type for asset in item.assets.values()} == {"application/vnd+zarr; version=3"}
    assert item.assets["product"].href == str(good.output)
    assert item.assets["product"].extra_fields["zarr:consolidated"] is True
    assert ProjectionExtension.ext(item).code == "EPSG:32632"
    grid = ProjectionExtension.ext(item.assets[R10M[1:]])
    assert grid.shape == [540, 540]
    assert grid.transform == [10.0, 0.0, 699960.0, 0.0, -10.0, 4700040.0]
    [first, *_] = RasterExtension.ext(item.assets[R10M[1:]]).bands or ()
    assert (first.data_type, first.nodata, first.spatial_resolution) == ("float64", "nan", 10.0)
    assert good.result.get("item") is None, "the events are as they were"


def test_where_it_comes_from(good: Run, s2: Path) -> None:
    item, record = item_of(good.output), provenance(good.output) or {}
    [source] = item.get_links(pystac.RelType.DERIVED_FROM)
    assert source.href == str(s2)
    said = item.properties
    assert said["processing:software"] == record["versions"]
    assert said["processing:expression"]["expression"]["groups"] == [R10M]
    assert said["processing:datetime"] == record["finished"]
    assert said["geozarr:request"] == "request-1"
    assert "geozarr:image" not in said
    assert said["platform"] == "sentinel-2a"
    assert str(record["verified"]["pixels_compared"]) in said["processing:lineage"]


def test_its_hrefs_open(good: Run) -> None:
    item = item_of(good.output)
    tree = xr.open_groups(item.assets["product"].href, engine="zarr", consolidated=True)
    group = xr.open_zarr(item.assets[R10M[1:]].href, consolidated=True)
    assert group.b02.shape == (540, 540)
    np.testing.assert_array_equal(group.b02[:4, :4], tree[R10M]["b02"][:4, :4])


def test_an_output_that_was_moved_takes_its_item_along(good: Run, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(good.output, tmp_path / "out.zarr"))
    shutil.copy(items.address_of(good.output), tmp_path)
    assert item_of(moved).assets["product"].href == str(moved)


@pytest.mark.parametrize(
    ("kind", "groups", "assets", "code"),
    [
        ("l1c", (R60M,), [R60M], "EPSG:32632"),
        ("s1", (), ["VH/measurements", "VV/measurements"], "EPSG:4326"),
        ("s3", (), ["/measurements/r0"], None),
        ("terrain", (), ["/dem"], "EPSG:32632"),
    ],
)
def test_other_kinds(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kind: str,
    groups: tuple[str, ...],
    assets: list[str],
    code: str | None,
) -> None:
    product: Path = request.getfixturevalue(kind)
    output = tmp_path / "out.zarr"
    assert run(product, output, *(("--groups", *groups) if groups else ())).result
    item = item_of(output)
    keys = [key for key in item.assets if key != "product"]
    assert len(keys) == len(assets)
    assert all(key.endswith(wanted.lstrip("/")) for key, wanted in zip(keys, assets, strict=True))
    assert item.properties.get("proj:code") == code
    for key in keys:
        asset = item.assets[key]
        opened = xr.open_zarr(asset.href, consolidated=asset.extra_fields["zarr:consolidated"])
        [name] = {"grd", "height", "oa08_radiance", "b02"} & set(opened.variables)
        assert list(opened[name].shape) == ProjectionExtension.ext(item.assets[key]).shape
    if kind == "s3":  # packed integers over a period of minutes
        band = (RasterExtension.ext(item.assets["measurements/r0"]).bands or [])[1]
        assert (band.data_type, band.nodata) == ("uint16", 65535)
        assert band.scale is not None
        assert item.datetime is None
        assert item.common_metadata.end_datetime is not None
    if kind == "terrain":  # says neither when nor where it was made, but in what reference system it lies
        assert "does not say when" in item.properties["description"]
        assert item.bbox == pytest.approx([9.0, 45.09, 9.08, 45.15], abs=0.05)


def test_the_item_that_a_product_was_opened_from(s2: Path, server: ProductServer, tmp_path: Path) -> None:
    source = pystac.Item("S2-from-a-catalogue", PLACED, [11.0, 42.0, 12.0, 43.0], datetime(2025, 1, 2, tzinfo=UTC), {})
    source.add_asset("product", pystac.Asset(f"{server.url}/{s2.name}", media_type="application/vnd+zarr"))
    (s2.parent / "source.json").write_text(json.dumps(source.to_dict(include_self_link=False)))
    run(f"{server.url}/source.json?sig=not-a-secret", tmp_path / "out.zarr", "--groups", R60M).result  # noqa: B018
    item = item_of(tmp_path / "out.zarr")
    [link] = item.get_links(pystac.RelType.DERIVED_FROM)
    assert link.href == f"{server.url}/source.json"
    assert item.id == "S2-from-a-catalogue_out"
    assert (item.geometry, item.datetime) == (PLACED, datetime(2025, 1, 2, tzinfo=UTC))
    assert "not-a-secret" not in Path(items.address_of(tmp_path / "out.zarr")).read_text()


def test_an_image_is_told(s2: Path, tmp_path: Path) -> None:
    image = "registry.example/geozarr@sha256:0123"
    run(s2, tmp_path / "out.zarr", "--groups", R60M, env={items.IMAGE_VARIABLE: image}).result  # noqa: B018
    assert item_of(tmp_path / "out.zarr").properties["geozarr:image"] == image


# --- an item is there when its output is -----------------------------------------------------------------------------


@pytest.fixture
def copy(good: Run, tmp_path: Path) -> Path:
    """A copy of an output, with its item."""
    shutil.copy(items.address_of(good.output), tmp_path)
    return Path(shutil.copytree(good.output, tmp_path / "out.zarr"))


def test_an_item_that_is_missing_is_written_by_a_run_that_skips(copy: Path, good: Run, s2: Path) -> None:
    Path(items.address_of(copy)).unlink()
    assert run(s2, copy, "--groups", R10M, "--if-exists", "skip").result["skipped"]
    assert item_of(copy).to_dict()["properties"] == item_of(good.output).to_dict()["properties"]


def test_an_item_that_cannot_be_written_is_a_warning(
    copy: Path, s2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from io import StringIO

    from geozarr_runner.events import Reporter, parse
    from geozarr_runner.run import run as run_here
    from geozarr_runner.spec.request import Request

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    Path(items.address_of(copy)).unlink()
    monkeypatch.setattr(items, "write", refuse)
    said = StringIO()
    assert run_here(Request.of(str(s2), str(copy), groups=[R10M], if_exists="skip"), Reporter(said)).skipped
    events = [parse(line) for line in said.getvalue().splitlines()]
    assert [event["code"] for event in events if event and event.type == "warning"] == ["no-item"]
    assert beside(copy) == {"out.zarr"}


def test_a_product_that_cannot_be_described_is_converted_all_the_same(
    copy: Path, s2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from io import StringIO

    from geozarr_runner.events import Reporter, parse
    from geozarr_runner.run import run as run_here
    from geozarr_runner.spec.request import Request

    Path(items.address_of(copy)).unlink()
    monkeypatch.setattr(items, "_times", lambda *_: (datetime(2025, 1, 2, tzinfo=UTC), {"cloud": float("nan")}))
    said = StringIO()
    assert run_here(Request.of(str(s2), str(copy), groups=[R10M], if_exists="skip"), Reporter(said)).skipped
    events = [parse(line) for line in said.getvalue().splitlines()]
    assert [event["code"] for event in events if event and event.type == "warning"] == ["no-item"]
    assert not Path(items.address_of(copy)).exists()


def test_a_new_output_has_a_new_item(copy: Path, s2: Path) -> None:
    run(s2, copy, "--groups", R60M, "--if-exists", "overwrite").result  # noqa: B018
    assert list(item_of(copy).assets) == ["product", R60M[1:]]
    assert beside(copy) == {"out.zarr"}


def test_a_run_that_fails_leaves_the_old_item(
    copy: Path, s2: Path, fake_converter: Callable[[str], dict[str, str]]
) -> None:
    before = Path(items.address_of(copy)).read_bytes()
    assert run(s2, copy, "--groups", R60M, "--if-exists", "overwrite", env=fake_converter("sys.exit(1)")).code == 4
    assert Path(items.address_of(copy)).read_bytes() == before


def test_a_run_that_is_killed_leaves_none(
    s2: Path, tmp_path: Path, fake_converter: Callable[[str], dict[str, str]]
) -> None:
    output = tmp_path / "out.zarr"
    process = start(s2, output, "--groups", R60M, env=fake_converter("out.mkdir(); time.sleep(600)"))
    until(lambda: (tmp_path / ".out.zarr.partial" / "output.zarr").exists())
    process.kill()
    process.communicate()
    assert not Path(items.address_of(output)).exists()


# --- what products say of themselves ---------------------------------------------------------------------------------


def stated(**discovery: object) -> Product:
    root = {"stac_discovery": discovery}
    return Product("https://host/p.zarr?sig=x", "p", "Zarr", 2, {}, {"/": root}, True, "1")


RECORD = {"finished": "2026-01-02T03:04:05+00:00", "versions": {"zarr": "3"}}
PERIOD = {"start_datetime": "2025-01-01T00:00:00Z", "end_datetime": "2025-01-02T00:00:00Z"}


@pytest.mark.parametrize(
    ("properties", "when", "period"),
    [
        ({"datetime": "2025-01-01T12:00:00Z"}, "2025-01-01T12:00:00Z", {}),
        ({"datetime": None, **PERIOD}, None, PERIOD),
        ({"start_datetime": "2025-01-01T00:00:00"}, "2025-01-01T00:00:00Z", {}),
        ({"datetime": "0001-01-01T00:00:00+23:00"}, "2026-01-02T03:04:05Z", {}),
        ({"datetime": "yesterday"}, "2026-01-02T03:04:05Z", {}),
        ({"datetime": 7, "start_datetime": []}, "2026-01-02T03:04:05Z", {}),
    ],
)
def test_times(properties: dict[str, object], when: str | None, period: dict[str, str]) -> None:
    item = items.item_of(stated(properties=properties), stated(), "s3://bucket/a/out.zarr", RECORD)
    validated(item)
    assert item.to_dict()["properties"]["datetime"] == when
    assert {name: value for name, value in item.properties.items() if name in PERIOD} == period
    assert item.assets["product"].href == "./out.zarr"
    assert [link.href for link in item.links] == ["https://host/p.zarr"]


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        {"type": "Polygon"},
        {"type": "Polygon", "coordinates": []},
        {"type": "Polygon", "coordinates": [[["a", "b"]] * 4]},
        {"type": "Polygon", "coordinates": [[[500.0, 1.0]] * 5]},
        {"type": "Point", "coordinates": [1.0, 2.0]},
    ],
)
def test_an_outline_that_cannot_be_used_is_passed_over(geometry: object) -> None:
    item = items.item_of(stated(geometry=geometry), stated(), "out.zarr", RECORD)
    validated(item)
    assert (item.geometry, item.bbox) == (None, None)
    boxed = items.item_of(stated(geometry=geometry, bbox=[12.0, 42.0, 11.0, 43.0]), stated(), "out.zarr", RECORD)
    validated(boxed)
    assert boxed.bbox == [11.0, 42.0, 12.0, 43.0]


@pytest.mark.parametrize("box", [[float("nan"), 1.0, 2.0, 3.0], [float("inf")] * 4, [500.0, 1.0, 2.0, 3.0]])
def test_a_box_that_cannot_be_is_passed_over(box: list[float]) -> None:
    item = items.item_of(stated(bbox=box), stated(), "out.zarr", RECORD)
    validated(item)
    assert (item.geometry, item.bbox) == (None, None)


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        ({"scale_factor": float("nan"), "add_offset": "x", "units": 7}, {"data_type": "uint16"}),
        ({"_FillValue": "no base64", "scale_factor": 0.5}, {"data_type": "uint16", "scale": 0.5}),
        ({"_FillValue": float("-inf")}, {"data_type": "uint16"}),
        ({"missing_value": [7, 9]}, {"data_type": "uint16", "nodata": 7}),
        ({"valid_min": 1, "scale_factor": [0.5]}, {"data_type": "uint16", "nodata": 0, "scale": 0.5}),
    ],
)
@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:999999", None])
def test_attributes_that_cannot_be_used_are_left_out(
    attributes: dict[str, object], wanted: dict[str, object], crs: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "out.zarr"
    array = zarr.create_group(str(path)).create_array(
        "dem/height", shape=(8, 8), dtype="u2", dimension_names=("y", "x")
    )
    array.attrs.update(attributes)
    group = zarr.open_group(str(path), path="dem")
    group.attrs.update({"spatial:dimensions": ["y", "x"], "spatial:bbox": [5e5, 5e6, 5.1e5, 5.1e6]})
    group.attrs.update({"proj:code": crs} if crs else {})
    product = open_product(str(path))
    items.write(tmp_path / "item.json", product, path, str(path), RECORD)
    item = pystac.Item.from_file(str(tmp_path / "item.json"))
    validated(item)
    assert (item.bbox is not None) is (crs == "EPSG:32632")
    assert item.assets["dem"].extra_fields["raster:bands"] == [wanted]


@pytest.mark.parametrize(
    ("product", "output", "wanted"),
    [
        ("S2A", "S2A_geozarr.zarr", "S2A_geozarr"),
        ("S2A", "r20m.zarr", "S2A_r20m"),
        ("a b/ü", "out", "a-b-_out"),
    ],
)
def test_identifiers(product: str, output: str, wanted: str, good: Run) -> None:
    from dataclasses import replace

    named = replace(open_product(str(good.output)), name=product)
    assert items.item_of(named, stated(), f"/data/{output}", RECORD).id == wanted


# --- where ----------------------------------------------------------------------------------------------------------


def output_in(crs: object, box: list[float], *more: tuple[object, list[float]]) -> Product:
    """Return an output with one group in each of some reference systems."""
    groups = {
        f"/g{number}": {"proj:code" if str(system).startswith("EPSG") else "proj:wkt2": system, "spatial:bbox": edges}
        for number, (system, edges) in enumerate([(crs, box), *more])
    }
    root = {"proj:code": "EPSG:4326", "spatial:bbox": [-180.0, 0.0, 180.0, 1.0]}  # what the converter makes of it
    return Product("out.zarr", "out", "Zarr", 3, {}, {"/": root, **groups}, True, "1")


@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        (output_in("EPSG:32601", [300000.0, 6890000.0, 409800.0, 7000000.0]), (179.1, 62.1, -178.7, 63.1)),
        (output_in("EPSG:4326", [100.0, -10.0, 250.0, 10.0]), (100.0, -10.0, -110.0, 10.0)),
        (output_in("EPSG:4326", [0.0, -90.0, 360.0, 90.0]), (-180.0, -90.0, 180.0, 90.0)),
        (
            output_in("EPSG:4326", [170.0, 1.0, 171.0, 2.0], ("EPSG:4326", [-179.0, 0.0, -178.0, 1.0])),
            (170.0, 0.0, -178.0, 2.0),
        ),
    ],
)
def test_an_output_across_the_antimeridian_has_a_right_place(result: Product, wanted: tuple[float, ...]) -> None:
    item = items.item_of(stated(), result, "out.zarr", RECORD)
    validated(item)
    assert item.bbox == pytest.approx(wanted, abs=0.1)
    assert shape(item.geometry).is_valid


@pytest.mark.parametrize(
    "system", ["EPSG:999999", "null", None, 'LOCAL_CS["a",UNIT["m",1]]', CRS("IAU_2015:30100").to_wkt()]
)
def test_an_output_that_is_nowhere_has_no_place(system: object) -> None:
    item = items.item_of(stated(), output_in(system, [1.0, 2.0, 3.0, 4.0]), "out.zarr", RECORD)
    validated(item)
    assert (item.geometry, item.bbox) == (None, None)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"bbox": [51.794, -23.95, 37.08, -10.63]}, [37.08, -23.95, 51.794, -10.63]),
        ({"bbox": [179.1, 62.1, -178.8, 63.1]}, [179.1, 62.1, -178.8, 63.1]),
        ({"bbox": [-180.0, -90.0, 180.0, 90.0]}, None),
        ({"geometry": ACROSS}, [179.5, 1.0, -179.5, 2.0]),
    ],
)
def test_where_a_product_says_that_it_lies(said: dict[str, object], wanted: list[float] | None) -> None:
    item = items.item_of(stated(**said), stated(), "out.zarr", RECORD)
    validated(item)
    assert item.bbox == wanted
    assert (item.geometry is None) is (wanted is None)
    assert item.geometry is None or shape(item.geometry).is_valid


@pytest.mark.parametrize(
    ("crs", "resolution"), [("EPSG:32632", 10.0), ("EPSG:4258", None), ("EPSG:2227", 10 * 0.30480060960121924)]
)
def test_a_resolution_is_in_metres(crs: str, resolution: float | None, tmp_path: Path) -> None:
    path = tmp_path / "out.zarr"
    zarr.create_group(str(path)).create_array("dem/height", shape=(8, 8), dtype="u2", dimension_names=("y", "x"))
    group = zarr.open_group(str(path), path="dem")
    group.attrs.update({"spatial:dimensions": ["y", "x"], "spatial:transform": [10.0, 0, 0, 0, -10.0, 0]})
    group.attrs["proj:code"] = crs
    product = open_product(str(path))
    items.write(tmp_path / "item.json", product, path, str(path), RECORD)
    item = pystac.Item.from_file(str(tmp_path / "item.json"))
    validated(item)
    [band] = RasterExtension.ext(item.assets["dem"]).bands or ()
    assert band.spatial_resolution == (None if resolution is None else pytest.approx(resolution))
    assert ProjectionExtension.ext(item).code == crs
