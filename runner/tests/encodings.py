"""Arrays of every encoding, as they may be stored: what tests of readers write, and what xarray makes of it."""

from __future__ import annotations

import base64
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from hypothesis import strategies as st

from geozarr_runner.inspection.reader import open_product
from geozarr_runner.product.model import Array
from runner.tests.support import consolidated_v2, write_store

TYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")
NAMES_V3 = {"u": "uint", "i": "int", "f": "float"}


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


def double(number: float) -> str:
    return base64.b64encode(struct.pack("<d", number)).decode()


def spelled(number: float) -> Any:
    """A float as Zarr writes it into JSON."""
    return "NaN" if number != number else {np.inf: "Infinity", -np.inf: "-Infinity"}.get(number, number)


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
