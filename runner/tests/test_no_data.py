"""No data is no data in what is published, and everything else stays what it is; wrong outputs are refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds.profiles import encoding_of
from geozarr_runner.planning.preflight import attributes_for_converter
from geozarr_runner.product.sampler import Pair, StoredPixels, compare
from geozarr_runner.stores.store import Store
from runner.tests.support import R10M, as_v3, run, write_sentinel2

SIZE = 256

# --- a wrong output is refused ---------------------------------------------------------------------------------------


def counts(nothing: int) -> np.ndarray[Any, Any]:
    """Noise with a small hole."""
    values = np.random.default_rng(1).integers(1000, 9000, (SIZE, SIZE)).astype("u2")
    values[150:165, 140:170] = nothing
    return values


@pytest.fixture(params=[0, 65535], ids=["0 is no data", "65535 is no data"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    nothing = request.param
    root = zarr.create_group(str(tmp_path / "source.zarr"), zarr_format=3)
    group = root.create_group("measurements")
    attributes = {"scale_factor": 0.0001, "add_offset": -0.1, "fill_value": nothing}
    band = group.create_array(
        "b02", shape=(SIZE, SIZE), chunks=(64, 64), dtype="u2", fill_value=nothing, dimension_names=("y", "x")
    )
    band.attrs.update(attributes)
    band[:] = counts(nothing)
    return tmp_path / "source.zarr"


def right(raw: np.ndarray[Any, Any], nothing: int) -> np.ndarray[Any, Any]:
    return np.where(raw == nothing, np.nan, raw * 0.0001 - 0.1).astype("f4")


def plain(values: np.ndarray[Any, Any]) -> xr.Variable:
    return xr.Variable(("y", "x"), values)


def packed(raw: np.ndarray[Any, Any], **attributes: Any) -> xr.Variable:
    return xr.Variable(("y", "x"), raw, attributes)


PACKED = {"scale_factor": 0.0001, "add_offset": -0.1}
RIGHT: dict[str, Callable[[np.ndarray[Any, Any], int], xr.Variable]] = {
    "floats": lambda raw, nothing: plain(right(raw, nothing)),
    "doubles": lambda raw, nothing: plain(right(raw, nothing).astype("f8")),
    "integers": lambda raw, nothing: packed(raw, **PACKED, _FillValue=np.uint16(nothing)),
    "other integers": lambda raw, nothing: packed(
        np.where(raw == nothing, -1, raw.astype("i4")).astype("i4"), **PACKED, _FillValue=np.int32(-1)
    ),
    "a missing value": lambda raw, nothing: packed(raw, **PACKED, missing_value=nothing),
}
WRONG: dict[str, tuple[Callable[[np.ndarray[Any, Any], int], xr.Variable], str]] = {
    "no data is a number": (lambda raw, nothing: plain((raw * 0.0001 - 0.1).astype("f4")), "instead of nan"),
    "no data is zero": (lambda raw, nothing: plain(np.nan_to_num(right(raw, nothing))), "e.g. 0 instead of nan"),
    "integers that forget it": (lambda raw, nothing: packed(raw, **PACKED), "instead of nan"),
    "integers with another one": (lambda raw, nothing: packed(raw, **PACKED, _FillValue=np.uint16(7)), "of nan"),
    "swapped scale and offset": (
        lambda raw, nothing: packed(raw, scale_factor=-0.1, add_offset=0.0001, _FillValue=np.uint16(nothing)),
        "differ",
    ),
    "ten times the scale": (
        lambda raw, nothing: packed(raw, scale_factor=0.001, add_offset=-0.1, _FillValue=np.uint16(nothing)),
        "differ",
    ),
    "no offset": (lambda raw, nothing: plain(right(raw, nothing) + np.float32(0.1)), "differ"),
    "counts": (lambda raw, nothing: plain(raw.astype("f4")), "differ"),
    "nothing at all": (lambda raw, nothing: plain(np.full((SIZE, SIZE), np.nan, "f4")), "nan instead of"),
    "a border that grew": (
        lambda raw, nothing: plain(np.where(np.roll(raw == nothing, 1, 0), np.nan, right(raw, nothing)).astype("f4")),
        "differ",
    ),
}


def compared(source: Path, output: Path, made: xr.Variable) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xr.Dataset({"b02": made}).to_zarr(output, group="measurements", zarr_format=3, consolidated=False)
    product, result = open_product(str(source)), open_product(str(output))
    pair = Pair(product.groups["/measurements"].arrays[0], result.groups["/measurements"].arrays[0], (), False)
    known = StoredPixels(Store(str(source)), 3, str(source), encoding=partial(encoding_of, product))
    problems, _ = compare(pair, known, StoredPixels(Store(str(output)), 3, str(output)))
    return problems


def of(source: Path) -> tuple[np.ndarray[Any, Any], int]:
    band: Any = zarr.open_array(str(source / "measurements" / "b02"), mode="r")
    return np.asarray(band[:]), int(band.fill_value)


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT.keys())
def test_a_right_output_passes(make: Callable[..., xr.Variable], source: Path, tmp_path: Path) -> None:
    assert compared(source, tmp_path / "out.zarr", make(*of(source))) == []


@pytest.mark.parametrize(("make", "reason"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_output_is_refused(make: Callable[..., xr.Variable], reason: str, source: Path, tmp_path: Path) -> None:
    problems = compared(source, tmp_path / "out.zarr", make(*of(source)))
    assert problems
    assert all(problem.startswith("/measurements/b02: ") for problem in problems)
    assert any(reason in problem for problem in problems), problems


# --- what is published -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentinel2(tmp_path_factory.mktemp("cpm3") / "S2A_MSIL2A_V3.zarr")


def test_a_whole_product_of_zarr_v3(product: Path, tmp_path: Path) -> None:
    done = run(product, tmp_path / "out.zarr")
    assert done.code == 0, done.stdout + done.stderr
    whole: Any = zarr.open_group(str(product), mode="r")
    stored = whole[f"{R10M}/b02"][:]
    read = xr.open_dataset(done.output, group=R10M, engine="zarr")
    np.testing.assert_array_equal(np.isnan(read["b02"].values), stored == 0)


def test_the_converter_is_told_of_radiances_of_zarr_v3(s3: Path, tmp_path: Path) -> None:
    """And reads them as they are in v2."""
    old, new = open_product(str(s3)), open_product(str(as_v3(s3, tmp_path / "S3_V3.zarr")))
    assert new.kind == "Sentinel-3 OLCI"
    was = StoredPixels(Store(str(s3)), 2, str(s3), encoding=partial(encoding_of, old))
    now = StoredPixels(Store(new.url), 3, new.url, encoding=partial(encoding_of, new))
    bands = [array for array in new.groups["/measurements"].variables if array.name.endswith("_radiance")]
    assert bands
    for band in bands:
        [before] = [array for array in old.groups["/measurements"].variables if array.name == band.name]
        everything = tuple(slice(0, size) for size in band.shape)
        expected = was.read(before, everything)
        np.testing.assert_array_equal(now.read(band, everything), expected)
        assert attributes_for_converter(new, band, {})["_FillValue"] == 65535


def test_the_view_tells_a_converter_that_keeps_integers(tmp_path: Path) -> None:
    """It forgets `_FillValue` where there is no attribute `fill_value` beside it."""
    root = zarr.create_group(str(tmp_path / "s2.zarr"), zarr_format=2)
    band = root.create_array(f"{R10M[1:]}/b02", shape=(4, 4), chunks=(4, 4), dtype="u2", fill_value=0)
    band.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    product = open_product(str(tmp_path / "s2.zarr"))
    [array] = product.groups[R10M].arrays
    assert attributes_for_converter(product, array, {"packed": False}) is array.attributes
    assert attributes_for_converter(product, array, {"packed": True})["fill_value"] == 0
