"""Pixels of the Sentinel-2 L2A sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geozarr_nb.samples.landscape import Block, Cover, Field, Landscape, Sampler, fractal, row_blocks, square_parts
from geozarr_nb.samples.sentinel2_conditions import FULL_SIZE, small_arrays
from geozarr_nb.samples.spectra import SPECTRA, ground_reflectance
from geozarr_nb.samples.structure import MadePixels, Node, chunks_of, is_array, load, map_attributes, walk, write

SIZE_STEP = 12  # a chunk of the 10 m bands, half a tile wide, has to hold whole 60 m pixels
SMALLEST = 120

REFLECTANCE = "measurements/reflectance"
RESOLUTIONS = {"r10m": 1, "r20m": 2, "r60m": 6}  # group: 10 m pixels along one of its pixels
NODATA_BIT = 32  # QT_NODATA_PIXELS in the quality masks
_THREADS = 2

_BANDS_10M = ("b02", "b03", "b04", "b08")
_BANDS_20M = ("b01", "b05", "b06", "b07", "b8a", "b11", "b12")
_BANDS_60M = ("b09",)
_TRUE_COLOUR = ("b04", "b03", "b02")
_TCI_WHITE = 0.3558  # reflectance that a quicklook shows as 255

# Scene classes, as Sen2Cor numbers them.
_CLOUD_SHADOW, _VEGETATION, _NOT_VEGETATED, _WATER, _CLOUD_MEDIUM, _CLOUD_HIGH, _SNOW = 3, 4, 5, 6, 8, 9, 11
_SCENE_CLASS = np.array([_CLOUD_HIGH, _SNOW, _WATER, 5, 5, 4, 4, 4, 5, 5], dtype=np.uint8)


def structure(size: int) -> Node:
    """Return the real product's structure for a 10 m band of `size` x `size` pixels of the tile's north-west."""
    root = load("s2-l2a")

    def scaled(length: float) -> float:
        return length * size // FULL_SIZE if length in (FULL_SIZE, FULL_SIZE // 2, FULL_SIZE // 6) else length

    def bounds(box: list[float]) -> list[float]:
        west, _, _, north = box
        return [west, north - 10.0 * size, west + 10.0 * size, north]

    change = {"proj:shape": lambda shape: [scaled(n) for n in shape], "proj:bbox": bounds}
    for _, node in walk(root):
        node["attributes"] = map_attributes(node.get("attributes") or {}, change)
        if is_array(node):
            node["shape"] = [scaled(n) for n in node["shape"]]
            node["chunks"] = [scaled(n) for n in node["chunks"]]
    _move_footprint(root["attributes"]["stac_discovery"], size / FULL_SIZE)
    return root


def _move_footprint(item: dict[str, Any], part: float) -> None:
    """Shrink the footprint of a STAC item to `part` of its edges, measured from the north-west corner."""
    ring = np.array(item["geometry"]["coordinates"][0][:4])
    north_west, north_east, south_east, south_west = ring

    def corner(east: float, south: float) -> list[float]:
        north_edge = north_west + east * (north_east - north_west)
        south_edge = south_west + east * (south_east - south_west)
        return [float(n) for n in north_edge + south * (south_edge - north_edge)]

    corners = [corner(0, 0), corner(part, 0), corner(part, part), corner(0, part)]
    item["geometry"]["coordinates"] = [[*corners, corners[0]]]
    longitudes, latitudes = zip(*corners, strict=True)
    # The real item lists east before west; software that reads it has to cope, so the sample keeps it.
    item["bbox"] = [max(longitudes), min(latitudes), min(longitudes), max(latitudes)]


def write_product(folder: Path, size: int) -> None:
    """Write the sample into an existing, empty `folder`."""
    root = structure(size)
    write(root, folder)
    pixels = MadePixels(folder)
    arrays = {path: node for path, node in walk(root) if is_array(node)}
    with ThreadPoolExecutor(_THREADS) as pool:
        _Scene(pixels, size, pool).write()
        for path, values in small_arrays(arrays, size):
            pixels.fill(path, values)
        for path, mask in _masks(arrays, size):
            pixels.fill(path, mask)


def _nodata(size: int, rows: slice, columns: slice) -> NDArray[np.bool_]:
    """Outside of the swath: a wedge in the south-east corner."""
    v = (np.arange(rows.start, rows.stop) + 0.5)[:, None] / size
    u = (np.arange(columns.start, columns.stop) + 0.5)[None, :] / size
    outside: NDArray[np.bool_] = u + 0.24 * v > 1.13
    return outside


class _Scene:
    """Everything that has the resolution of a band."""

    def __init__(self, pixels: MadePixels, size: int, pool: ThreadPoolExecutor) -> None:
        self.pixels = pixels
        self.size = size
        self.pool = pool
        self.landscape = Landscape(size)
        self.bands_20m = {band: self._empty(2, np.uint16) for band in (*_BANDS_10M[:3], *_BANDS_20M)}
        self.bands_60m = {band: self._empty(6, np.uint16) for band in _BANDS_60M}
        self.masks_20m = {name: self._empty(2, np.uint8) for name in ("scl", "cld", "snw")}

    def _empty(self, factor: int, dtype: type[np.generic]) -> NDArray[Any]:
        return np.empty((self.size // factor, self.size // factor), dtype=dtype)

    def write(self) -> None:
        """Make and write all of it, holding a quarter of the 10 m bands at a time."""
        half = self.size // 2
        for top in (0, half):
            for left in (0, half):
                self._write_quarter(top, left)
        del self.landscape
        self._write_20m_and_60m()
        self._write_classes()
        self._write_quicklooks()
        self._write_atmosphere()

    def _write_quarter(self, top: int, left: int) -> None:
        """Make a quarter of the tile, which is one chunk of each 10 m band, and write that chunk."""
        half = self.size // 2
        quarter = {band: np.empty((half, half), dtype=np.uint16) for band in _BANDS_10M}

        def make(part: slice) -> None:
            self._make(quarter, part, slice(top + part.start, top + part.stop), slice(left, left + half))

        def store(band: str) -> None:
            array = self.pixels.array(f"{REFLECTANCE}/r10m/{band}")
            array[top : top + half, left : left + half] = quarter[band]

        self._all(make, row_blocks(half, half))
        self._all(store, quarter)

    def _all[T](self, work: Callable[[T], None], items: Iterable[T]) -> None:
        """Do `work` for each of `items`, on all threads."""
        for _ in self.pool.map(work, items):
            pass

    def _make(self, quarter: dict[str, NDArray[np.uint16]], part: slice, rows: slice, columns: slice) -> None:
        """Fill the rows `part` of a quarter, and what lies under them (`rows`, `columns`) in the coarser arrays."""
        block = self.landscape.block(rows, columns)
        nodata = _nodata(self.size, rows, columns)
        rng = np.random.default_rng([2, self.size, rows.start, columns.start])
        for band in _BANDS_10M:
            numbers = _digital_numbers(band, block, nodata, rng)
            quarter[band][part] = numbers
            if band in self.bands_20m:
                self._under(self.bands_20m[band], rows, columns, 2)[...] = coarsen(numbers, 2)
        block, nodata = block.coarser(2), _any(nodata, 2)
        for band in _BANDS_20M:
            self._under(self.bands_20m[band], rows, columns, 2)[...] = _digital_numbers(band, block, nodata, rng)
        scene = _scene_classes(block)
        scene[nodata] = 0
        self._under(self.masks_20m["scl"], rows, columns, 2)[...] = scene
        for name, kind in (("cld", Cover.CLOUD), ("snw", Cover.SNOW)):
            self._under(self.masks_20m[name], rows, columns, 2)[...] = np.rint(100 * block.cover[kind]) * ~nodata
        block, nodata = block.coarser(3), _any(nodata, 3)
        for band in _BANDS_60M:
            self._under(self.bands_60m[band], rows, columns, 6)[...] = _digital_numbers(band, block, nodata, rng)

    @staticmethod
    def _under(array: NDArray[Any], rows: slice, columns: slice, factor: int) -> NDArray[Any]:
        return array[
            rows.start // factor : rows.stop // factor,
            columns.start // factor : columns.stop // factor,
        ]

    def _write_20m_and_60m(self) -> None:
        self.bands_60m |= {band: coarsen(values, 3) for band, values in self.bands_20m.items()}
        self._all(lambda band: self.pixels.fill(f"{REFLECTANCE}/r20m/{band}", self.bands_20m[band]), self.bands_20m)
        self._all(lambda band: self.pixels.fill(f"{REFLECTANCE}/r60m/{band}", self.bands_60m[band]), self.bands_60m)
        self.bands_20m.clear()
        self.bands_60m.clear()

    def _write_classes(self) -> None:
        scene = self.masks_20m["scl"]
        self.pixels.fill("conditions/mask/l2a_classification/r20m/scl", scene)
        for name in ("cld", "snw"):
            self.pixels.fill(f"quality/probability/r20m/{name}", self.masks_20m[name])
        scene = scene[1::3, 1::3]  # the 20 m pixel in the middle of the 60 m pixel
        self.pixels.fill("conditions/mask/l2a_classification/r60m/scl", scene)
        level_1c = 1 * (scene == _CLOUD_HIGH) + 4 * (scene == _SNOW)  # OPAQUE, SNOW_ICE
        self.pixels.fill("conditions/mask/l1c_classification/r60m/b00", level_1c)
        self.masks_20m.clear()

    def _write_quicklooks(self) -> None:
        """Made from the stored bands: holding them until here would double the memory of a full tile."""
        for resolution, factor in RESOLUTIONS.items():
            edge = self.size // factor
            image = np.empty((3, edge, edge), dtype=np.uint8)
            for plane, band in zip(image, _TRUE_COLOUR, strict=True):
                numbers = self.pixels.array(f"{REFLECTANCE}/{resolution}/{band}")
                for rows, columns in chunks_of(numbers):
                    plane[rows, columns] = _quicklook(np.asarray(numbers[rows, columns]))
            self.pixels.fill(f"quality/l2a_quicklook/{resolution}/tci", image)

    def _write_atmosphere(self) -> None:
        """Aerosol optical thickness and water vapour, both in thousandths, smooth over kilometres."""
        for name, seed, mean, deviation in (("aot", 8, 77.0, 9.0), ("wvp", 9, 1568.0, 120.0)):
            smooth = mean + deviation * fractal(seed, 128, cells=8)
            for resolution, factor in RESOLUTIONS.items():
                edge = self.size // factor
                values = np.empty((edge, edge), dtype=np.uint16)
                columns = slice(0, edge)
                for rows in row_blocks(edge, edge):
                    part = Sampler(edge, smooth.shape[0], rows, columns)(smooth)
                    values[rows] = np.rint(part) * ~_nodata(edge, rows, columns)
                self.pixels.fill(f"quality/atmosphere/{resolution}/{name}", values)


def coarsen(numbers: NDArray[np.uint16], factor: int) -> NDArray[np.uint16]:
    """Mean over squares of `factor` pixels, rounded; no data where one of them has none."""
    total = np.zeros((numbers.shape[0] // factor, numbers.shape[1] // factor), dtype=np.uint32)
    nodata = np.zeros(total.shape, dtype=np.bool_)
    for part in square_parts(numbers, factor):
        total += part
        nodata |= part == 0
    total += factor * factor // 2
    total //= factor * factor
    total[nodata] = 0
    return total.astype(np.uint16)


def _any(mask: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    rows, columns = (length // factor for length in mask.shape)
    found: NDArray[np.bool_] = mask.reshape(rows, factor, columns, factor).any(axis=(1, 3))
    return found


def _digital_numbers(
    band: str, block: Block, nodata: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Pack the reflectance of a band as the product does: number = (reflectance + 0.1) / 0.0001, 0 for no data."""
    reflectance = ground_reflectance(SPECTRA[band], block)
    numbers = np.float32(1000) + np.float32(10000) * reflectance
    numbers += _noise(reflectance, rng)
    np.clip(np.rint(numbers, out=numbers), 1, 65535, out=numbers)
    numbers[nodata] = 0
    return numbers.astype(np.uint16)


def _noise(reflectance: Field, rng: np.random.Generator) -> Field:
    """Sensor noise in digital numbers: a floor, and what grows with the signal."""
    noise = rng.standard_normal(reflectance.shape, dtype=np.float32)
    noise *= np.float32(8) + np.float32(40) * reflectance
    return noise


def _scene_classes(block: Block) -> NDArray[np.uint8]:
    """Class each pixel by what covers most of it."""
    scene = _SCENE_CLASS[block.cover.argmax(axis=0)]
    cloud = block.cover[Cover.CLOUD]
    scene[(block.shadow > 0.3) & (cloud < 0.2) & np.isin(scene, (_VEGETATION, _NOT_VEGETATED))] = _CLOUD_SHADOW
    scene[(cloud >= 0.2) & (cloud < 0.65)] = _CLOUD_MEDIUM
    return scene


def _quicklook(numbers: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Stretch packed reflectance to 1 to 255; no data stays 0."""
    shown = numbers.astype(np.float32)
    shown -= 1000
    shown *= np.float32(255 / (10000 * _TCI_WHITE))
    np.clip(shown, 1, 255, out=shown)
    shown[numbers == 0] = 0
    return shown.astype(np.uint8)


def _detector_footprint(size: int) -> NDArray[np.uint8]:
    """Numbers of the detectors (3 to 8) whose strips cross the tile, 0 outside of the swath."""
    footprint = np.empty((size, size), dtype=np.uint8)
    for rows in row_blocks(size, size):
        v = ((np.arange(rows.start, rows.stop) + 0.5) / size)[:, None]
        u = ((np.arange(size) + 0.5) / size)[None, :]
        footprint[rows] = 3 + np.clip((u + 0.24 * v) * 5, 0, 5).astype(np.uint8)
        footprint[rows][_nodata(size, rows, slice(0, size))] = 0
    return footprint


def _masks(arrays: dict[str, Node], size: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Masks of the bands' quality and of the detectors that saw them: alike for all bands of a resolution."""
    for resolution, factor in RESOLUTIONS.items():
        edge = size // factor
        footprint = _detector_footprint(edge)
        for path in _bands_in(arrays, f"conditions/mask/detector_footprint/{resolution}/"):
            yield path, footprint
        footprint = np.where(footprint == 0, np.uint8(NODATA_BIT), np.uint8(0))
        for path in _bands_in(arrays, f"quality/mask/{resolution}/"):
            yield path, footprint


def _bands_in(arrays: dict[str, Node], group: str) -> list[str]:
    return [path for path in arrays if path.startswith(group + "b")]
