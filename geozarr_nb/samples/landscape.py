"""A made-up landscape: mountains, a river, a lake, forest, parcels, towns, clouds and their shadows.

It is laid out in the unit square (row 0 is north, column 0 is west), so that a sample of any size shows all of it.
The broad shapes are computed once on a grid of at most `BROAD_EDGE` cells; blocks of pixels are cut out of them,
made finer where the pixels are, and only then split into covers, so that edges stay sharp at every size.

Everything is drawn from seeds that depend on position only: the same block, in any order and on any thread, is always
the same. Only its finest grain depends on how a picture is cut into blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

type Field = NDArray[np.float32]

BROAD_EDGE = 1830
SUN_ZENITH = 49.3049375691464  # degrees, as in the packaged Sentinel-2 product's metadata
SUN_AZIMUTH = 163.595949089503

_SEED = 20251008
_BLOCK_PIXELS = 1 << 19


class Cover(IntEnum):
    """What covers the ground, from the uppermost to the lowermost."""

    CLOUD = 0
    SNOW = 1
    WATER = 2
    TOWN = 3
    ROCK = 4
    FOREST = 5
    MEADOW = 6
    CROP = 7
    STUBBLE = 8
    SOIL = 9


@dataclass(frozen=True)
class Block:
    """Pixels of a landscape.

    Attributes
    ----------
    cover
        Share of each `Cover`, shape (10, rows, columns), adding up to 1.
    light
        Irradiance of the ground relative to level ground in the sun, shape (rows, columns).
    shadow
        Share of the sunlight that clouds take, 0 to 1, shape (rows, columns).
    grain
        Brightness texture with mean 0, shape (rows, columns).
    """

    cover: Field
    light: Field
    shadow: Field
    grain: Field

    def coarser(self, factor: int) -> Block:
        """Return the mean over squares of `factor` pixels."""
        return Block(*(block_mean(field, factor) for field in (self.cover, self.light, self.shadow, self.grain)))


@dataclass(frozen=True)
class _Broad:
    """The broad shapes, each of shape (edge, edge)."""

    elevation: Field
    light: Field
    wetness: Field  # > 0 is under water
    forest: Field
    town: Field
    cloud: Field
    shadow: Field
    bend: Field  # warps the borders of parcels
    texture: Field


class Landscape:
    """A landscape seen on `edge` x `edge` pixels."""

    def __init__(self, edge: int) -> None:
        self.edge = edge
        self._broad = _broad(min(edge, BROAD_EDGE))

    def block(self, rows: slice, columns: slice, *, clouds: bool = True) -> Block:
        """Cut out the pixels in `rows` and `columns`, under a clear sky if not `clouds`."""
        broad = self._broad
        sampler = Sampler(self.edge, broad.elevation.shape[0], rows, columns)
        elevation, wetness, bend = sampler(broad.elevation), sampler(broad.wetness), sampler(broad.bend)
        rng = np.random.default_rng([_SEED, self.edge, rows.start, columns.start])
        white = rng.standard_normal(elevation.shape, dtype=np.float32)
        texture = sampler(broad.texture)
        rough = texture + 0.35 * white

        cover = np.zeros((len(Cover), *elevation.shape), dtype=np.float32)
        left = np.ones_like(elevation)

        def lay(kind: Cover, share: Field) -> None:
            np.multiply(left, share, out=cover[kind])
            np.subtract(left, cover[kind], out=left)

        shadow = sampler(broad.shadow) if clouds else np.zeros_like(elevation)
        if clouds:
            lay(Cover.CLOUD, sampler(broad.cloud))
        lay(Cover.SNOW, _step(elevation + 0.03 * rough, 0.62, 0.05))
        lay(Cover.WATER, _step(wetness, 0.0, 2.0 / self.edge))
        lay(Cover.TOWN, _step(sampler(broad.town) + 0.12 * rough, 0.5, 0.25))
        lay(Cover.ROCK, _step(elevation + 0.04 * rough, 0.48, 0.1))
        lay(Cover.FOREST, _step(sampler(broad.forest) + 0.02 * rough, 0.0, 0.06))
        parcel, tone = self._parcels(sampler.u, sampler.v, bend)
        highland = elevation > 0.36
        parcel[highland] = 0
        tone[highland] = 0
        for number, kind in enumerate((Cover.MEADOW, Cover.CROP, Cover.STUBBLE, Cover.SOIL)):
            np.multiply(left, parcel == number, out=cover[kind])
        light = sampler(broad.light) * (1 - 0.62 * shadow)
        grain = 0.06 * texture + 0.03 * white + 0.18 * tone
        grain *= 1 - 0.85 * (cover[Cover.WATER] + cover[Cover.CLOUD] + cover[Cover.SNOW])
        return Block(cover, light.astype(np.float32), shadow, grain.astype(np.float32))

    def _parcels(self, u: Field, v: Field, bend: Field) -> tuple[NDArray[np.int8], Field]:
        """Return the kind (0 to 3) and the tone (about -0.5 to 0.5) of the parcel each pixel lies in."""
        table = np.random.default_rng([_SEED, 7]).random((256, 256), dtype=np.float32)
        grids = []
        for angle, across, along in ((0.35, 34.0, 78.0), (-0.85, 70.0, 30.0)):
            a = (np.cos(angle) * u[None, :] - np.sin(angle) * v[:, None] + 2 + 0.004 * bend) * across
            b = (np.sin(angle) * u[None, :] + np.cos(angle) * v[:, None] + 2 + 0.004 * bend) * along
            grids.append(table[a.astype(np.int32) & 255, b.astype(np.int32) & 255])
        value = np.where(bend > 0, grids[0], grids[1])
        # Meadow and crop are more common than stubble and bare soil.
        kind = np.digitize(value, np.array([0.34, 0.66, 0.84], dtype=np.float32)).astype(np.int8)
        return kind, (value * 7) % 1 - np.float32(0.5)


def square_parts[T: np.generic](field: NDArray[T], factor: int) -> Iterator[NDArray[T]]:
    """Yield, for each place in a square of `factor` x `factor` pixels, the pixels that have it.

    Adding these up is several times faster than numpy's reduction over two axes of a reshaped array.
    """
    for row in range(factor):
        for column in range(factor):
            yield field[..., row::factor, column::factor]


def block_mean(field: Field, factor: int) -> Field:
    """Mean over squares of `factor` pixels along the last two axes, whose lengths are multiples of `factor`."""
    parts = square_parts(field, factor)
    total = next(parts).copy()
    for part in parts:
        total += part
    total /= factor * factor
    return total


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Cut `rows` into blocks that are cheap to work on, each but the last a multiple of 6 rows."""
    step = max(_BLOCK_PIXELS // columns // 6 * 6, 6)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def fractal(seed: int, edge: int, *, cells: int = 4, persistence: float = 0.5) -> Field:
    """Fractal noise of shape (edge, edge), mean about 0, standard deviation about 1.

    Noise is refined from `cells` cells on, twice as fine each time and `persistence` times as strong; the same seed
    gives the same shapes at every `edge`, and only finer ones more at a larger one.
    """
    rng = np.random.default_rng([_SEED, seed])
    grid = rng.standard_normal((cells, cells), dtype=np.float32)
    strength, variance = 1.0, 0.4
    while 3 * grid.shape[0] < 2 * edge:
        grid = _refine(grid)
        strength *= persistence
        variance += 0.4 * strength**2
        grid += np.float32(strength) * rng.standard_normal(grid.shape, dtype=np.float32)
    grid /= np.float32(variance**0.5)
    return Sampler(edge, grid.shape[0], slice(0, edge), slice(0, edge))(grid)


def _refine(grid: Field) -> Field:
    """Twice as many rows and columns, by quadratic B-spline subdivision."""
    near = np.float32(0.75) * grid
    far = np.float32(0.25) * np.pad(grid, 1, mode="edge")
    rows = np.empty((2 * grid.shape[0], grid.shape[1]), dtype=np.float32)
    np.add(near, far[:-2, 1:-1], out=rows[0::2])
    np.add(near, far[2:, 1:-1], out=rows[1::2])
    near = np.float32(0.75) * rows
    far = np.float32(0.25) * np.pad(rows, ((0, 0), (1, 1)), mode="edge")
    fine = np.empty((rows.shape[0], 2 * rows.shape[1]), dtype=np.float32)
    np.add(near, far[:, :-2], out=fine[:, 0::2])
    np.add(near, far[:, 2:], out=fine[:, 1::2])
    return fine


class Sampler:
    """Samples square fields of `source` cells at the centres of some of `edge` x `edge` pixels, linearly."""

    def __init__(self, edge: int, source: int, rows: slice, columns: slice) -> None:
        self.v = ((np.arange(rows.start, rows.stop) + 0.5) / edge).astype(np.float32)
        self.u = ((np.arange(columns.start, columns.stop) + 0.5) / edge).astype(np.float32)
        self.same = edge == source
        self.rows, self.columns = rows, columns
        self.row, self.row_part = self._place(rows, edge, source)
        self.column, self.column_part = self._place(columns, edge, source)

    @staticmethod
    def _place(span: slice, edge: int, source: int) -> tuple[NDArray[np.intp], Field]:
        position = np.clip((np.arange(span.start, span.stop) + 0.5) * source / edge - 0.5, 0, source - 1)
        index = np.minimum(position.astype(np.intp), source - 2)
        return index, (position - index).astype(np.float32)

    def __call__(self, field: Field) -> Field:
        """Return a field at the rows and columns of this."""
        if self.same:
            own: Field = field[self.rows, self.columns].copy()
            return own
        part = self.row_part[:, None]
        lines = field[self.row] * (1 - part) + field[self.row + 1] * part
        before = np.take(lines, self.column, axis=1)
        after = np.take(lines, self.column + 1, axis=1)
        after -= before
        after *= self.column_part
        before += after
        return before


def _step(field: NDArray[np.floating[Any]], threshold: float, width: float) -> Field:
    """0 below, 1 above `threshold`, linear over `width`."""
    part = (field - np.float32(threshold)) / np.float32(width) + np.float32(0.5)
    share: Field = np.clip(part, 0, 1).astype(np.float32, copy=False)
    return share


def _shift(field: Field, rows: int, columns: int) -> Field:
    """Move a field south and east by whole cells; zero comes in from outside."""
    moved = np.roll(field, (rows, columns), axis=(0, 1))
    moved[: max(rows, 0)] = 0
    moved[field.shape[0] + min(rows, 0) :] = 0
    moved[:, : max(columns, 0)] = 0
    moved[:, field.shape[1] + min(columns, 0) :] = 0
    return moved


def _broad(edge: int) -> _Broad:
    position = ((np.arange(edge) + 0.5) / edge).astype(np.float32)
    u, v = position[None, :], position[:, None]
    bend, hills = fractal(1, edge, cells=8), fractal(2, edge, persistence=0.52)
    ridges = 1 - np.abs(fractal(3, edge, cells=4, persistence=0.48))

    # The river comes down from the mountains in the north and meanders to the south.
    course = 0.36 + 0.06 * np.sin(7.5 * v + 0.6) + 0.022 * np.sin(23 * v) + 0.10 * (v - 0.5) + 0.012 * bend
    river = np.abs(u - course)
    lake = 0.085 - np.hypot((u - 0.64) * 0.9, (v - 0.70) * 1.5) + 0.018 * bend
    wetness = np.maximum(0.0026 + 0.0030 * v - river, lake)

    # Mountains rise to the north-east, and the valley floor is level.
    rise = np.clip(0.95 * u + 0.62 * (1 - v) - 0.52, 0, 1) ** 1.2
    upland = rise * (0.34 + 0.46 * ridges + 0.24 * hills) + 0.035 * hills + 0.16
    valley = np.clip((np.minimum(river, np.maximum(-lake, 0)) - 0.01) / 0.22, 0.02, 1)
    elevation = (upland * valley**0.7).astype(np.float32)
    elevation /= elevation.max()

    slope_south, slope_east = np.gradient(elevation * np.float32(0.32 * edge))
    zenith, azimuth = np.radians(SUN_ZENITH), np.radians(SUN_AZIMUTH)
    toward_south, toward_east = -np.cos(azimuth) * np.sin(zenith), np.sin(azimuth) * np.sin(zenith)
    # The normal of a surface z(east, south) is (-dz/deast, -dz/dsouth, 1).
    incidence = np.cos(zenith) - slope_east * toward_east - slope_south * toward_south
    incidence /= np.sqrt(1 + slope_east**2 + slope_south**2)
    light = 0.3 + 0.7 * np.clip(incidence / np.cos(zenith), 0, 1.6)

    forest = 0.35 * fractal(4, edge, cells=8) + 0.9 * (elevation - 0.30) - 0.06
    forest = np.where(elevation < 0.48, forest, forest - 5 * (elevation - 0.48))
    towns = np.zeros((edge, edge), dtype=np.float32)
    for east, south, radius in ((0.33, 0.60, 0.045), (0.47, 0.80, 0.030), (0.20, 0.34, 0.022), (0.60, 0.87, 0.020)):
        towns = np.maximum(towns, 1.15 - np.hypot(u - east, v - south) / (2 * radius) + 0.16 * bend)

    sky = fractal(5, edge, cells=16, persistence=0.6)
    near = np.maximum(1 - np.hypot(u - 0.22, v - 0.17) / 0.17, 1 - np.hypot(u - 0.83, v - 0.47) / 0.13)
    cloud = np.clip(0.7 * (0.9 * sky + 2.4 * np.minimum(near, 0.5) - 0.8), 0, 1).astype(np.float32)
    distance = 0.035 * edge
    shadow = _shift(cloud, -round(distance * -np.cos(azimuth)), -round(distance * np.sin(azimuth)))

    fields = (elevation, light, wetness, forest, towns, cloud, shadow, bend, fractal(6, edge, cells=64))
    return _Broad(*(np.ascontiguousarray(field, dtype=np.float32) for field in fields))
