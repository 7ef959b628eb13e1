"""Ground control points of Sentinel-1: which pixel lies where.

A point names a line and a pixel, both counted from 0, to which its place applies (Sentinel-1 Product Specification,
S1-RS-MDA-52-7441, geolocationGridPoint). The point of line 0 and pixel 0 has the time and the range of the first
sample, which are those of its centre. GDAL counts from the corner of the first pixel, so there such a point lies at
(line + 0.5, pixel + 0.5), as in https://github.com/EOPF-Sample-Service/GDAL-ZARR-EOPF/pull/214. The converter hands
lines and pixels to GDAL as they are. So it is given points that were made from the product's: counted from the corner,
in one list, and with longitudes that go on beyond 180 degrees where a scene crosses the antimeridian.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geozarr_runner.errors import ProductBroken
from geozarr_runner.product.model import Array, Group

if TYPE_CHECKING:
    from rasterio.transform import GCPTransformer

    from geozarr_runner.product.sampler import StoredPixels, Values

POSITION = ("line", "pixel")
PLACE = ("longitude", "latitude")
HEIGHT = "height"
MADE = (*POSITION, *PLACE, HEIGHT)
DIMENSION = "gcp"
FEWEST, MOST = 3, 100_000
POINTS_FOR_HEIGHTS = 30  # so few that each term of a height would fit a point
CENTRE = 0.5  # from the corner of a pixel


@dataclass(frozen=True, slots=True)
class ControlPoints:
    """Points of an image, one value each.

    Attributes
    ----------
    rows, columns
        Counted from the corner of the first pixel, as GDAL counts.
    longitudes
        In degrees, from -180 and without a jump: beyond 180 where the points cross the antimeridian.
    given
        What an error calls them.
    """

    rows: Values
    columns: Values
    longitudes: Values
    latitudes: Values
    heights: Values
    given: str = ""

    @classmethod
    def read(cls, group: Group, source: StoredPixels) -> ControlPoints:
        """Read the points of a group in which `flaw` finds nothing.

        Raises
        ------
        ProductBroken
            They do not tell a place.
        """
        import numpy as np

        arrays = {array.name: array for array in group.arrays}
        dims, shape = arrays["latitude"].dims, arrays["latitude"].shape

        given = f"{source.address}{group.path}"

        def values(name: str) -> Values:
            array = arrays[name]
            window = tuple(slice(0, size) for size in array.shape)
            found, stored = source.read(array, window), source.read_path(array.path, window)
            found = np.where(np.isnan(found), stored, found)  # line 0 is a line, also where 0 is the fill value
            known = dict(zip(array.dims, array.shape, strict=True))
            spread: Values = np.broadcast_to(found.reshape([known.get(dim, 1) for dim in dims]), shape).ravel()
            if not np.isfinite(spread).all():
                raise _broken(given, f"{name} of one of them is no number")
            return spread

        longitudes, latitudes = values("longitude"), values("latitude")
        if abs(latitudes).max() > 90 or abs(longitudes).max() > 360:
            raise _broken(given, "one of them is no place on earth")
        longitudes = _without_jump(longitudes)
        if np.ptp(longitudes) >= 180:
            raise _broken(given, "they lie around a pole, where the converter cannot place pixels by degrees")
        heights = values(HEIGHT) if HEIGHT in arrays else np.zeros(latitudes.size)
        return cls(values("line") + CENTRE, values("pixel") + CENTRE, longitudes, latitudes, heights, given)

    @property
    def latitude(self) -> float:
        """The middle's."""
        return float(self.latitudes.mean())

    def transformer(self) -> GCPTransformer:
        """Return what GDAL makes of them: the converter warps by the same."""
        from rasterio.control import GroundControlPoint
        from rasterio.transform import GCPTransformer

        columns = (self.rows, self.columns, self.longitudes, self.latitudes, self.heights)
        return GCPTransformer([GroundControlPoint(*values) for values in zip(*columns, strict=True)])

    def misses(self) -> tuple[float, float]:
        """Return how far the points lie from where GDAL's polynomial puts them, in pixels: the median, and the worst.

        Raises
        ------
        ProductBroken
            GDAL makes no polynomial of them.
        """
        import numpy as np

        rows, columns = self.to_source(self.longitudes, self.latitudes)
        off = np.hypot(rows - self.rows, columns - self.columns)
        return float(np.median(off)), float(off.max())

    def curvature(self) -> float:
        """Return by how many pixels a polynomial of second order misses a point at worst, whatever its height.

        Heights move a point in every image that is not corrected for terrain. What they do not explain is the earth's
        curvature and the narrowing of degrees, and grows towards the poles.
        """
        import numpy as np

        across, along = (
            (values - values.mean()) / max(np.ptp(values), 1e-9) for values in (self.longitudes, self.latitudes)
        )
        terms = [np.ones_like(across), across, along, across**2, across * along, along**2]
        height = self.heights / max(abs(self.heights).max(), 1.0)
        if across.size >= POINTS_FOR_HEIGHTS:
            terms += [height, height * across, height * along, height**2]
        matrix = np.stack(terms, axis=1)
        off = (values - matrix @ np.linalg.lstsq(matrix, values)[0] for values in (self.rows, self.columns))
        return float(np.hypot(*off).max())

    def to_source(self, longitudes: Values, latitudes: Values) -> Values:
        """Return the rows and columns of places, counted from the corner of the first pixel, as GDAL has them.

        Raises
        ------
        ProductBroken
            GDAL makes no polynomial of the points.
        """
        import numpy as np
        from rasterio._err import CPLE_BaseError

        try:
            with self.transformer() as transformer:
                found = transformer.rowcol(longitudes, latitudes, op=np.asarray)
        except CPLE_BaseError as error:
            raise _broken(self.given, f"GDAL makes no map of them: {error}") from error
        places: Values = np.asarray(found, dtype=float)
        if not np.isfinite(places).all():
            raise _broken(self.given, "GDAL makes no map of them")
        return places

    def to_place(self, row: float, column: float) -> tuple[float, float]:
        """Return about which longitude and latitude a row and a column have, counted from the first pixel's corner."""
        with self.transformer() as transformer:
            longitude, latitude = transformer.xy(row, column, offset="ul")
        return float(longitude), float(latitude)

    def by_name(self) -> Mapping[str, Values]:
        """Return the values of each of the made arrays."""
        return dict(zip(MADE, (self.rows, self.columns, self.longitudes, self.latitudes, self.heights), strict=True))


def flaw(group: Group) -> str | None:
    """Return why the converter cannot place pixels by the points of a group; None where it can, or needs a look."""
    arrays = {array.name: array for array in group.arrays}
    missing = [name for name in (*POSITION, *PLACE) if name not in arrays]
    if missing:
        return f"{group.path} lacks {' and '.join(missing)}"
    dims, shape = arrays["latitude"].dims, arrays["latitude"].shape
    known = dict(zip(dims, shape, strict=True))
    for name in (name for name in MADE if name in arrays):
        array = arrays[name]
        if any(known.get(dim) != size for dim, size in zip(array.dims, array.shape, strict=True)):
            return f"{array.path} lies over ({', '.join(array.dims)}), and its latitude over ({', '.join(dims)})"
        if array.dims != tuple(dim for dim in dims if dim in array.dims):
            return f"{array.path} lies over ({', '.join(array.dims)}), and its latitude over ({', '.join(dims)})"
        if array.dtype.lstrip("<>|=")[:1] not in ("i", "u", "f"):
            return f"{array.path} holds no numbers"
    if not FEWEST <= count(group) <= MOST:
        return f"{group.path} has {count(group)} points, and {FEWEST} to {MOST} place a scene"
    return None


def count(group: Group) -> int:
    """Return the number of points."""
    found = 1
    for size in next(array.shape for array in group.arrays if array.name == "latitude"):
        found *= size
    return found


def made_arrays(path: str, size: int, zarr_format: int) -> tuple[Array, ...]:
    """Return the arrays of a group of made points."""
    return tuple(_array(f"{path}/{name}", size, zarr_format) for name in MADE)


def _broken(given: str, what: str) -> ProductBroken:
    return ProductBroken(
        f"its ground control points do not say where it lies: {what}",
        given=given,
        remedy="choose another scene, or tell whoever publishes this one",
    )


def _array(path: str, size: int, zarr_format: int) -> Array:
    dims = (DIMENSION,)
    if zarr_format == 3:
        document: dict[str, Any] = {
            "zarr_format": 3,
            "shape": [size],
            "data_type": "float64",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [size]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "fill_value": "NaN",
            "dimension_names": list(dims),
        }
        return Array(path, (size,), (size,), "float64", dims, {}, document)
    document = {
        "zarr_format": 2,
        "shape": [size],
        "chunks": [size],
        "dtype": "<f8",
        "fill_value": None,
        "order": "C",
        "compressor": None,
        "filters": None,
    }
    return Array(path, (size,), (size,), "<f8", dims, {"_ARRAY_DIMENSIONS": list(dims)}, document)


def _without_jump(longitudes: Values) -> Values:
    """Return longitudes that go on eastwards from behind their widest gap, the westernmost from -180 to 180."""
    import numpy as np

    if np.ptp(longitudes) >= 180:
        around = np.sort(longitudes % 360)
        gaps = np.diff(around, append=around[0] + 360)
        west = around[(int(np.argmax(gaps)) + 1) % around.size]
        longitudes = west + (longitudes - west) % 360
    west = longitudes.min()
    moved: Values = longitudes - 360 * np.floor((west + 180) / 360)
    return moved
