"""Products whose root itself holds the variables, as `Dataset.to_zarr` writes them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  for .rio
import xarray as xr
import zarr

from benchmarks.server import ProductServer
from geozarr_runner.events import Reporter
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds.base import PLACE_OF_ROOT
from geozarr_runner.planning.estimate import estimate
from geozarr_runner.planning.groups import report
from geozarr_runner.planning.preflight import preflight
from geozarr_runner.publishing.local import workspace
from geozarr_runner.spec.request import Request
from geozarr_runner.staging.lifted import lifted
from geozarr_runner.staging.view import stage
from runner.tests.support import run, write_terrain

SIZE = 560  # two levels


def write_dataset(path: Path, zarr_format: Literal[2, 3], *, size: int = SIZE, **more: Any) -> xr.Dataset:
    """Write what a person has who saves a dataset with rioxarray: bands, one of them with no data, and a mapping."""
    rows, columns = np.mgrid[:size, :size]
    scene = xr.Dataset(
        {
            "red": (("y", "x"), (rows + 2 * columns).astype("f4")),
            "classes": (("y", "x"), ((rows // 9 + columns // 7) % 5).astype("u1")),
            **more,
        },
        coords={"x": 5e5 + 10.0 * (np.arange(size) + 0.5), "y": 5e6 - 10.0 * (np.arange(size) + 0.5)},
        attrs={"title": "of mine", "Conventions": "CF-1.8"},
    )
    scene["red"] = scene["red"].where(columns > 100)
    written = scene.rio.write_crs("EPSG:32632")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written.to_zarr(path, zarr_format=zarr_format, consolidated=True)
    return scene


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_it_is_known_to_be_convertible(zarr_format: Literal[2, 3], tmp_path: Path) -> None:
    write_dataset(tmp_path / "p.zarr", zarr_format, size=64)
    product = open_product(str(tmp_path / "p.zarr"))
    for groups in ("/", ["/"], []):
        found = report(product, groups)
        assert found.ok
        assert found.available == ("/",)
    assert estimate(product, ["/"]).requests > 0


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_the_converter_finds_in_a_group_what_the_root_has(zarr_format: Literal[2, 3], tmp_path: Path) -> None:
    write_dataset(tmp_path / "p.zarr", zarr_format, size=64)
    root = zarr.open_group(str(tmp_path / "p.zarr"))
    write_terrain(tmp_path / "beside.zarr", zarr_format=zarr_format, size=32)
    beside = zarr.open_group(str(tmp_path / "beside.zarr"))["dem"]
    names = {"dimension_names": ("y", "x")} if zarr_format == 3 else {}
    height = root.create_group("dem").create_array("height", data=beside["height"][:], fill_value=np.nan, **names)
    height.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(tmp_path / "p.zarr"), zarr_format=zarr_format)
    request = Request.of(str(tmp_path / "p.zarr"), str(tmp_path / "out.zarr"), groups=[])
    reporter = Reporter(io.StringIO())
    plan = preflight(request, reporter)
    with workspace(tmp_path / "out.zarr", None, staging=plan.staging) as space:
        staged = stage(plan, space, lambda done, total, unit: None, reporter)
        view = lifted(plan.product, Path(staged.url), tmp_path / "lifted.zarr")
        whole = xr.open_dataset(tmp_path / "p.zarr", engine="zarr").load()
        tree = xr.open_datatree(view, engine="zarr", consolidated=True)
        found = tree[PLACE_OF_ROOT].to_dataset().load()
        np.testing.assert_array_equal(tree["dem/height"], beside["height"][:])
    assert found.attrs == whole.attrs
    xr.testing.assert_equal(found, whole)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_group_that_has_its_place_is_said(zarr_format: int, tmp_path: Path) -> None:
    path = write_terrain(tmp_path / "p.zarr", zarr_format=zarr_format, group="", size=32)
    zarr.open_group(str(path)).create_group("data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(path), zarr_format=2 if zarr_format == 2 else 3)
    found = report(open_product(str(path)), "/")
    assert not found.ok
    assert "/data, where they would be moved, is there already" in found.unfit["/"]


@pytest.mark.parametrize(("zarr_format", "groups", "options"), [(2, "/", ()), (3, "0", ("--chunks", "web"))])
def test_it_is_converted_from_beginning_to_end(
    zarr_format: Literal[2, 3], groups: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    scene = write_dataset(tmp_path / "p.zarr", zarr_format)
    with ProductServer(tmp_path) as server:
        source = f"{server.url}/p.zarr" if zarr_format == 2 else tmp_path / "p.zarr"
        done = run(source, tmp_path / "out.zarr", "--groups", groups, *options)
    assert done.code == 0, done.stdout + done.stderr
    record: Any = zarr.open_group(str(done.output)).attrs["geozarr_runner"]
    assert record["groups"] == (["/"] if groups == "/" else [])
    data = xr.open_zarr(done.output, group=PLACE_OF_ROOT, decode_coords="all")
    np.testing.assert_array_equal(data["red"], scene["red"])
    np.testing.assert_array_equal(data["classes"], scene["classes"])
    assert data.rio.crs.to_epsg() == 32632
    coarse = xr.open_zarr(done.output, group=f"{PLACE_OF_ROOT}/r2")
    assert coarse["red"].shape == (SIZE // 2, SIZE // 2)
    if options:  # this build of GDAL reads no shards
        return
    with rasterio.open(f'ZARR:"{done.output}":/data/red') as opened:
        assert opened.crs.to_epsg() == 32632
        assert opened.transform[:6] == (10.0, 0.0, 5e5, 0.0, -10.0, 5e6)
