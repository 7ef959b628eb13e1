"""Stored values mean what xarray reads, and one thing more; the reference is xarray, on stores written by hand."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xarray.backends.zarr import FillValueCoder

from geozarr_runner.errors import ProductBroken
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.product.encoding import Encoding
from geozarr_runner.product.model import Array
from geozarr_runner.product.sampler import StoredPixels
from geozarr_runner.stores.store import Store
from runner.tests.support import consolidated_v2, write_store

TYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")
NAMES_V3 = {"u": "uint", "i": "int", "f": "float"}
ALL = (slice(None),)


@dataclass
class Stored:
    """One array, `data`, in the root of a store."""

    dtype: str
    zarr_format: int
    raw: list[Any]
    fill_value: Any = 0
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> np.ndarray[Any, Any]:
        return np.array(self.raw, self.dtype)

    def write(self, root: Path, attributes: Mapping[str, Any] | None = None) -> Path:
        given = self.attributes if attributes is None else attributes
        size = len(self.raw)
        chunk = self.values.astype(f"<{self.dtype}").tobytes()
        if self.zarr_format == 2:
            array = {
                "zarr_format": 2,
                "shape": [size],
                "chunks": [size],
                "dtype": f"<{self.dtype}" if self.dtype[1] != "1" else f"|{self.dtype}",
                "fill_value": self.fill_value,
                "order": "C",
                "compressor": None,
                "filters": None,
            }
            documents: dict[str, Any] = {"data/.zarray": array, "data/.zattrs": {"_ARRAY_DIMENSIONS": ["n"], **given}}
            return write_store(root, consolidated_v2(documents) | {"data/0": chunk})
        node = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [size],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [size]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "data_type": f"{NAMES_V3[self.dtype[0]]}{8 * int(self.dtype[1])}",
            "fill_value": self.fill_value,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "dimension_names": ["n"],
            "attributes": given,
        }
        group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
        inline = {"kind": "inline", "must_understand": False, "metadata": {"data": node}}
        root_node = group | {"consolidated_metadata": inline}
        return write_store(root, {"zarr.json": root_node, "data/zarr.json": node, "data/c/0": chunk})

    def array(self, root: Path) -> Array:
        return open_product(str(root)).groups["/"].arrays[0]


def by_xarray(store: Path) -> np.ndarray[Any, Any]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        opened = xr.open_zarr(str(store), chunks=None)["data"]
        return np.asarray(opened.values)


def by_us(store: Path, array: Array, zarr_format: int) -> np.ndarray[Any, Any]:
    with np.errstate(all="ignore"):
        return StoredPixels(Store(str(store)), zarr_format, str(store)).read(array, ALL)


def by_gz_open(store: Path) -> np.ndarray[Any, Any]:
    gz = pytest.importorskip("geozarr_nb")  # the runner is tested without it too
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return np.asarray(gz.open(store, strict=False)["data"].values)


def double(number: float) -> str:
    return base64.b64encode(struct.pack("<d", number)).decode()


def spelled(number: float) -> Any:
    """A float as Zarr writes it into JSON."""
    return "NaN" if number != number else {np.inf: "Infinity", -np.inf: "-Infinity"}.get(number, number)


# --- as xarray -------------------------------------------------------------------------------------------------------


@st.composite
def numbers(draw: st.DrawFn, dtype: str) -> Any:
    if dtype[0] == "f":
        choice = st.sampled_from([0.0, -9999.0, 1.5, 3e5, float("nan"), float("inf"), float("-inf")])
        return draw(choice)
    info = np.iinfo(dtype)
    return draw(st.sampled_from([0, 1, 2, 7, info.min, info.max, info.max - 1, info.max // 2]))


@st.composite
def stored(draw: st.DrawFn) -> tuple[Stored, dict[str, Any]]:
    """An array as somebody may write it, and the attributes that say the same in the way that xarray understands."""
    dtype, zarr_format = draw(st.sampled_from(TYPES)), draw(st.sampled_from([2, 3]))
    one = numbers(dtype)
    raw = draw(st.lists(one, min_size=1, max_size=6))
    fill = draw(one) if zarr_format == 3 else draw(st.none() | one)
    given: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    if zarr_format == 3 and draw(st.booleans()):
        number = draw(one)
        plain["_FillValue"] = double(number) if dtype[0] == "f" else number
        forms = [plain["_FillValue"], [plain["_FillValue"]], number, spelled(number) if dtype[0] == "f" else number]
        given["_FillValue"] = draw(st.sampled_from(forms))
    if draw(st.booleans()):
        given["missing_value"] = plain["missing_value"] = draw(one | st.lists(one, min_size=1, max_size=3))
    for name in ("scale_factor", "add_offset"):
        if draw(st.booleans()):
            number = draw(st.sampled_from([0.0001, 0.5, -0.1, 2.0, 1, 10, -1000]))
            plain[name] = number
            given[name] = draw(st.sampled_from([number, [number]]))
    if draw(st.booleans()):
        given["_Unsigned"] = plain["_Unsigned"] = draw(st.sampled_from(["true", "false"]))
    lacks = "missing_value" in plain or "_FillValue" in plain or (zarr_format == 2 and fill is not None)
    if lacks and isinstance(plain.get("scale_factor"), int):
        plain["scale_factor"] = float(plain["scale_factor"])  # xarray itself fails with a whole number
    written = spelled(fill) if dtype[0] == "f" and fill is not None else fill
    return Stored(dtype, zarr_format, raw, written, given), plain


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
        np.testing.assert_array_equal(by_gz_open(store).astype(np.float64), expected)
        told = made.write(Path(folder) / "c.zarr", Encoding.of(array).told())
        np.testing.assert_array_equal(by_xarray(told).astype(np.float64), expected)


# --- the addition ----------------------------------------------------------------------------------------------------

CONFIRMED = {
    "the attribute": {"fill_value": 0},
    "the attribute, in a list": {"fill_value": [0]},
    "a least value": {"valid_min": 1},
    "a range": {"valid_range": [1, 65535]},
    "a least value of decoded ones": {"valid_min": 1.0, "scale_factor": 0.01, "add_offset": -5.0},
    "a fraction that excludes both": {"valid_range": [0.5, 3.0], "scale_factor": 0.1},
}
NOT_CONFIRMED = {
    "nothing": {},
    "another fill value": {"fill_value": 65535},
    "a valid range around it": {"valid_range": [0, 1000]},
    "a least value": {"valid_min": 0},
    "a range of decoded values": {"valid_range": [200.0, 330.0], "scale_factor": 0.01, "add_offset": 273.15},
    "words": {"valid_min": "one", "fill_value": "zero"},
    "a truth": {"fill_value": False},
    "its own": {"_FillValue": 7},
}


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("attributes", CONFIRMED.values(), ids=CONFIRMED.keys())
def test_a_confirmed_fill_value_is_no_data(attributes: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    made = Stored(dtype, 3, [0, 1, 5, 0], 0, dict(attributes))
    store = made.write(tmp_path / "a.zarr")
    array = made.array(store)
    empty = [True, False, False, True]
    assert np.isnan(by_us(store, array, 3)).tolist() == empty
    assert np.isnan(by_gz_open(store)).tolist() == empty
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
    assert not np.isnan(by_gz_open(store)).any()
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
    assert np.isnan(by_gz_open(store)).tolist() == empty


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
    for read in (lambda: by_us(store, array, made.zarr_format), lambda: by_gz_open(store)):
        with pytest.raises(ProductBroken) as caught:
            read()
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
