"""Stored values mean what xarray reads, and one thing more; the reference is xarray, on stores written by hand."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from xarray.backends.zarr import FillValueCoder

from geozarr_runner.errors import ProductBroken
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.product.encoding import Encoding
from geozarr_runner.product.model import Array
from geozarr_runner.product.sampler import StoredPixels
from geozarr_runner.stores.store import Store
from runner.tests.encodings import CONFIRMED, NOT_CONFIRMED, Stored, by_xarray, double, stored

ALL = (slice(None),)


def by_us(store: Path, array: Array, zarr_format: int) -> np.ndarray[Any, Any]:
    with np.errstate(all="ignore"):
        return StoredPixels(Store(str(store)), zarr_format, str(store)).read(array, ALL)


# --- as xarray -------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(stored())
def test_values_are_those_of_xarray(case: tuple[Stored, dict[str, Any]]) -> None:
    made, plain = case
    with tempfile.TemporaryDirectory() as folder:
        store, reference = made.write(Path(folder) / "a.zarr"), made.write(Path(folder) / "b.zarr", plain)
        array = made.array(store)
        try:
            expected = by_xarray(reference).astype(np.float64)
        except (ValueError, TypeError, OverflowError, KeyError):
            # What xarray cannot read ends in our error, with the array's name.
            with pytest.raises(ProductBroken) as caught:
                by_us(store, array, made.zarr_format)
            assert str(caught.value.given).endswith("/data")
            return
        np.testing.assert_array_equal(by_us(store, array, made.zarr_format), expected)
        told = made.write(Path(folder) / "c.zarr", Encoding.of(array).told())
        np.testing.assert_array_equal(by_xarray(told).astype(np.float64), expected)


# --- the addition ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("attributes", CONFIRMED.values(), ids=CONFIRMED.keys())
def test_a_confirmed_fill_value_is_no_data(attributes: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    made = Stored(dtype, 3, [0, 1, 5, 0], 0, dict(attributes))
    store = made.write(tmp_path / "a.zarr")
    array = made.array(store)
    empty = [True, False, False, True]
    assert np.isnan(by_us(store, array, 3)).tolist() == empty
    told = Encoding.of(array).told()
    assert told["_FillValue"] == FillValueCoder.encode(0, np.dtype(dtype)), "in xarray's own words"
    assert np.isnan(by_xarray(made.write(tmp_path / "b.zarr", told))).tolist() == empty
    assert np.isnan(by_xarray(store)).tolist() == [False] * 4, "else there is no need of it"


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4"])
@pytest.mark.parametrize("attributes", NOT_CONFIRMED.values(), ids=NOT_CONFIRMED.keys())
def test_a_fill_value_alone_is_a_value(attributes: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    given = dict(attributes)
    if dtype == "f4" and "_FillValue" in given:
        given["_FillValue"] = double(7)
    made = Stored(dtype, 3, [0, 1, 5, 0], 0, given)
    store = made.write(tmp_path / "a.zarr")
    array = made.array(store)
    assert not np.isnan(by_us(store, array, 3)).any()
    assert Encoding.of(array).told() is array.attributes


def test_a_valid_range_masks_nothing_else(tmp_path: Path) -> None:
    made = Stored("u2", 3, [0, 1, 5, 9], 0, {"valid_range": [4, 6]})
    store = made.write(tmp_path / "a.zarr")
    assert np.isnan(by_us(store, made.array(store), 3)).tolist() == [True, False, False, False]


def test_in_zarr_v2_nothing_is_added(tmp_path: Path) -> None:
    made = Stored("u2", 2, [0, 1], None, {"fill_value": 0, "valid_min": 1})
    store = made.write(tmp_path / "a.zarr")
    assert not np.isnan(by_us(store, made.array(store), 2)).any()


def test_a_second_number_for_no_data_is_said_beside_the_first(tmp_path: Path) -> None:
    made = Stored("u2", 3, [0, 1, 65535, 9], 0, {"_FillValue": 65535, "fill_value": 0, "missing_value": 9})
    store = made.write(tmp_path / "a.zarr")
    array = made.array(store)
    assert Encoding.of(array).no_data() == (65535, 9, 0)
    empty = [True, False, True, True]
    assert np.isnan(by_us(store, array, 3)).tolist() == empty


@pytest.mark.parametrize(("least", "is_empty"), [(1, True), (-128, False)])
def test_a_range_of_unsigned_numbers_is_read_as_they_are(least: int, is_empty: bool, tmp_path: Path) -> None:
    """Stored as -1 and read as 255: above 200, and not below 1."""
    attributes = {"_Unsigned": "true", "valid_range": [least, -56] if is_empty else [0, -1]}
    made = Stored("i1", 3, [-1, 5], -1, attributes)
    store = made.write(tmp_path / "a.zarr")
    assert np.isnan(by_us(store, made.array(store), 3)).tolist() == [is_empty, False]


def test_a_kind_of_product_may_say_so(tmp_path: Path) -> None:
    made = Stored("u2", 3, [0, 1], 0)
    store = made.write(tmp_path / "a.zarr")
    encoding = Encoding.of(made.array(store), is_by_kind=True)
    assert encoding.no_data() == (0,)
    assert np.isnan(encoding.decode(made.values)).tolist() == [True, False]


def test_the_coordinate_of_a_dimension_lacks_nothing(tmp_path: Path) -> None:
    encoding = Encoding("/x", 3, np.dtype("i8"), np.int64(0), {"fill_value": 0}, is_index=True)
    assert encoding.no_data() == ()


def test_xarray_is_not_imported_to_know_what_a_product_holds(tmp_path: Path) -> None:
    made = Stored("f4", 3, [0, 1], 0, {"_FillValue": double(-9999), "fill_value": 0, "valid_min": 1})
    script = (
        "import sys\n"
        "from geozarr_runner.inspection.reader import open_product\n"
        "from geozarr_runner.planning.groups import report\n"
        f"product = open_product({str(made.write(tmp_path / 'a.zarr'))!r})\n"
        "repr(product), report(product, '')\n"
        "assert 'xarray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# --- what is no number -----------------------------------------------------------------------------------------------

NO_NUMBERS: dict[str, dict[str, Any]] = {
    "a scale in words": {"scale_factor": "0.0001"},
    "two scales": {"scale_factor": [1.0, 2.0]},
    "no scale at all": {"scale_factor": []},
    "a scale that is an object": {"scale_factor": {"value": 1}},
    "a scale that is true": {"scale_factor": True},
    "an offset beyond floats": {"add_offset": 10**400},
    "an offset in words": {"add_offset": "none"},
}
NO_FILL: dict[str, Any] = {"words": "none", "an object": {}, "a truth": True, "two": [1, 2], "half a double": "AAAA"}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("attributes", NO_NUMBERS.values(), ids=NO_NUMBERS.keys())
def test_what_is_no_number_is_said(attributes: dict[str, Any], zarr_format: int, tmp_path: Path) -> None:
    made = Stored("u2", zarr_format, [0, 1], 0, attributes)
    store = made.write(tmp_path / "a.zarr")
    said_of(made, store, next(iter(attributes)))


@pytest.mark.parametrize("dtype", ["u2", "f4"])
@pytest.mark.parametrize("fill", NO_FILL.values(), ids=NO_FILL.keys())
def test_a_fill_value_that_is_no_number_is_said(fill: Any, dtype: str, tmp_path: Path) -> None:
    made = Stored(dtype, 3, [0, 1], 0, {"_FillValue": fill})
    said_of(made, made.write(tmp_path / "a.zarr"), "_FillValue")


def said_of(made: Stored, store: Path, name: str) -> None:
    product = open_product(str(store))
    [array] = product.groups["/"].arrays
    assert f"its {name} " in array.unusable
    assert f"its {name} " in repr(product), "inspection says it, before anything is staged"
    with pytest.raises(ProductBroken) as caught:
        by_us(store, array, made.zarr_format)
    assert name in caught.value.message
    assert str(caught.value.given).endswith("/data")
    assert caught.value.remedy


def test_a_missing_value_that_cannot_be_one(tmp_path: Path) -> None:
    made = Stored("u2", 3, [0, 1], 0, {"missing_value": {"value": 1}})
    store = made.write(tmp_path / "a.zarr")
    with pytest.raises(ProductBroken) as caught:
        by_us(store, made.array(store), 3)
    assert str(caught.value.given).endswith("/data")


def test_a_document_that_zarr_cannot_read(tmp_path: Path) -> None:
    made = Stored("u2", 3, [0, 1], 0)
    array = made.array(made.write(tmp_path / "a.zarr"))
    broken = Array("/data", (2,), (2,), "uint16", ("n",), {}, json.loads('{"zarr_format": 3}'))
    assert Encoding.of(array).no_data() == ()
    with pytest.raises(ProductBroken) as caught:
        Encoding.of(broken, "store")
    assert caught.value.given == "store/data"
