"""Sampled pixels: what a reader of the output would see, against what a reader of the source would."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geozarr_runner.product.encoding import Encoding
from geozarr_runner.product.model import Array, Product
from geozarr_runner.product.windows import Window, middle, pieces, region, whole
from geozarr_runner.stores.store import Store
from geozarr_runner.trust.addresses import redact

if TYPE_CHECKING:
    import zarr

WINDOW = 128
LONG = 10_000  # texts or times along one dimension
LAYERS_SAMPLED = 64  # bands or times that lie in objects of their own
SMALLEST_OBJECTS_SAMPLED = 3  # nothing compresses as well as no data
OBJECTS_WEIGHED = 2_000
LOOKED_THROUGH = 2048  # pixels along each dimension of one of them
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """A variable of the source and what became of it."""

    source: Array
    output: Array
    overviews: tuple[Array, ...]
    warped: bool


class StoredPixels:
    """Decoded values of the arrays of one store.

    Parameters
    ----------
    is_view
        See `Store.for_zarr`.
    encoding
        Returns what the stored values of an array mean; `address` is what an error calls the store.
    documents
        The metadata of the arrays by their paths, where those of the store may not be parsed; see `of`.

    Attributes
    ----------
    address
        What an error calls the store.
    """

    def __init__(
        self,
        store: Store,
        zarr_format: int,
        address: str,
        *,
        is_view: bool = False,
        encoding: Callable[[Array, str], Encoding] = Encoding.of,
        documents: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        # Here and not by the threads that read: several that import it at once find halves of it.
        import xarray.backends  # noqa: F401
        import zarr

        self.store = store
        self.address = address
        self._encoding = encoding
        self._documents = documents
        with store.translated():
            self._opened = store.for_zarr(is_view=is_view, keeps=documents is not None)
            if documents is None:
                self._root: zarr.Group = zarr.open_group(
                    self._opened, mode="r", zarr_format=3 if zarr_format == 3 else 2
                )

    @classmethod
    def of(cls, product: Product) -> StoredPixels:
        """Return the values of a product as it is published, of which no view is made yet.

        zarr parses the metadata of all that a store holds, and imports what a codec is named. So it is given those of
        the arrays that are read, as inspection has passed them, and asks the store for nothing but their objects.
        """
        documents = {array.path: array.metadata for group in product.groups.values() for array in group.arrays}
        return cls(product.store, product.zarr_format, redact(product.url), documents=documents)

    def encoding(self, array: Array) -> Encoding:
        """Return what the stored values of an array mean."""
        return self._encoding(array, self.address)

    def read(self, array: Array, window: Window) -> Values:
        """Return a window as xarray reads it: scaled, and NaN where there is nothing; see `encoding`.

        Raises
        ------
        ProductBroken
            A stored object cannot be decoded, or becomes more than its array has room for; or its attributes cannot be
            understood.
        """
        return self._decoded(array, window).astype(np.float64)

    def read_as_it_is(self, array: Array, window: Window) -> NDArray[Any]:
        """Return a window of an array that holds texts or times, as xarray reads it.

        Raises
        ------
        ProductBroken
            As `read` does.
        """
        return self._decoded(array, window, times=True)

    def read_path(self, path: str, window: Window) -> Values:
        """Return a window of an array that holds plain numbers, coordinates say."""
        with self.store.translated():
            return np.asarray(self._open(path)[window], dtype=np.float64)

    def _decoded(self, array: Array, window: Window, *, times: bool = False) -> NDArray[Any]:
        with self.store.translated():
            raw = np.asarray(self._open(array.path)[window])
        return self.encoding(array).decode(raw, times=times)

    def _open(self, path: str) -> Any:
        from geozarr_runner.product.guard import guard, within

        key = path.strip("/")
        if self._documents is None:
            array: Any = self._root[key]
            return guard(array, self.address)
        import zarr
        from zarr.core.array import AsyncArray
        from zarr.storage import StorePath

        with within(f"{self.address}/{key}", "zarr cannot read its metadata", "have it written again"):
            known: Any = {"node_type": "array", **self._documents[f"/{key}"]}
            return guard(zarr.Array(AsyncArray(known, StorePath(self._opened, key))), self.address)


def compare(pair: Pair, source: StoredPixels, written: StoredPixels) -> tuple[list[str], int]:
    """Compare a variable that kept its grid.

    Returns
    -------
    problems, pixels
        What is wrong, and how many pixels were compared: a window of one stored object, in each layer; where the source
        has most likely no data, and most likely data; and all of what has one dimension, such as coordinates.
    """
    if not comparable(pair.source):
        return _compare_as_it_is(pair, source, written)
    problems = []
    pixels = 0
    scale = source.encoding(pair.source).scale
    tolerance = 1e-6 * abs(1 if scale is None else scale)  # float32's rounding near zero
    if len(pair.output.shape) == 1:
        chosen, windows = None, list(pieces(whole(pair.output)))
    else:
        chosen = sample(pair)
        windows = [chosen, *_layers(pair.output, chosen), *telling(pair.source, source)]
    for window in windows:
        expected, actual = source.read(pair.source, window), written.read(pair.output, window)
        pixels += expected.size
        wrong = ~np.isclose(expected, actual, rtol=_share(pair.source), atol=tolerance, equal_nan=True)
        if wrong.any():
            problems.append(
                f"{pair.output.path}: {wrong.sum()} of {wrong.size} sampled pixels differ from the source, "
                f"e.g. {actual[wrong][0]:g} instead of {expected[wrong][0]:g}"
            )
        if window is chosen:
            problems += check_overviews(pair, window, actual, written)
    return problems, pixels


def _compare_as_it_is(pair: Pair, source: StoredPixels, written: StoredPixels) -> tuple[list[str], int]:
    """Compare texts or times."""
    window = middle(whole(pair.output), WINDOW if len(pair.output.shape) > 1 else LONG)
    expected = _as_text(source.read_as_it_is(pair.source, window))
    actual = _as_text(written.read_as_it_is(pair.output, window))
    wrong = expected != actual
    if not wrong.any():
        return [], expected.size
    return [
        f"{pair.output.path}: {wrong.sum()} of {wrong.size} sampled values differ from the source, "
        f"e.g. {actual[wrong][0]!s:.40} instead of {expected[wrong][0]!s:.40}"
    ], expected.size


def _as_text(values: NDArray[Any]) -> NDArray[Any]:
    """Return values in one type, whatever each format of Zarr has them in; times to the nanosecond."""
    if values.dtype.kind in "mM":
        return values.astype(f"{values.dtype.kind}8[ns]").astype(str)

    def text(value: Any) -> str:
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        return "" if value is None or value != value else str(value)  # what is missing is empty

    return np.array([text(value) for value in values.ravel()], dtype=object).reshape(values.shape)


def _layers(array: Array, chosen: Window) -> Iterator[Window]:
    """Yield the same window in the other layers, bands say, that lie in objects of their own."""
    *counts, _, _ = array.grid
    *edges, _, _ = array.chunks
    total = math.prod(counts)
    for number in range(0, total, -(-total // LAYERS_SAMPLED) or 1):
        place = np.unravel_index(number, counts) if counts else ()
        starts = [int(each) * edge for each, edge in zip(place, edges, strict=True)]
        if any(not part.start <= start < part.stop for start, part in zip(starts, chosen, strict=False)):
            yield (*(slice(start, start + 1) for start in starts), *chosen[-2:])


def _share(array: Array) -> float:
    """Return by which share of it a value may differ: a grid's coordinates, millions of metres, by none to speak of."""
    return 1e-9 if array.dims == (array.name,) else 1e-5


def comparable(array: Array) -> bool:
    """Return whether an array's values are numbers or booleans: no texts and no times."""
    units = str(array.attributes.get("units", ""))
    times = " since " in units or "timedelta" in str(array.attributes.get("dtype", ""))
    dtype = array.dtype.lstrip("<>|=")
    is_number = (dtype[:1] in ("u", "i", "f") and not array.is_text) or dtype in ("b1", "bool")
    return bool(array.shape) and is_number and not times


def sample(pair: Pair) -> Window:
    """Return a window inside one stored object of the output: always the same for an array, another for another.

    Its edges are edges of pixels of every overview too.
    """
    digest = hashlib.sha256(pair.output.path.encode()).digest()
    index = tuple(digest[axis] % count for axis, count in enumerate(pair.output.grid))
    return align(pair, middle(region(pair.output, index), WINDOW))


def align(pair: Pair, window: Window) -> Window:
    """Return the window, moved and widened so that its edges are edges of pixels of every overview."""
    moved = list(window)
    for axis in (-2, -1) if pair.overviews else ():
        size = pair.output.shape[axis]
        step = math.lcm(*(max(size // overview.shape[axis], 1) for overview in pair.overviews))
        start = window[axis].start // step * step
        stop = max(window[axis].stop // step * step, start + step)
        moved[axis] = (
            slice(start, stop) if stop <= size else slice(max(size // step - 1, 0) * step, size // step * step)
        )
    return tuple(moved)


def check_overviews(pair: Pair, window: Window, native: Values, written: StoredPixels) -> list[str]:
    """Return what is wrong with a variable's overviews where they stand for a window of it, whose values are given."""
    found = (_check_overview(pair.output, overview, window, native, written) for overview in pair.overviews)
    return [problem for problem in found if problem]


def _check_overview(native: Array, overview: Array, window: Window, fine: Values, written: StoredPixels) -> str | None:
    """Each pixel of an overview has to lie within the pixels that it stands for."""
    if len(overview.shape) != len(native.shape):
        return f"{overview.path}: it has {len(overview.shape)} dimensions and not {len(native.shape)}"
    factors = [full // coarse for full, coarse in zip(native.shape[-2:], overview.shape[-2:], strict=True)]
    if min(factors) < 2:
        return f"{overview.path}: it is not coarser than {native.path}"
    # Where the size is no multiple, an overview leaves the last pixels out.
    coarse = [
        slice(part.start // factor, min(part.stop // factor, size))
        for part, factor, size in zip(window[-2:], factors, overview.shape[-2:], strict=True)
    ]
    actual = written.read(overview, (*window[:-2], *coarse))
    *lead, height, width = actual.shape
    fine = fine[..., : height * factors[0], : width * factors[1]]
    fine = fine.reshape(*lead, height, factors[0], width, factors[1])
    whole = np.isfinite(fine).all(axis=(-3, -1))
    low, high = fine.min(axis=(-3, -1)), fine.max(axis=(-3, -1))
    slack = 1e-5 * np.maximum(np.abs(low), np.abs(high))
    with np.errstate(invalid="ignore"):
        inside = (actual >= low - slack) & (actual <= high + slack)
    wrong = whole & ~inside
    if wrong.any():
        return f"{overview.path}: {wrong.sum()} of {wrong.size} sampled pixels are not of the pixels they stand for"
    return None


def telling(array: Array, source: StoredPixels) -> Iterator[Window]:
    """Yield windows of the source's smallest objects, where a border of its data is likely, and of its largest one.

    An output that takes no data for a number, or a number for no data, is found there even where little of a scene has
    none.
    """
    root = source.store.local
    if root is None or len(array.shape) < 2 or not source.encoding(array).may_lack_data:
        return

    def weight(index: tuple[int, ...]) -> int:
        path = root / array.path.strip("/") / array.key(index)
        return path.stat().st_size if path.exists() else 0

    step = -(-array.objects // OBJECTS_WEIGHED)
    weighed = sorted((weight(index), index) for index in islice(array.indices(), 0, None, step))
    smallest = [index for _, index in weighed[:SMALLEST_OBJECTS_SAMPLED]]
    found = None
    for index in smallest:
        found, is_border = _border(array, index, source)
        if is_border:
            break
    if found is not None:
        yield found
    if weighed and (largest := weighed[-1][1]) not in smallest:
        yield _border(array, largest, source)[0]


def _border(array: Array, index: tuple[int, ...], source: StoredPixels) -> tuple[Window, bool]:
    """Return a window of one stored object, and whether it lies where its data begin or end."""
    around = middle(region(array, index), LOOKED_THROUGH)
    empty = np.isnan(source.read(array, around))
    other = np.argwhere(empty != empty.flat[0])
    if not len(other):
        return middle(region(array, index), WINDOW), False
    window = []
    for part, place in zip(around, other[0], strict=True):
        start = min(max(part.start + int(place) - WINDOW // 2, part.start), max(part.stop - WINDOW, part.start))
        window.append(slice(start, min(start + WINDOW, part.stop)))
    return tuple(window), True
