"""The conditions of a Sentinel-2 sample: angles of sun and instrument, and the weather."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geozarr_nb.samples.landscape import SUN_AZIMUTH, SUN_ZENITH, Field, fractal
from geozarr_nb.samples.structure import Node

WEST, NORTH = 699960, 4700040  # metres, the tile's north-west corner in UTM zone 32
FULL_SIZE = 10980
_ALL_BANDS = ["b01", "b02", "b03", "b04", "b05", "b06", "b07", "b08", "b8a", "b09", "b10", "b11", "b12"]


def small_arrays(arrays: dict[str, Node], size: int) -> Iterator[tuple[str, Any]]:
    """Coordinates, angles, and the weather."""
    for path, node in arrays.items():
        _, _, name = path.rpartition("/")
        shape = tuple(node["shape"])
        if path.startswith("conditions/geometry"):
            yield path, _geometry(name, shape, size)
        elif path.startswith("conditions/meteorology"):
            yield path, _weather(name, shape)
        elif name == "x":
            yield path, _centres(WEST, shape[0], size)
        elif name == "y":
            yield path, _centres(NORTH, shape[0], -size)
        elif name == "band":
            yield path, np.arange(1, 1 + shape[0]) if shape else 1


def _centres(origin: int, count: int, size: int) -> NDArray[np.int64]:
    """Coordinates in metres of the centres of `count` pixels over `size` steps of 10 m from `origin`."""
    pixel = 10 * size // count
    return origin + pixel // 2 + pixel * np.arange(count)


def _geometry(name: str, shape: tuple[int, ...], size: int) -> Any:
    """Sun and viewing angles in degrees, on a grid of 23 x 23 points over the tile."""
    sun = np.array([SUN_ZENITH, SUN_AZIMUTH])
    south, east = np.mgrid[-1 : 1 : shape[-2] * 1j, -1 : 1 : shape[-1] * 1j] if len(shape) > 2 else (0.0, 0.0)
    step = 5000 * size // FULL_SIZE
    match name:
        case "angle":
            return ["zenith", "azimuth"]
        case "band":
            return _ALL_BANDS
        case "detector":
            return np.arange(3, 9)
        case "mean_sun_angles":
            return sun
        case "mean_viewing_incidence_angles":
            return np.stack([5.6 + 0.05 * np.arange(13), 284.0 + 0.3 * np.arange(13)], axis=1)
        case "sun_angles":
            return np.stack([sun[0] - 0.42 * south - 0.16 * east, sun[1] + 0.35 * south + 0.7 * east])
        case "viewing_incidence_angles":
            return _viewing_angles(shape, south, east)
        case "x":
            return WEST + step * np.arange(shape[0])
        case "y":
            return NORTH - step * np.arange(shape[0])
    raise KeyError(name)


def _viewing_angles(shape: tuple[int, ...], south: Any, east: Any) -> Field:
    """Angles of each band and detector where its strip of the swath is; undefined elsewhere."""
    angles = np.full(shape, np.nan, dtype=np.float32)
    strip = np.clip(((1 + east) / 2 + 0.12 * (1 + south)) * 5, 0, 5).astype(int)
    for band in range(shape[0]):
        for detector in range(shape[1]):
            seen = strip == detector
            angles[band, detector, 0][seen] = (8.9 - 3.0 * east + 0.05 * band)[seen]
            angles[band, detector, 1][seen] = (284.0 + 0.3 * band + (-1) ** detector * 2.5 + 1.5 * south)[seen]
    return angles


_WEATHER = {  # mean and range over the tile
    "aod469": (0.094, 0.02),
    "aod550": (0.077, 0.02),
    "aod670": (0.060, 0.01),
    "aod865": (0.043, 0.01),
    "aod1240": (0.028, 0.008),
    "bcaod550": (0.004, 0.001),
    "duaod550": (0.006, 0.002),
    "omaod550": (0.028, 0.006),
    "ssaod550": (0.018, 0.006),
    "suaod550": (0.021, 0.004),
    "z": (3900.0, 2500.0),  # m2 s-2
    "msl": (102050.0, 90.0),  # Pa
    "r": (61.0, 14.0),  # %
    "tco3": (0.0060, 0.0001),  # kg m-2
    "tcwv": (15.7, 2.0),  # kg m-2
    "u10": (-1.8, 1.6),  # m s-1
    "v10": (-2.4, 1.2),
}


def _weather(name: str, shape: tuple[int, ...]) -> Any:
    """Forecasts on a grid of 9 x 9 points, as the real product has them, and their coordinates."""
    match name:
        case "latitude":
            return np.linspace(42.427, 41.404, shape[0])
        case "longitude":
            return np.linspace(11.431, 12.706, shape[0])
        case "isobaricInhPa":
            return 1000.0
        case "step":
            return 603  # minutes from midnight to the overpass
        case "number" | "surface" | "time" | "valid_time":
            return 0
    mean, spread = _WEATHER[name]
    return mean + spread / 4 * fractal(100 + list(_WEATHER).index(name), shape[0], cells=4)
