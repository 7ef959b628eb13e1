"""Reference systems: every spelling that occurs is one system, or is refused with its value; pyproj is the judge."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401, adds .rio
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS
from pyproj.database import query_crs_info
from pyproj.enums import PJType

from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds import spelling
from geozarr_runner.kinds.profiles import profile_of
from geozarr_runner.planning.groups import report
from geozarr_runner.product.model import Product
from geozarr_runner.product.reference_system import ReferenceSystem, reference_system
from geozarr_runner.trust.crs import is_same, parsed
from geozarr_runner.verification.reference_system import unlike
from runner.tests.support import consolidated_v2, grid_v2, run, write_store

UTM33 = CRS.from_epsg(32633)
CUSTOM = CRS.from_proj4("+proj=laea +lat_0=52 +lon_0=10 +ellps=GRS80 +units=m")
LOCAL = 'LOCAL_CS["building site",UNIT["metre",1]]'


def product_of(
    tmp_path: Path,
    array: Mapping[str, Any] | None = None,
    group: Mapping[str, Any] | None = None,
    root: Mapping[str, Any] | None = None,
    mapping: Mapping[str, Any] | None = None,
) -> Product:
    """Return a product with one raster, `/g/data`, and what is said of its reference system at each place."""
    documents = grid_v2("g")
    del documents["g/data/.zattrs"]["proj:epsg"]
    documents["g/data/.zattrs"].update(array or {})
    documents["g/.zattrs"].update(group or {})
    if mapping is not None:
        documents["g/where/.zarray"] = {**documents["g/x/.zarray"], "shape": [], "chunks": []}
        documents["g/where/.zattrs"] = {"_ARRAY_DIMENSIONS": [], **mapping}
    metadata: Any = consolidated_v2({**documents, ".zattrs": dict(root or {})})
    return open_product(write_store(tmp_path / "p.zarr", metadata))


def found_in(tmp_path: Path, **said: Any) -> ReferenceSystem:
    """Return the reference system of the raster of such a product."""
    product = product_of(tmp_path, **said)
    return reference_system(product, product.groups["/g"])


# --- one system ------------------------------------------------------------------------------------------------------

SPELLINGS: tuple[Any, ...] = (
    32633,
    32633.0,
    "32633",
    "32633.0",
    "EPSG:32633",
    "epsg:32633",
    " EPSG:32633 ",
    "urn:ogc:def:crs:EPSG::32633",
    "http://www.opengis.net/def/crs/EPSG/0/32633",
    "WGS 84 / UTM zone 33N",
    "+proj=utm +zone=33 +datum=WGS84 +units=m +type=crs",
    UTM33.to_wkt(),
    UTM33.to_wkt("WKT1_GDAL"),
    UTM33.to_wkt("WKT1_ESRI"),
    UTM33.to_json(),
    UTM33.to_json_dict(),
    {"wkt": UTM33.to_wkt("WKT1_GDAL")},
    {"url": "http://www.opengis.net/def/crs/EPSG/0/32633"},
)
NOTHING: tuple[Any, ...] = (None, "", " ", "null", "None", "NaN", 0, float("nan"), {}, [])


@pytest.mark.parametrize("said", SPELLINGS, ids=lambda said: str(said)[:30])
@pytest.mark.parametrize(
    "place",
    [
        lambda said: {"array": {"proj:code": said}},
        lambda said: {"array": {"proj:epsg": said}},
        lambda said: {"group": {"proj:wkt2": said}},
        lambda said: {"root": {"proj:projjson": said}},
        lambda said: {"root": {"stac_discovery": {"properties": {"proj:code": said}}}},
        lambda said: {"root": {"other_metadata": {"horizontal_CRS_code": said}}},
        lambda said: {"root": {"other_metadata": {"horizontal_crs_code": said}}},
        lambda said: {"array": {"grid_mapping": "where"}, "mapping": {"crs_wkt": said}},
        lambda said: {"array": {"grid_mapping": "where: x y"}, "mapping": {"spatial_ref": said}},
        lambda said: {"mapping": {"spatial_ref": said}},
        lambda said: {"array": {"_CRS": said, "proj:epsg": None}, "group": {"proj:code": "null"}},
    ],
    ids=["code", "epsg", "group", "root", "stac", "CRS", "crs", "mapping", "mappings", "scalar", "gdal"],
)
def test_every_spelling_at_every_place_is_one_system(
    said: Any, place: Callable[[Any], dict[str, Any]], tmp_path: Path
) -> None:
    found = found_in(tmp_path, **place(said))
    assert found.flaw == ""
    assert found.crs is not None
    assert is_same(found.crs, UTM33)
    assert CRS.from_user_input(found.text).to_epsg() == 32633


CODES = sorted(
    int(info.code)
    for info in query_crs_info("EPSG", [PJType.PROJECTED_CRS, PJType.GEOGRAPHIC_2D_CRS])
    if not info.deprecated
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(CODES), st.data())
def test_spellings_of_any_code_are_the_system_that_pyproj_has(code: int, data: st.DataObject) -> None:
    wanted = CRS.from_epsg(code)
    said = data.draw(
        st.sampled_from(
            [
                code,
                float(code),
                f"{code}.0",
                f"epsg:{code}",
                f"EPSG:{code}",
                f"urn:ogc:def:crs:EPSG::{code}",
                wanted.to_wkt(),
                wanted.to_wkt(pretty=True),
                wanted.to_json(),
                wanted.to_json_dict(),
            ]
        )
    )
    found = parsed(said)
    assert found == wanted
    assert is_same(found, wanted)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(CODES), st.sampled_from(CODES))
def test_systems_are_one_only_where_they_place_a_point_alike(one: int, other: int) -> None:
    assert is_same(CRS.from_epsg(one), CRS.from_epsg(other)) == is_same(CRS.from_epsg(other), CRS.from_epsg(one))
    if CRS.from_epsg(one) != CRS.from_epsg(other) and CRS.from_epsg(one).to_json_dict().get("conversion") != (
        CRS.from_epsg(other).to_json_dict().get("conversion")
    ):
        assert not is_same(CRS.from_epsg(one), CRS.from_epsg(other))


@pytest.mark.parametrize("code", [3035, 3034, 4326, 2056, 5514, 32661])
def test_the_order_of_axes_makes_no_other_system(code: int) -> None:
    system = CRS.from_epsg(code)  # some of them name north first, which WKT of the first version cannot say
    assert is_same(parsed(system.to_wkt("WKT1_GDAL")), system)
    assert not is_same(system, UTM33)


def test_parameters_of_cf_without_a_text_are_read(tmp_path: Path) -> None:
    parameters = {name: value for name, value in UTM33.to_cf().items() if name != "crs_wkt"}
    found = found_in(tmp_path, array={"grid_mapping": "where"}, mapping=parameters)
    assert found.crs is not None
    assert is_same(found.crs, UTM33)


# --- none, or two ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", NOTHING, ids=repr)
def test_a_value_for_nothing_says_nothing(said: Any, tmp_path: Path) -> None:
    whole = {"other_metadata": {"horizontal_CRS_code": said}}
    assert "in which coordinate reference system" in found_in(tmp_path, array={"proj:epsg": said}, root=whole).flaw
    found = found_in(tmp_path, array={"proj:epsg": said}, group={"proj:code": "EPSG:32633"}, root=whole)
    assert found.text == "EPSG:32633"


@pytest.mark.parametrize("said", ["EPSG:999999", "no such system", -5, 1.5, True, 10**30, {"a": 1}, [[1]], "{}x"])
def test_what_is_no_system_is_refused_with_its_value(said: Any, tmp_path: Path) -> None:
    found = found_in(tmp_path, array={"proj:code": said}, root={"proj:code": "EPSG:32633"})
    assert found.crs is None
    assert "/g/data: proj:code" in found.flaw
    assert str(said)[:20] in found.flaw
    assert found_in(tmp_path, array={"proj:code": said, "proj:epsg": 32633}).text == "EPSG:32633"


@pytest.mark.parametrize(
    "said",
    [
        {"array": {"proj:epsg": 32633, "proj:wkt2": CRS.from_epsg(32632).to_wkt()}},
        {"array": {"proj:epsg": 32633}, "group": {"proj:code": "EPSG:32632"}},
        {"array": {"proj:epsg": 32633, "grid_mapping": "where"}, "mapping": {"crs_wkt": CRS.from_epsg(32632).to_wkt()}},
        {"array": {"proj:epsg": 32633}, "root": {"other_metadata": {"horizontal_CRS_code": "EPSG:32632"}}},
        {"array": {"proj:epsg": 32633}, "root": {"stac_discovery": {"properties": {"proj:code": "EPSG:32632"}}}},
    ],
)
def test_two_systems_at_once_are_said(said: dict[str, Any], tmp_path: Path) -> None:
    product = product_of(tmp_path, **said)
    [(group, why)] = report(product, ["/g"]).unfit.items()
    assert (group, why.startswith("its reference system is said in two ways")) == ("/g", True)
    assert "32633" in why
    assert "32632" in why or "UTM zone 32N" in why


def test_the_nearest_group_decides(tmp_path: Path) -> None:
    assert found_in(tmp_path, group={"proj:code": "EPSG:32633"}, root={"proj:code": "EPSG:4326"}).text == "EPSG:32633"


@pytest.mark.parametrize("said", [LOCAL, "EPSG:5773", "EPSG:4978"])
def test_a_system_that_is_nowhere_on_the_earth_is_refused(said: str, tmp_path: Path) -> None:
    [why] = report(product_of(tmp_path, group={"proj:wkt2": said}), ["/g"]).unfit.values()
    assert "does not say where on the earth" in why
    assert parsed(said).name in why


# --- what the converter is given -------------------------------------------------------------------------------------


def test_the_converter_is_given_what_it_reads(tmp_path: Path) -> None:
    def given_to(**said: Any) -> Mapping[str, Any]:
        product = product_of(tmp_path, **said)
        group = product.groups["/g"]
        [array] = group.variables
        return spelling.of_array(product, group, array)

    assert given_to(array={"proj:epsg": 32633})["proj:epsg"] == 32633
    assert given_to(array={"proj:epsg": 32633.0})["proj:epsg"] == 32633
    assert given_to(array={"proj:code": "epsg:32633"})["proj:epsg"] == 32633
    assert given_to(mapping={"crs_wkt": UTM33.to_wkt()})["proj:epsg"] == 32633
    assert "proj:epsg" not in given_to(root={"other_metadata": {"horizontal_crs_code": "EPSG:32633"}})
    custom = given_to(group={"proj:projjson": CUSTOM.to_json_dict()})
    assert "proj:epsg" not in custom
    assert CRS.from_wkt(custom["proj:wkt2"]) == CUSTOM


@pytest.mark.parametrize(
    ("other", "wanted"),
    [
        ({"horizontal_CRS_code": 32633, "a": 1}, {"horizontal_CRS_code": "EPSG:32633", "a": 1}),
        ({"horizontal_CRS_code": "null"}, {}),
        ({"horizontal_crs_code": "epsg:32633"}, {"horizontal_crs_code": "epsg:32633"}),
        ({"horizontal_crs_code": UTM33.to_wkt()}, {"horizontal_crs_code": "EPSG:32633"}),
    ],
)
def test_a_code_of_the_whole_product_is_a_text(other: Any, wanted: Any, tmp_path: Path) -> None:
    product = product_of(tmp_path, array={"proj:epsg": 32633}, root={"other_metadata": other})
    assert spelling.of_root(product) == {"other_metadata": wanted}
    assert spelling.is_read_as_it_is(product) == (other == wanted)


@pytest.mark.parametrize(
    ("zarr_format", "system", "wanted"),
    [(2, "EPSG:32633", "EPSG:32633"), (3, "EPSG:2056", "EPSG:2056"), (3, CUSTOM.to_wkt(), None)],
    ids=["v2", "v3", "custom"],
)
def test_what_rioxarray_writes_is_converted(zarr_format: Any, system: str, wanted: str | None, tmp_path: Path) -> None:
    values = np.add.outer(np.arange(300), np.arange(300)).astype("f4")
    places = {"y": 1_199_995 - 10.0 * np.arange(300), "x": 2_600_005 + 10.0 * np.arange(300)}
    dataset = xr.Dataset({"height": (("y", "x"), values)}, places).rio.write_crs(system)
    store = tmp_path / "dem.zarr"
    dataset.to_zarr(store, group="g", zarr_format=zarr_format)
    zarr.consolidate_metadata(str(store), zarr_format=zarr_format)
    assert run(store, tmp_path / "out.zarr", "--groups", "/g").result["groups"] == ["/g"]
    with xr.open_dataset(tmp_path / "out.zarr", group="g", engine="zarr", decode_coords="all") as output:
        assert output.attrs.get("proj:code") == wanted
        assert is_same(CRS.from_wkt(output.rio.crs.to_wkt()), CRS.from_user_input(system))
        np.testing.assert_array_equal(output.height, values)


# --- verification ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", [*SPELLINGS[:15], "EPSG:32632", "EPSG:4326", "EPSG:999999", "null"], ids=lambda said: str(said)[:30]
)
def test_an_output_in_another_system_is_refused_and_another_spelling_is_not(said: Any, tmp_path: Path) -> None:
    product = product_of(tmp_path)
    problems = list(unlike("EPSG:32633", product.groups["/g"], {"proj:code": said}))
    assert bool(problems) == (said not in SPELLINGS[:15])
    assert not problems or "does not say that it is in EPSG:32633" in problems[0] or "'EPSG:999999'" in problems[0]


def test_the_grid_mapping_of_an_output_counts_as_well(tmp_path: Path) -> None:
    documents = grid_v2("g")
    documents["g/spatial_ref/.zarray"] = {**documents["g/x/.zarray"], "shape": [], "chunks": []}
    documents["g/spatial_ref/.zattrs"] = {"_ARRAY_DIMENSIONS": [], "crs_wkt": CRS.from_epsg(32632).to_wkt()}
    metadata: Any = consolidated_v2(documents)
    group = open_product(write_store(tmp_path / "o.zarr", metadata)).groups["/g"]
    assert list(unlike("EPSG:32632", group, {"proj:code": "EPSG:32632"})) == []
    [problem] = unlike("EPSG:32633", group, {"proj:code": "EPSG:32633"})
    assert problem == "the crs_wkt of its spatial_ref is EPSG:32632, and it does not say that it is in EPSG:32633"


@pytest.mark.parametrize("code", [3035, 2056, 26692, 5041, 3857, 4326])
def test_what_gdal_writes_of_a_system_is_that_system(code: int, tmp_path: Path) -> None:
    from rasterio.crs import CRS as GDAL_CRS

    wkt = GDAL_CRS.from_epsg(code).to_wkt()
    group = product_of(tmp_path).groups["/g"]
    assert list(unlike(f"EPSG:{code}", group, {"proj:wkt2": wkt})) == []


# --- cost ------------------------------------------------------------------------------------------------------------


def test_pyproj_is_imported_where_a_system_is_read_and_not_before(tmp_path: Path) -> None:
    store = product_of(tmp_path, array={"proj:epsg": 32633}).url
    seen = (
        "import sys\n"
        "from geozarr_runner.inspection.reader import open_product\n"
        "from geozarr_runner.planning.groups import report\n"
        f"product = open_product({store!r}); repr(product), product._repr_html_(), product.bbox, product.to_dict()\n"
        "print('pyproj' in sys.modules)\n"
        "report(product, ['/g'])\n"
        "print('pyproj' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "True"]
    assert profile_of(open_product(store)).output_crs(open_product(store), open_product(store).groups["/g"])
    assert json.dumps(open_product(store).to_dict())
