"""What is no data in a product of Zarr v3 is no data in `gz.open` and transparent in a preview, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import geozarr_nb as gz
from geozarr_runner.inspection.reader import open_product
from runner.tests.support import R10M, as_v3, run, write_sentinel2
from tests.products import sample

SCL = "/conditions/mask/l2a_classification/r20m"
CLOUD = "/quality/probability/r20m"


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentinel2(tmp_path_factory.mktemp("cpm3") / "S2A_MSIL2A_V3.zarr")


@pytest.fixture(scope="session")
def s1(shared: Path) -> Path:
    return sample(shared / "products", "s1.zarr", 300, "s1-grd")


def transparent(output: Path) -> float:
    return float((gz.preview(output).pixels[..., 3] == 0).mean())


def test_chosen_groups_of_zarr_v3(product: Path, tmp_path: Path) -> None:
    """Reflectances lack what their attributes say; class 0, 0 % of cloud and height 0 are what they are."""
    done = run(product, tmp_path / "out.zarr", "--groups", ",".join((R10M, SCL, CLOUD)))
    assert done.code == 0, done.stdout + done.stderr
    raw: Any = zarr.open_group(str(product), mode="r")
    by_xarray = {path: xr.open_dataset(done.output, group=path, engine="zarr") for path in (R10M, SCL, CLOUD)}
    tree = gz.open(done.output)
    for read in (by_xarray, tree):
        for path, name in ((SCL, "scl"), (CLOUD, "cld"), (SCL, "height")):
            stored = raw[f"{path}/{name}"][:]
            assert (stored == 0).any()
            np.testing.assert_array_equal(read[path][name].values, stored)
        stored = raw[f"{R10M}/b02"][:]
        assert 0.1 < (stored == 0).mean() < 0.5
        expected = np.where(stored == 0, np.nan, stored * 0.0001 - 0.1)
        np.testing.assert_allclose(read[R10M]["b02"].values, expected, rtol=1e-6, atol=1e-9)
    assert transparent(done.output) == pytest.approx((stored == 0).mean(), abs=0.01)


def test_a_whole_product_of_zarr_v3_packed(product: Path, tmp_path: Path) -> None:
    done = run(product, tmp_path / "out.zarr", "--packed")
    assert done.code == 0, done.stdout + done.stderr
    whole: Any = zarr.open_group(str(product), mode="r")
    stored = whole[f"{R10M}/b02"][:]
    raw = xr.open_dataset(done.output, group=R10M, engine="zarr", mask_and_scale=False)["b02"]
    assert raw.dtype == np.uint16
    for read in (xr.open_dataset(done.output, group=R10M, engine="zarr"), gz.open(done.output)[R10M]):
        expected = np.where(stored == 0, np.nan, stored * 0.0001 - 0.1)
        np.testing.assert_allclose(read["b02"].values, expected, rtol=1e-6, atol=1e-9)
    for name, values in xr.open_dataset(done.output, group=SCL, engine="zarr").data_vars.items():
        if values.ndim:
            np.testing.assert_array_equal(values, whole[f"{SCL}/{name}"][:])  # zeros among them
    assert transparent(done.output) == pytest.approx((stored == 0).mean(), abs=0.01)


def test_radar_of_zarr_v3(s1: Path, tmp_path: Path) -> None:
    product = as_v3(s1, tmp_path / "S1A_V3.zarr")
    [vh] = [path for path in open_product(str(product)).groups if path.endswith("VH/measurements")]
    grd: Any = zarr.open_array(str(product / vh.strip("/") / "grd"), mode="r+")
    grd[60:120, 100:160] = 0
    done = run(product, tmp_path / "out.zarr", "--groups", "/measurements")
    assert done.code == 0, done.stdout + done.stderr
    values = xr.open_dataset(done.output, group=vh, engine="zarr")["grd"].values
    inside = values[50:-50, 80:-80]
    assert np.isnan(inside).any()
    assert np.isnan(values[0, 0]), "around the scene, too"
    assert np.nanmin(values) > 0
    np.testing.assert_array_equal(gz.open(done.output)[vh]["grd"].values, values)
