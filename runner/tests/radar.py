"""Radar scenes whose geometry is known, and whose pixels say where they lie."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

type Values = NDArray[np.float64]
NAME = "S01SIWGRD_20250101T000000_0025_A001_0001_000001"
COUNTS = 200.0  # by how much a value grows from pixel to pixel


@dataclass(frozen=True)
class Geometry:
    """Where the centres of lines and pixels lie: an affine map, bent a little.

    Attributes
    ----------
    longitude, latitude
        Of the scene's middle, in degrees.
    heading
        In which direction lines follow each other, in degrees: 0 and near it ascending, 180 and near it descending.
    spacing
        Of lines and pixels, in degrees of latitude.
    bend
        How far the scene's corners lie from where they would by an affine map, in pixels.
    """

    longitude: float = 10.0
    latitude: float = 45.0
    heading: float = -12.0
    spacing: float = 1e-3
    bend: float = 0.0
    shape: tuple[int, int] = (120, 150)

    def place(self, lines: Any, pixels: Any) -> tuple[Values, Values]:
        """Return longitude, without a jump, and latitude of places, which are counted from the first pixel's centre."""
        height, width = self.shape
        down, across = np.asarray(lines, float) - (height - 1) / 2, np.asarray(pixels, float) - (width - 1) / 2
        bent = self.bend * (2 * down / height) * (2 * across / width)
        angle = np.radians(self.heading)
        north = np.cos(angle) * down - np.sin(angle) * (across + bent)
        east = np.sin(angle) * down + np.cos(angle) * (across + bent)
        longitude = self.longitude + self.spacing * east / np.cos(np.radians(self.latitude))
        return longitude, self.latitude + self.spacing * north

    def value(self, polarisation: str, longitude: Any, latitude: Any) -> Any:
        """Return what a scene of `write_radar` has at a place."""
        if polarisation == "VH":
            return 30_000 + COUNTS * (latitude - self.latitude) / self.spacing
        return 30_000 + COUNTS * (longitude - self.longitude) / self.spacing * np.cos(np.radians(self.latitude))

    def net(self, lines: int = 6, pixels: int = 8) -> tuple[Values, Values]:
        """Return lines and pixels of control points, the last ones of the last line and pixel."""
        height, width = self.shape
        return np.linspace(0, height - 1, lines).round(), np.linspace(0, width - 1, pixels).round()


def said(longitude: Values) -> Values:
    """Return longitudes as products say them: from -180 to 180."""
    return (longitude + 180) % 360 - 180


def write_radar(
    path: Path,
    geometry: Geometry,
    *,
    points: Literal["net", "list"] = "net",
    zarr_format: int = 2,
    polarisations: tuple[str, ...] = ("VH", "VV"),
    change: Callable[[zarr.Group], None] | None = None,
) -> Path:
    """Write a scene: VH says its latitude, and VV its longitude.

    Parameters
    ----------
    points
        A net of lines and pixels, or a list of points.
    change
        What to change of each polarisation's control points.
    """
    version: Literal[2, 3] = 3 if zarr_format == 3 else 2
    root = zarr.create_group(str(path), zarr_format=version)
    longitude, latitude = geometry.place(*np.mgrid[: geometry.shape[0], : geometry.shape[1]])
    root.attrs["stac_discovery"] = {
        "type": "Feature",
        "id": NAME,
        "properties": {"product:type": "S01SIWGRH", "datetime": "2025-01-01T00:00:00Z"},
    }

    def write(group: zarr.Group, name: str, dims: tuple[str, ...], values: Any, dtype: str) -> None:
        data = np.asarray(values).astype(dtype)
        named = {"dimension_names": dims} if version == 3 else {}
        fill = 0 if version == 3 else None
        array = group.create_array(name, shape=data.shape, dtype=dtype, chunks=data.shape, fill_value=fill, **named)
        array[...] = data
        if version == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = list(dims)

    for polarisation in polarisations:
        top = root.create_group(f"{NAME}_{polarisation}")
        measurements, gcp = top.create_group("measurements"), top.create_group("conditions").create_group("gcp")
        values = np.rint(geometry.value(polarisation, longitude, latitude))
        write(measurements, "grd", ("azimuth_time", "ground_range"), values, "u2")
        for name, dim, size in zip(("line", "pixel"), ("azimuth_time", "ground_range"), geometry.shape, strict=True):
            write(measurements, name, (dim,), np.arange(size), "i8")
        measurements["grd"].attrs["coordinates"] = "line pixel"
        lines, pixels = geometry.net()
        grid = np.meshgrid(lines, pixels, indexing="ij")
        east, north = geometry.place(*grid)
        dims: tuple[str, ...] = ("azimuth_time", "ground_range")
        if points == "net":
            write(gcp, "line", dims[:1], lines, "u4")
            write(gcp, "pixel", dims[1:], pixels, "u4")
            flat: Callable[[Values], Values] = lambda values: values  # noqa: E731
        else:
            dims = ("gcp",)
            flat = np.ravel
            write(gcp, "line", dims, flat(grid[0]), "u4")
            write(gcp, "pixel", dims, flat(grid[1]), "u4")
        write(gcp, "longitude", dims, flat(said(east)), "f8")
        write(gcp, "latitude", dims, flat(north), "f8")
        write(gcp, "height", dims, flat(np.zeros_like(north)), "f8")
        if change is not None:
            change(gcp)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata is no part of the v3 specification yet
        zarr.consolidate_metadata(str(path), zarr_format=version)
    return path


def misplaced(output: Path, geometry: Geometry, polarisation: str) -> tuple[float, float]:
    """Return how far an output's pixels lie from where they say that they do, in pixels: all of them, and the worst."""
    import xarray as xr

    scene = xr.open_dataset(output, group=f"{NAME}_{polarisation}/measurements", engine="zarr", consolidated=False)
    grd = scene["grd"].astype("f8")
    around = 360 * round((float(scene["x"].mean()) - geometry.longitude) / 360)
    off = (grd - geometry.value(polarisation, scene["x"] - around, scene["y"])) / COUNTS
    # Where the scene ends, the warp takes pixels from one side only.
    filled = grd.notnull()
    inner = filled.rolling(y=9, x=9, center=True, min_periods=1).min().astype(bool) & filled
    inner = inner.isel(y=slice(5, -5), x=slice(5, -5))
    assert int(inner.sum()) > 1000
    return abs(float(off.where(inner).mean())), float(abs(off).where(inner).max())
