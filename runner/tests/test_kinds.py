"""What a kind of product is recognised by, and what becomes of it: known before a byte is staged."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from geozarr_runner.errors import GroupsMissing, VerificationFailed
from geozarr_runner.events import Reporter
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds.profiles import KINDS, outcomes
from geozarr_runner.planning.groups import report
from geozarr_runner.planning.preflight import preflight
from geozarr_runner.product.model import Product
from geozarr_runner.spec.request import Request
from geozarr_runner.verification.verify import verify
from runner.tests.formats import in_v3
from runner.tests.support import R10M, R20M, Run, array_v2, consolidated_v2, grid_v2, run, write_store
from tests.products import made_once

REFUSED = {
    "S01SIWSLC": "Sentinel-1 SLC",
    "S01SIWOCN": "Sentinel-1 OCN",
    "S01SIWRAW": "Sentinel-1",
    "S03OLCLFR": "Sentinel-3 OLCI L2",
    "S03OLCWRR": "Sentinel-3 OLCI L2",
    "S03SLSRBT": "Sentinel-3 SLSTR",
    "S03SLSLST": "Sentinel-3 SLSTR",
    "S03SRALAN": "Sentinel-3 SRAL",
    "S03SYNSDR": "Sentinel-3 SYNERGY",
    "S03XXX": "Sentinel-3",
}


def swath(group: str, kind: str, format_: int = 2) -> dict[str, object]:
    """A product of a type, with one variable along a swath."""
    attributes = {"stac_discovery": {"properties": {"product:type": kind}}}
    if format_ == 2:
        documents: dict[str, Any] = {f"{group}/.zgroup": {"zarr_format": 2}, f"{group}/.zattrs": {}}
        documents |= array_v2((8, 8), ("rows", "columns"), f"{group}/data")
        return {**consolidated_v2(documents | {".zattrs": attributes})}
    array = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [8, 8],
        "data_type": "uint16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8, 8]}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "fill_value": 0,
        "dimension_names": ["rows", "columns"],
        "attributes": {},
    }
    nodes = {group: {"zarr_format": 3, "node_type": "group", "attributes": {}}, f"{group}/data": array}
    root = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": nodes}
    documents = {f"{path}/zarr.json": node for path, node in nodes.items()}
    return documents | {"zarr.json": root | {"consolidated_metadata": consolidated}}


@pytest.mark.parametrize("format_", [2, 3])
@pytest.mark.parametrize(("declared", "kind"), REFUSED.items())
def test_what_the_converter_cannot_do_is_refused_before(declared: str, kind: str, format_: int, tmp_path: Path) -> None:
    store = write_store(tmp_path / "p.zarr", swath("measurements", declared, format_))
    product = open_product(str(store))
    assert product.kind == kind
    assert product.refusal is not None
    assert 'engine="eopf-zarr"' in repr(product)
    assert product.refusal.why in str(product.to_dict()["refused"])
    for groups in ((), ("measurements",), ("nothing",)):
        found = report(product, groups)
        assert not found.ok
        assert found.refused.startswith(kind)
        assert "would convert nothing" in repr(found)
        assert "whole product" not in repr(found)
        assert "whole product</td><td>will be" not in found._repr_html_()
        for all_needed in (True, False):
            with pytest.raises(GroupsMissing, match=kind) as caught:
                found.raise_for_missing(all_needed=all_needed)
            assert "xarray-eopf" in caught.value.remedy


def test_nothing_is_staged_of_what_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "p.zarr", swath("measurements", "S03SLSRBT"))
    done = run(store, tmp_path / "out.zarr", "--scratch", tmp_path / "scratch")
    assert (done.code, done.error["code"]) == (2, "groups-missing")
    assert not any(event["stage"] == "stage" for event in done.of("stage"))
    assert not (tmp_path / "scratch").exists() or not any((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("declared", ["S03SLSLST", "S03OLCLFR", "S03SYNSDR"])
def test_what_lies_on_a_grid_is_converted_whatever_declares_it(declared: str, tmp_path: Path) -> None:
    documents = grid_v2("a") | {".zattrs": {"stac_discovery": {"properties": {"product:type": declared}}}}
    product = open_product(str(write_store(tmp_path / "p.zarr", {**consolidated_v2(documents)})))
    assert product.kind in REFUSED.values()
    assert product.refusal is None
    assert report(product, "a").ok


def test_a_product_without_a_grid_is_refused_once(tmp_path: Path) -> None:
    documents = array_v2((4,), ("time",), "b/values")
    product = open_product(str(write_store(tmp_path / "p.zarr", {**consolidated_v2(documents)})))
    found = report(product)
    assert product.kind == "Zarr"
    assert not found.ok
    assert "not over a grid of y and x" in found.refused
    assert "would convert nothing" in repr(found)


def test_geozarr_is_said_to_be_geozarr(good: Run) -> None:
    product = open_product(str(good.output))
    assert product.kind == "GeoZarr"
    found = report(product, R10M)
    assert "GeoZarr already" in found.refused
    assert "geozarr_nb.open" in found.instead
    with pytest.raises(GroupsMissing, match="GeoZarr already"):
        found.raise_for_missing(all_needed=True)


@pytest.mark.parametrize("variable", ["b02", "x"])
def test_a_variable_is_told_that_groups_go_whole(variable: str, s2: Path) -> None:
    product = open_product(s2)
    found = report(product, [f"{R10M}/{variable}", R20M])
    assert found.unfit[f"{R10M}/{variable}"] == f"it is a variable, and groups go whole; {R10M} holds it"
    assert found.suggestions[f"{R10M}/{variable}"] == (R10M,)
    assert found.found == (R20M,)


def test_a_radar_products_variable_is_held_by_each_polarisation(s1: Path) -> None:
    found = report(open_product(s1), "measurements/grd")
    assert "groups go whole" in found.unfit["/measurements/grd"]
    assert len(found.suggestions["/measurements/grd"]) == 2


# --- recognition -----------------------------------------------------------------------------------------------------


def undeclared(store: Path, path: Path) -> Product:
    """Open a product that does not say what type it is of."""
    shutil.copytree(store, path)
    for name in (".zattrs", ".zmetadata"):
        document = json.loads((path / name).read_bytes())
        attributes = document if name == ".zattrs" else document["metadata"][".zattrs"]
        attributes["stac_discovery"]["properties"].pop("product:type", None)
        (path / name).write_text(json.dumps(document))
    return open_product(str(path))


def test_groups_tell_what_a_product_is_that_does_not_say_it(s2: Path, s3: Path, tmp_path: Path) -> None:
    assert undeclared(s2, tmp_path / "s2.zarr").kind == "Sentinel-2 L2A"
    assert undeclared(s3, tmp_path / "s3.zarr").kind == "Sentinel-3 OLCI"


@pytest.mark.parametrize("text", [None, 7, ["S03SLS"], "", "\x1b[31mS03SLS", "s03slsrbt"])
def test_any_declaration_is_taken_for_what_it_is(text: object, tmp_path: Path) -> None:
    documents = grid_v2("a") | {".zattrs": {"stac_discovery": {"properties": {"product:type": text}}}}
    product = open_product(str(write_store(tmp_path / "p.zarr", {**consolidated_v2(documents)})))
    assert product.kind == ("Sentinel-3 SLSTR" if text == "s03slsrbt" else "Zarr")


def test_every_name_has_one_kind() -> None:
    names = [name for profile in KINDS for name in profile.names]
    assert len(names) == len(set(names))
    assert [kind for kind, *_ in outcomes()] == names


def test_no_kind_is_named_outside_of_its_module() -> None:
    """But in help for people, which tells of Sentinel-2 as such."""
    root = Path(__file__).parents[1] / "geozarr_runner"
    names = {name for profile in KINDS for name in profile.names} - {"Zarr", "GeoZarr", "Sentinel-1", "Sentinel-3"}
    for path in root.rglob("*.py"):
        if path.parent.name != "kinds":
            found = [name for name in names if f'"{name}"' in path.read_text() and path.name != "model.py"]
            assert not found, f"{path} names {found}"


# --- right outputs of every kind and format --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s2_v3(s2: Path, products: Path) -> Path:
    return made_once(products, "s2-v3.zarr", lambda path: in_v3(s2, path))


@pytest.fixture(scope="module")
def s3_v3(s3: Path, products: Path) -> Path:
    return made_once(products, "s3-v3.zarr", lambda path: in_v3(s3, path))


@pytest.mark.converter
@pytest.mark.parametrize("groups", [("--groups", "measurements"), ()])
def test_olci_in_v3_is_converted(groups: tuple[str, ...], s3_v3: Path, tmp_path: Path) -> None:
    done = run(s3_v3, tmp_path / "out.zarr", *groups)
    assert done.code == 0, done.stdout
    with (
        xr.open_dataset(s3_v3, group="measurements", engine="zarr") as source,
        xr.open_dataset(done.output, group="measurements/r0", engine="zarr") as made,
    ):
        for name in ("oa01_radiance", "oa21_radiance", "latitude"):
            stored, values = zarr.open_array(str(s3_v3 / "measurements" / name), mode="r")[:], source[name].values
            if name.endswith("radiance"):  # the format's own no data, of which v3 tells xarray nothing
                values = np.where(stored == 65535, np.nan, values)
            np.testing.assert_allclose(made[name].values, values, rtol=1e-6, equal_nan=True)


@pytest.mark.converter
@pytest.mark.parametrize(("groups", "place"), [(("--groups", R20M), R20M), ((), R20M)])
def test_sentinel_2_in_v3_is_converted(groups: tuple[str, ...], place: str, s2_v3: Path, tmp_path: Path) -> None:
    done = run(s2_v3, tmp_path / "out.zarr", *groups)
    assert done.code == 0, done.stdout
    made = zarr.open_group(str(done.output), mode="r")
    assert {"b02", "b8a", "x", "y"} <= set(made[place[1:]])  # type: ignore[arg-type]


@pytest.mark.converter
def test_a_grid_half_a_pixel_off_is_refused(good: Run, s2: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(good.output, tmp_path / "out.zarr"))
    plan = preflight(Request.of(s2, tmp_path / "new.zarr", groups=R10M), Reporter(io.StringIO()))
    verify(plan, plan.product.url, output, lambda done, total, unit: None)
    array: Any = zarr.open_array(str(output / R10M[1:] / "x"), mode="r+")
    array[...] = np.asarray(array[...]) + 5
    with pytest.raises(VerificationFailed, match="/x"):
        verify(plan, plan.product.url, output, lambda done, total, unit: None)
