"""What the stored values of an array mean: how they are decoded, and which of them are no data.

It is xarray's reading of the CF conventions, done by xarray, with one addition. xarray takes a fill value for no data
where it is a Zarr v2 array's, or the attribute `_FillValue`. Every array of Zarr v3 has a fill value, mostly 0, and
EOPF products of Zarr v3 have no `_FillValue`. So a v3 array's fill value is no data where something confirms it: the
attribute `fill_value`, a valid range that excludes it, or its kind of product. Without that class 0, height 0 and 0 %
cloud are what they are. A valid range masks nothing else.

Whoever reads values with xarray, the converter too, is told so in xarray's own words: see `Encoding.told`.
"""

from __future__ import annotations

import base64
import math
import reprlib
import threading
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geozarr_runner.errors import ProductBroken
from geozarr_runner.product import metadata
from geozarr_runner.product.model import Array

if TYPE_CHECKING:
    import zarr

NUMBERS = "iuf"  # kinds of types, in numpy's letters
SCALING = ("scale_factor", "add_offset")
FILL = "_FillValue"
MISSING = "missing_value"
REMEDY = "have it written again by whoever publishes it; groups without it can be converted"
# How Zarr writes into JSON what JSON has no numbers for.
SPELLED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_WIDTH_OF_FLOAT = 8  # bytes: xarray writes the fill value of every float as a double
_quiet = threading.Lock()  # filters of warnings belong to the whole process


@dataclass(frozen=True, slots=True)
class Encoding:
    """What the stored values of one array mean.

    Attributes
    ----------
    place
        What an error calls the array.
    zarr_format, dtype, fill_value, attributes
        As they are stored; the fill value is one of the type, None where there is none.
    is_index
        It is the coordinate of its own dimension: CF allows no missing values there, so nothing is added.
    is_by_kind
        Its kind of product says that the fill value is no data.
    """

    place: str
    zarr_format: int
    dtype: np.dtype[Any]
    fill_value: Any
    attributes: Mapping[str, Any]
    is_index: bool = False
    is_by_kind: bool = False

    @classmethod
    def of(cls, array: Array, address: str = "", *, is_by_kind: bool = False) -> Encoding:
        """Return that of a product's array.

        Parameters
        ----------
        address
            What an error calls the store.

        Raises
        ------
        ProductBroken
            Its type or its fill value cannot be read.
        """
        place = f"{address}{array.path}"
        try:
            dtype, fill_value = metadata.values_of(array.metadata)
        except metadata.UNUSABLE as error:
            raise _broken(place, f"zarr cannot read its metadata: {error}") from error
        version = 3 if array.metadata.get("zarr_format") == 3 else 2
        return cls(place, version, dtype, fill_value, array.attributes, array.dims == (array.name,), is_by_kind)

    @classmethod
    def of_opened(cls, array: zarr.Array[Any], place: str, *, is_index: bool) -> Encoding:
        """Return that of an array that zarr has opened."""
        return cls(
            place,
            array.metadata.zarr_format,
            array.dtype,
            array.metadata.fill_value,
            array.metadata.attributes,
            is_index,
        )

    @property
    def is_number(self) -> bool:
        """True where the values are numbers, which alone are scaled and masked here."""
        return self.dtype.kind in NUMBERS

    def told(self) -> Mapping[str, Any]:
        """Return the attributes, in a store's encoding, with which xarray reads the array as it is meant.

        They are the array's own, the same object, where xarray needs no more.

        Raises
        ------
        ProductBroken
            Its scale, its offset or its fill value is no number.
        """
        if not self.is_number:
            return self.attributes
        if (wrong := flaw(self.attributes, self.zarr_format, self.dtype)) is not None:
            raise _broken(self.place, wrong)
        changes: dict[str, Any] = {}
        drops = set()
        for name in SCALING:
            if isinstance(value := self.attributes.get(name), list):
                changes[name] = value[0]  # xarray makes objects of what a list scales
        if self.zarr_format == 3:
            given = _alone(self.attributes.get(FILL))
            number = _number(given)
            if FILL in self.attributes and (given is None or (self.dtype.kind in "iu" and _is_nan(number))):
                drops.add(FILL)  # marks nothing, and xarray refuses it
            elif number is not None and (self.dtype.kind == "f" or given is not self.attributes[FILL]):
                changes[FILL] = self._written(number)
            elif isinstance(self.attributes.get(FILL), list):
                changes[FILL] = given  # a double that is written already
            changes |= self._addition(changes.get(FILL, None if FILL in drops else given))
        whole = changes.get("scale_factor", self.attributes.get("scale_factor"))
        if isinstance(whole, int) and self.attributes.get("add_offset") is None and self._has_no_data(changes, drops):
            changes["scale_factor"] = float(whole)  # xarray has no place for NaN among whole numbers
        if not changes and not drops:
            return self.attributes
        return {name: value for name, value in {**self.attributes, **changes}.items() if name not in drops}

    def no_data(self) -> tuple[int | float, ...]:
        """Return the stored numbers that are no data, `_FillValue` first; NaN among them where it is declared.

        Raises
        ------
        ProductBroken
            As `told` does, and where xarray cannot read its fill value.
        """
        if not self.is_number:
            return ()
        attributes = self._for_xarray()
        with self._read_by_xarray(MISSING):
            values = [value for name in (FILL, MISSING) for value in np.ravel(attributes.get(name, [])).tolist()]
        numbers = [value for value in values if _number(value, spelled={}) is not None]
        if self.dtype.kind in "iu":
            numbers = [number for number in numbers if not _is_nan(number)]
        return tuple({"NaN" if _is_nan(number) else number: number for number in numbers}.values())

    @property
    def scale(self) -> float | None:
        """The factor; None where there is none."""
        return _number(_alone(self.attributes.get("scale_factor")))

    @property
    def offset(self) -> float | None:
        """The offset; None where there is none."""
        return _number(_alone(self.attributes.get("add_offset")))

    @property
    def may_lack_data(self) -> bool:
        """True where a stored value may be no data."""
        return self.dtype.kind == "f" or bool(self.no_data())

    def decode(self, raw: NDArray[Any], *, times: bool = False) -> NDArray[Any]:
        """Return what stored values mean: NaN where they are no data, else scaled.

        Parameters
        ----------
        times
            Make times of numbers that are such; else they stay numbers.

        Raises
        ------
        ProductBroken
            xarray cannot decode them.
        """
        from xarray import Variable
        from xarray.conventions import decode_cf_variable

        from geozarr_runner.product.guard import within

        with within(self.place, "its values cannot be decoded", REMEDY), np.errstate(all="ignore"):
            variable = Variable([f"dim_{axis}" for axis in range(raw.ndim)], raw, dict(self._for_xarray()))
            with _quiet, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that there are two fill values, say
                decoded = decode_cf_variable(self.place, variable, decode_times=times, decode_timedelta=times)
            values: NDArray[Any] = np.asarray(decoded.values)
            return values

    def _for_xarray(self) -> Mapping[str, Any]:
        """Return the attributes as xarray's coders want them: the fill value is among them, as a number."""
        told = self.told()
        if self.zarr_format == 2:
            return told if self.fill_value is None else {**told, FILL: self.fill_value}
        if FILL not in told:
            return told
        from xarray.backends.zarr import FillValueCoder

        with self._read_by_xarray(FILL):
            return {**told, FILL: FillValueCoder.decode(told[FILL], self.dtype)}

    def _read_by_xarray(self, name: str) -> AbstractContextManager[None]:
        from geozarr_runner.product.guard import within

        return within(self.place, f"its {name} cannot be read", REMEDY)

    # --- the addition ------------------------------------------------------------------------------------------------

    def _addition(self, said: Any) -> dict[str, Any]:
        """Return what tells xarray that a v3 array's fill value is no data, where that is so and not said.

        Parameters
        ----------
        said
            Its `_FillValue`, as it is stored; None where it has none.
        """
        fill = self.fill_value
        if self.is_index or fill is None or _is_nan(fill) or not (self.is_by_kind or self._is_confirmed()):
            return {}
        missing = self.attributes.get(MISSING)
        listed = missing if isinstance(missing, list) else [] if missing is None else [missing]
        if any(self._is_fill(value) for value in listed):
            return {}
        number = fill.item()
        if said is None:
            return {FILL: self._written(number)}
        return {} if self._is_fill(self._read(said)) else {MISSING: [*listed, number]}

    def _is_confirmed(self) -> bool:
        """Return whether the attributes say that the array's fill value is no data."""
        return self._is_fill(self.attributes.get("fill_value")) or self._is_out_of_range()

    def _is_fill(self, value: Any) -> bool:
        """Return whether a value of an attribute is the fill value, in the array's type."""
        number = _number(_alone(value))
        if number is None:
            return False
        if self.dtype.kind == "f":
            with np.errstate(over="ignore"):
                return bool(self.dtype.type(number) == self.fill_value)
        return bool(number == self.fill_value.item())

    def _is_out_of_range(self) -> bool:
        """Return whether `valid_min`, `valid_max` or `valid_range` excludes the fill value.

        They are of stored values. Where they are fractions, they may as well be of decoded ones: then both have to
        exclude it.
        """
        least, most = (self.attributes.get(name) for name in ("valid_min", "valid_max"))
        both = self.attributes.get("valid_range")
        pair = both if isinstance(both, list) and len(both) == 2 else (None, None)
        lows = [self._as_read(limit) for limit in map(_number, map(_alone, (least, pair[0]))) if limit is not None]
        highs = [self._as_read(limit) for limit in map(_number, map(_alone, (most, pair[1]))) if limit is not None]
        fill = self._as_read(self.fill_value.item())
        readings = [fill]
        if any(isinstance(limit, float) for limit in (*lows, *highs)):
            scale = self.scale
            readings.append(fill * (1 if scale is None else scale) + (self.offset or 0))
        return all(any(reading < low for low in lows) or any(reading > high for high in highs) for reading in readings)

    def _as_read(self, number: int | float) -> int | float:
        """Return a stored number as `_Unsigned` has it read."""
        unsigned = {"i": "true", "u": "false"}.get(self.dtype.kind)
        if unsigned is None or self.attributes.get("_Unsigned") != unsigned or not isinstance(number, int):
            return number
        width = 8 * self.dtype.itemsize
        number %= 1 << width
        return number - (1 << width) if unsigned == "false" and number >= 1 << (width - 1) else number

    def _has_no_data(self, changes: Mapping[str, Any], drops: set[str]) -> bool:
        if self.zarr_format == 2 and self.fill_value is not None:
            return True
        given = {**self.attributes, **changes}
        return any(given.get(name) is not None and name not in drops for name in (FILL, MISSING))

    def _written(self, number: int | float) -> Any:
        """Return a number as xarray stores it as a fill value of this array."""
        if self.dtype.kind in "iu":
            return int(number)
        return base64.b64encode(np.float64(number).astype("<f8").tobytes()).decode()

    def _read(self, stored: Any) -> Any:
        return np.frombuffer(base64.b64decode(stored), "<f8")[0].item() if self.dtype.kind == "f" else stored


def flaw(attributes: Mapping[str, Any], zarr_format: int, dtype: np.dtype[Any]) -> str | None:
    """Return what is wrong with the numbers by which an array's values are decoded; None where nothing is."""
    for name in SCALING:
        value = attributes.get(name)
        if value is not None and _number(_alone(value), spelled={}) is None:
            return f"its {name} {reprlib.repr(value)} is no number"
    if zarr_format == 3 and dtype.kind in NUMBERS and (value := _alone(attributes.get(FILL))) is not None:
        is_read = _number(value) is not None or (dtype.kind == "f" and _is_double(value))
        if not is_read or (dtype.kind in "iu" and math.isinf(_number(value) or 0)):
            return f"its {FILL} {reprlib.repr(value)} is no number"
    return None


def unusable(attributes: Mapping[str, Any], zarr_format: int, dtype: str) -> str:
    """Return why an array's values cannot be decoded, as `flaw` does, of a type by its name; empty where they can."""
    try:
        known = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):
        known = np.dtype(object)
    return flaw(attributes, zarr_format, known) or ""


def told_to_readers(array: zarr.Array[Any], place: str, *, is_index: bool) -> None:
    """Make xarray read an array that zarr has opened as it is meant; what is stored stays as it is.

    Raises
    ------
    ProductBroken
        As `Encoding.told` does.
    """
    encoding = Encoding.of_opened(array, place, is_index=is_index)
    told = encoding.told()
    if told is not encoding.attributes:
        attributes: dict[str, Any] = array.metadata.attributes
        for name in attributes.keys() - told.keys():
            del attributes[name]
        attributes.update(told)


def _broken(place: str, what: str) -> ProductBroken:
    return ProductBroken(what, given=place, remedy=REMEDY)


def _alone(value: Any) -> Any:
    """Return what is in a list of one; anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _number(value: Any, spelled: Mapping[str, float] = SPELLED) -> int | float | None:
    """Return the number that a value of an attribute is, within what a float can hold; None for anything else."""
    if isinstance(value, str):
        return spelled.get(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, float) or abs(value) < 2**1000 else None


def _is_nan(value: Any) -> bool:
    return value is not None and bool(value != value)


def _is_double(text: Any) -> bool:
    try:
        return isinstance(text, str) and len(base64.b64decode(text)) == _WIDTH_OF_FLOAT
    except ValueError:
        return False
