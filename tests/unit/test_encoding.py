"""`gz.open` shows what xarray reads, and one thing more; the reference is xarray, on stores written by hand."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import geozarr_nb as gz
from geozarr_runner.errors import ProductBroken
from runner.tests.encodings import CONFIRMED, NOT_CONFIRMED, Stored, by_xarray, double, stored


def by_gz_open(store: Path) -> np.ndarray[Any, Any]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return np.asarray(gz.open(store, strict=False)["data"].values)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(stored())
def test_values_are_those_of_xarray(case: tuple[Stored, dict[str, Any]]) -> None:
    made, plain = case
    with tempfile.TemporaryDirectory() as folder:
        store, reference = made.write(Path(folder) / "a.zarr"), made.write(Path(folder) / "b.zarr", plain)
        try:
            expected = by_xarray(reference).astype(np.float64)
        except (ValueError, TypeError, OverflowError, KeyError):
            return
        np.testing.assert_array_equal(by_gz_open(store).astype(np.float64), expected)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("attributes", CONFIRMED.values(), ids=CONFIRMED.keys())
def test_a_confirmed_fill_value_is_no_data(attributes: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    store = Stored(dtype, 3, [0, 1, 5, 0], 0, dict(attributes)).write(tmp_path / "a.zarr")
    assert np.isnan(by_gz_open(store)).tolist() == [True, False, False, True]
    assert np.isnan(by_xarray(store)).tolist() == [False] * 4, "else there is no need of it"


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4"])
@pytest.mark.parametrize("attributes", NOT_CONFIRMED.values(), ids=NOT_CONFIRMED.keys())
def test_a_fill_value_alone_is_a_value(attributes: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    given = dict(attributes)
    if dtype == "f4" and "_FillValue" in given:
        given["_FillValue"] = double(7)
    store = Stored(dtype, 3, [0, 1, 5, 0], 0, given).write(tmp_path / "a.zarr")
    assert not np.isnan(by_gz_open(store)).any()


def test_a_second_number_for_no_data_is_heard_beside_the_first(tmp_path: Path) -> None:
    attributes = {"_FillValue": 65535, "fill_value": 0, "missing_value": 9}
    store = Stored("u2", 3, [0, 1, 65535, 9], 0, attributes).write(tmp_path / "a.zarr")
    assert np.isnan(by_gz_open(store)).tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("dtype", "zarr_format", "attributes"),
    [
        ("u2", 2, {"scale_factor": "0.0001"}),
        ("u2", 3, {"scale_factor": [1.0, 2.0]}),
        ("u2", 3, {"add_offset": 10**400}),
        ("f4", 3, {"_FillValue": "AAAA"}),
    ],
)
def test_what_is_no_number_is_said(dtype: str, zarr_format: int, attributes: dict[str, Any], tmp_path: Path) -> None:
    store = Stored(dtype, zarr_format, [0, 1], 0, attributes).write(tmp_path / "a.zarr")
    with pytest.raises(ProductBroken) as caught:
        by_gz_open(store)
    assert next(iter(attributes)) in caught.value.message
    assert str(caught.value.given).endswith("/data")
    assert caught.value.remedy
