"""A picture of a converted product, from as few of its chunks as do: some bands of one overview."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, cos, radians, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geozarr_nb.outputs.bands import Bands, Channel, choose_level, find_bands
from geozarr_nb.outputs.groups import CONVERT_AGAIN
from geozarr_nb.outputs.open import Output
from geozarr_runner.errors import InvalidRequest, ProductBroken, StorageFailed
from geozarr_runner.events import human_bytes
from geozarr_runner.stores.access.failures import storage_failure
from geozarr_runner.text.printable import printable

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from numpy.typing import NDArray
    from PIL.Image import Image

    from geozarr_nb.outputs.location import FinishedJob

ENOUGH_PIXELS = 480
MOST_PIXELS = 150_000_000  # of one band: those of a Sentinel-2 tile at 10 m, and some
FEW_PIXELS = 16_000_000  # of one that has more
LARGEST_CHUNK = 300_000_000  # bytes; several are decoded at once
SQUARE_ENOUGH = 0.02
MIDDLE = 0.35
STEEPEST = 0.4


@dataclass(frozen=True)
class Preview:
    """A picture that Jupyter shows, with what it was made from.

    Attributes
    ----------
    pixels
        Red, green, blue and opacity: rows x columns x 4, uint8. North is up; where there is no data it is transparent.
    group
        The group that is shown.
    bands
        Three bands as red, green, blue, or one in grey.
    level
        The overview that was read, 0 for native.
    ranges
        The values drawn darkest and brightest, for each band, in `unit`.
    gamma
        Exponent of the brightness between the two; below 1 it lightens what lies in between.
    """

    pixels: NDArray[np.uint8] = field(repr=False)
    group: str
    bands: tuple[str, ...]
    level: int
    ranges: tuple[tuple[float, float], ...]
    unit: str = ""
    gamma: float = 1.0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def image(self) -> Image:
        """The picture for Pillow: RGB, with an alpha channel where something is transparent."""
        from PIL import Image

        opaque = bool((self.pixels[..., 3] == 255).all())
        return Image.fromarray(self.pixels[..., :3].copy() if opaque else self.pixels)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture as PNG, JPEG or WebP, as the name says; JPEG gets white where there is no data.

        Raises
        ------
        InvalidRequest
            The name ends in something else.
        StorageFailed
            The file cannot be written.
        """
        from PIL import Image

        target = Path(os.path.expanduser(path))  # noqa: PTH111  pathlib's raises where an account has no home
        kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(target.suffix.lower())
        if kind is None:
            raise InvalidRequest(
                "no such picture format", given=target, remedy="end the name with .png, .jpg, .jpeg or .webp"
            )
        image = self.image
        if kind == "JPEG" and image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        encoded = io.BytesIO()
        image.save(encoded, kind, optimize=True)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(encoded.getvalue())
        except OSError as error:
            raise storage_failure(error, target) or StorageFailed(
                f"the picture cannot be written: {error.strerror}", given=target, remedy="choose another path"
            ) from error
        return target

    def _repr_png_(self) -> bytes:
        encoded = io.BytesIO()
        self.image.save(encoded, "PNG")
        return encoded.getvalue()

    def __repr__(self) -> str:
        """Return what is shown, from where, and between which values."""
        drawn = ", ".join(
            f"{band} {low:.4g} to {high:.4g}{self.unit and f' {self.unit}'}"
            for band, (low, high) in zip(self.bands, self.ranges, strict=True)
        )
        width, height = self.size
        curve = f"; gamma {self.gamma:.2g}" if self.gamma < 1 else ""
        return printable(f"<Preview {self.group} at level {self.level}: {drawn}{curve}; {width} x {height} pixels>")


def preview(
    output: str | os.PathLike[str] | FinishedJob,
    *,
    group: str | None = None,
    bands: str | Sequence[str] | None = None,
    level: int | Literal["auto", "native", "coarsest"] = "auto",
    stretch: tuple[float, float] = (2, 98),
    size: int | None = None,
) -> Preview:
    """Draw a picture of an output, from an overview where it has one.

    Parameters
    ----------
    output
        A path, an address of any protocol that fsspec knows, or a job that succeeded.
    group
        Absolute path of the group, or as much of its end as is unique ("r20m"). None takes the finest one with
        red, green and blue; else a radar composite of both polarisations (co, cross, their ratio); else the first.
    bands
        One for grey, three for red, green and blue. None takes true colour where the bands are there, else the first.
    level
        0 for native, a number for that overview, "coarsest" for the smallest. "auto" takes the coarsest with enough
        pixels: `size`, or 480 on the longer side. Only that level's chunks of those bands are read; of a level with
        more than 150 million pixels only some rows and columns.
    stretch
        Percentiles of the valid pixels that are drawn darkest and brightest.
    size
        Longer side of the picture in pixels; None draws the level's own pixels.

    Returns
    -------
    Preview
        North is up and ground distances are equal along both sides, for a grid with one-dimensional coordinates; a
        swath is drawn as it lies in the store. Radar amplitudes are drawn in dB.

    Raises
    ------
    InvalidRequest
        There is no output (yet); it has no such group, band or level; or it has nothing that can be drawn.
    ProductUnreachable, ProductDenied, ProductBroken
        A remote store does not answer, or refuses; or the output cannot be read.
    """
    from geozarr_runner.product.guard import within

    _check(stretch, size)
    source = Output(output)
    wanted = tuple(re.split(r"[,\s]+", bands.strip())) if isinstance(bands, str) else tuple(bands or ())
    scene = find_bands(source, group, wanted)
    chosen = choose_level(scene, level, size or ENOUGH_PIXELS)
    with within(source.address, "its pixels cannot be read", CONVERT_AGAIN):
        return _drawn(source, scene, chosen.number, stretch, size)


def _drawn(source: Output, scene: Bands, number: int, stretch: tuple[float, float], size: int | None) -> Preview:
    arrays = [_read(source, channel, number) for channel in scene.channels]
    read = [_values(source, channel, number, array) for channel, array in zip(scene.channels, arrays, strict=True)]
    names, values, unit = _bands(scene, read)
    ranges = _ranges(values, stretch)
    if not ranges:
        raise InvalidRequest(
            f"there is no valid pixel in {', '.join(names)} at level {number}",
            given=source.address,
            remedy="choose other bands or another group",
        )
    scaled = _scaled(values, ranges)
    gamma = 1.0 if scene.is_radar else _gamma(scaled)
    pixels = _resized(_upright(_painted(scaled**gamma), arrays[0]), _pixel_ratio(arrays[0]), size)
    return Preview(pixels, scene.group, names, number, ranges, unit, gamma)


def _check(stretch: tuple[float, float], size: int | None) -> None:
    if not (len(stretch) == 2 and 0 <= stretch[0] < stretch[1] <= 100):
        raise InvalidRequest(
            "not two percentiles, lower one first", given=f"stretch={stretch}", remedy="for example stretch=(2, 98)"
        )
    if size is not None and size < 1:
        raise InvalidRequest("a picture has at least one pixel", given=f"size={size}", remedy="for example size=512")


def _read(source: Output, channel: Channel, number: int) -> xr.DataArray:
    level = channel.at(number)
    if level is None:
        raise AssertionError(f"{channel.name} was chosen at a level that it does not have: {number}")
    if (size := source.chunk_bytes(level.path, channel.variable)) > LARGEST_CHUNK:
        raise ProductBroken(
            f"its chunks are too large for a picture: each has {human_bytes(size)}",
            given=f"{source.address}{level.path.rstrip('/')}/{channel.variable}",
            remedy="choose another level or band, or read a part of it with gz.open",
        )
    rows, columns = level.shape or (1, 1)
    step = ceil(sqrt(rows * columns / FEW_PIXELS)) if rows * columns > MOST_PIXELS else 1
    array = source.dataset(level.path, chunked=step == 1)[channel.variable]
    while array.ndim > 2:
        array = array.isel({array.dims[0]: channel.index})
    return array[::step, ::step] if step > 1 else array


def _values(source: Output, channel: Channel, number: int, array: xr.DataArray) -> NDArray[np.float32]:
    """Read the pixels, with NaN where there is nothing, also where the converter's overviews forget that.

    As eopf-geozarr 0.12.0 writes them: bands that it averages into coarser Sentinel-2 groups have 0 there, and
    overviews of an integer raster have the native missing value, or an average with it along the edge.
    """
    import numpy as np

    values = array.values.astype(np.float32)
    if "_derived_from" in array.attrs and array.dtype.kind == "f":
        values[values == 0] = np.nan
    missing = _forgotten(source, channel, number)
    if len(missing) and (outside := np.isin(values, missing)).any():
        padded = np.pad(outside, 1)
        rows, columns = outside.shape
        for row, column in np.ndindex(3, 3):
            values[padded[row : row + rows, column : column + columns]] = np.nan
    return values


def _forgotten(source: Output, channel: Channel, number: int) -> NDArray[np.float32]:
    """Return what the native level's numbers for no data are read as in a level that does not know them."""
    import numpy as np

    native, shown = channel.levels[0], channel.at(number)
    if shown is None or channel.variable not in native.variables:
        return np.empty(0, np.float32)
    encoding = source.encoding(shown.path, channel.variable)
    known = encoding.no_data()
    stored = [each for each in source.encoding(native.path, channel.variable).no_data() if each not in known]
    return encoding.decode(np.array([each for each in stored if np.isfinite(each)], np.float64)).astype(np.float32)


def _bands(scene: Bands, arrays: list[NDArray[np.float32]]) -> tuple[tuple[str, ...], NDArray[np.float32], str]:
    """Return the names of the bands, their values (bands x rows x columns, NaN for none) and the values' unit."""
    import numpy as np

    values = np.stack(arrays)
    names = tuple(channel.name for channel in scene.channels)
    if not scene.is_radar:
        return names, values, ""
    # Amplitudes span four orders of magnitude, and zero is where the sensor saw nothing.
    decibel = 20 * np.log10(np.where(values > 0, values, np.nan))
    if len(names) == 2:
        return (*names, f"{names[0]}/{names[1]}"), np.stack([*decibel, decibel[0] - decibel[1]]), "dB"
    return names, decibel, "dB"


def _ranges(values: NDArray[np.float32], stretch: tuple[float, float]) -> tuple[tuple[float, float], ...]:
    """Return darkest and brightest value of each band; nothing where no pixel is valid in all bands."""
    import numpy as np

    valid = np.isfinite(values).all(axis=0)
    if not valid.any():
        return ()
    low, high = np.percentile(values[:, valid], stretch, axis=1)
    return tuple((float(first), float(last)) for first, last in zip(low, high, strict=True))


def _scaled(values: NDArray[np.float32], ranges: tuple[tuple[float, float], ...]) -> NDArray[np.float32]:
    """Return the bands between 0 (darkest) and 1 (brightest); NaN in all where one has no value."""
    import numpy as np

    low, high = np.array(ranges, np.float32).T[:, :, None, None]
    flat = high <= low
    scaled = np.clip((values - low) / np.where(flat, 1, high - low), 0, 1)
    scaled = np.where(flat, np.float32(0.5), scaled)
    return np.where(np.isfinite(values).all(axis=0), scaled, np.float32(np.nan))


def _gamma(scaled: NDArray[np.float32]) -> float:
    """Return the exponent that lifts the median to middle brightness, as clouds and snow leave all else dark."""
    import numpy as np

    median = float(np.nanmedian(scaled))
    return float(np.clip(np.log(MIDDLE) / np.log(median), STEEPEST, 1)) if 0 < median < 1 else 1.0


def _painted(brightness: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return red, green, blue and opacity of one band (grey) or three."""
    import numpy as np

    valid = np.isfinite(brightness[0])
    pixels = np.zeros((*valid.shape, 4), np.uint8)
    pixels[..., :3] = np.moveaxis(np.nan_to_num(brightness) * 255 + 0.5, 0, -1).astype(np.uint8)
    pixels[..., 3] = np.where(valid, 255, 0)
    return pixels


def _upright(pixels: NDArray[np.uint8], array: xr.DataArray) -> NDArray[np.uint8]:
    pixels = pixels[::-1] if _direction(array, 0, "latitude") > 0 else pixels
    return pixels[:, ::-1] if _direction(array, 1, "longitude") < 0 else pixels


def _direction(array: xr.DataArray, axis: int, name: str) -> float:
    """Return the sense in which northing or easting goes along an axis: of its coordinate, else of a swath's centre."""
    import numpy as np

    dimension, other = array.dims[axis], array.dims[1 - axis]
    if (step := _spacing(array, dimension)) is not None:
        return step
    location = array.coords.get(name)
    if location is None or location.dims != array.dims:
        return 0.0
    first, last = location.isel({dimension: [0, -1], other: location.sizes[other] // 2}).values.astype(np.float64)
    return float(last - first)


def _pixel_ratio(array: xr.DataArray) -> float:
    """Return the height of a pixel on the ground divided by its width."""
    rows, columns = (_spacing(array, dimension) for dimension in array.dims)
    if not rows or not columns:
        return 1.0
    ratio = abs(rows / columns)
    vertical = array.coords[array.dims[0]]
    reference = array.coords[array.encoding["grid_mapping"]].attrs if "grid_mapping" in array.encoding else {}
    named = reference.get("grid_mapping_name") == "latitude_longitude"
    if named or str(vertical.attrs.get("units", "")).startswith("degree"):
        ratio /= max(cos(radians(float(vertical.mean()))), 0.01)
    return ratio


def _spacing(array: xr.DataArray, dimension: Any) -> float | None:
    """Return the step along a dimension's coordinate; None where it has none that tells."""
    coordinate = array.coords.get(dimension)
    if coordinate is None or coordinate.ndim != 1 or coordinate.size < 2 or coordinate.dtype.kind not in "iuf":
        return None
    return float((coordinate[-1] - coordinate[0]) / (coordinate.size - 1))


def _resized(pixels: NDArray[np.uint8], ratio: float, size: int | None) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    height, width = pixels.shape[:2]
    target_width, target_height = float(width), float(height)
    if abs(ratio - 1) > SQUARE_ENOUGH:
        target_width, target_height = (width, height * ratio) if ratio > 1 else (width / ratio, height)
    scale = size / max(target_width, target_height) if size else 1.0
    target = max(1, round(target_width * scale)), max(1, round(target_height * scale))
    if target == (width, height):
        return np.ascontiguousarray(pixels)
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(target, Image.Resampling.LANCZOS))
