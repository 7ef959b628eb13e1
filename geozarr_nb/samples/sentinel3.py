"""Structure and pixels of the Sentinel-3 OLCI (level 1, full resolution) sample.

No real product's structure comes with this package; this one has the groups, names, packing and dimensions that the
converter's own model of such a product asks for, and what it copies unchanged.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geozarr_nb.samples.landscape import SUN_AZIMUTH, SUN_ZENITH, Block, Cover, Landscape, fractal, row_blocks
from geozarr_nb.samples.spectra import ground_reflectance, spectrum_at
from geozarr_nb.samples.structure import MadePixels, Node, is_array, walk, write

FULL_COLUMNS = 4865
FULL_ROWS = 4091

_CHUNK = 1024
_THREADS = 2
_FILL = 65535
_LINE_INTERVAL = 44_001  # microseconds
_TIE_POINTS = 77  # along a full row of tie points
_REMOVED = 8  # pixels of each row that are kept apart, as orphans
_PIXEL = 300.0  # metres
_LAND, _WATER, _INVALID, _BRIGHT = 1 << 31, 1 << 29, 1 << 25, 1 << 27

# Wavelength (nm), irradiance of the sun (mW m-2 nm-1), radiance of one count (mW m-2 sr-1 nm-1), and the share of
# light that water vapour and oxygen let through.
_BANDS: dict[str, tuple[float, float, float, float]] = {
    "oa01_radiance": (400.0, 1472.0, 0.0139, 1.00),
    "oa02_radiance": (412.5, 1716.0, 0.0133, 1.00),
    "oa03_radiance": (442.5, 1877.0, 0.0121, 1.00),
    "oa04_radiance": (490.0, 1939.0, 0.0115, 1.00),
    "oa05_radiance": (510.0, 1914.0, 0.0109, 1.00),
    "oa06_radiance": (560.0, 1796.0, 0.0102, 1.00),
    "oa07_radiance": (620.0, 1650.0, 0.0088, 1.00),
    "oa08_radiance": (665.0, 1530.0, 0.0088, 1.00),
    "oa09_radiance": (673.75, 1495.0, 0.0087, 1.00),
    "oa10_radiance": (681.25, 1471.0, 0.0087, 1.00),
    "oa11_radiance": (708.75, 1404.0, 0.0074, 0.98),
    "oa12_radiance": (753.75, 1266.0, 0.0067, 1.00),
    "oa13_radiance": (761.25, 1254.0, 0.0069, 0.30),
    "oa14_radiance": (764.375, 1245.0, 0.0068, 0.48),
    "oa15_radiance": (767.5, 1240.0, 0.0067, 0.78),
    "oa16_radiance": (778.75, 1205.0, 0.0066, 1.00),
    "oa17_radiance": (865.0, 959.0, 0.0054, 1.00),
    "oa18_radiance": (885.0, 930.0, 0.0053, 0.99),
    "oa19_radiance": (900.0, 895.0, 0.0047, 0.80),
    "oa20_radiance": (940.0, 820.0, 0.0046, 0.45),
    "oa21_radiance": (1020.0, 698.0, 0.0040, 0.98),
}


_ANGLES = {
    "oaa": "observation azimuth angle",
    "oza": "observation zenith angle",
    "saa": "sun azimuth angle",
    "sza": "sun zenith angle",
}


def rows_of(columns: int) -> int:
    """Return the number of rows (along track) of a sample with `columns` columns."""
    return round(columns * FULL_ROWS / FULL_COLUMNS)


def structure(size: int) -> Node:
    """Return the structure of a product of `size` columns."""
    rows = rows_of(size)
    swath, tie = {"rows": rows, "columns": size}, {"tp_rows": rows, "tp_columns": _tie_points(size)}
    coordinates = {"coordinates": "latitude longitude"}
    position = {
        "altitude": _array("<i2", swath, "DEM corrected altitude", units="m", _FillValue=-32768),
        "latitude": _array("<i4", swath, "latitude", units="degrees_north", scale_factor=1e-6, _FillValue=-(2**31)),
        "longitude": _array("<i4", swath, "longitude", units="degrees_east", scale_factor=1e-6, _FillValue=-(2**31)),
        "time_stamp": _array(
            "<i8", {"rows": rows}, "elapsed time", units="microseconds since 2025-10-08T09:41:12", standard_name="time"
        ),
    }
    orphan = {"rows": rows, "removed_pixels": _REMOVED}
    bands = {name: _radiance(name, swath, coordinates) for name in _BANDS}
    measurements = _group({**bands, **position, "orphans": _group({name: _radiance(name, orphan) for name in _BANDS})})
    angles = {
        name: _array("<i4", tie, text, units="degrees", scale_factor=1e-6)
        for name, text in (
            ("oaa", "viewing azimuth"),
            ("oza", "viewing zenith"),
            ("saa", "sun azimuth"),
            ("sza", "sun zenith"),
        )
    }
    weather = {
        "sea_level_pressure": _array("<f4", tie, "mean sea level pressure", units="hPa"),
        "total_columnar_water_vapour": _array("<f4", tie, "total column water vapour", units="kg.m-2"),
        "total_ozone": _array("<f4", tie, "total columnar ozone", units="kg.m-2"),
    }
    members = {
        "conditions": _group({"geometry": _group(angles), "meteorology": _group(weather)}),
        "measurements": measurements,
        "quality": _group({"quality_flags": _array("<u4", swath, "classification and quality flags", **coordinates)}),
    }
    return {"attributes": _root_attributes(size), "members": members}


def _group(members: dict[str, Node]) -> Node:
    return {"attributes": {}, "members": members}


def _radiance(name: str, lengths: dict[str, int], attributes: dict[str, Any] | None = None) -> Node:
    wavelength, _, scale, _ = _BANDS[name]
    return _array(
        "<u2",
        lengths,
        f"TOA radiance for OLCI acquisition band {name[:4]} at {wavelength:g} nm",
        units="mW.m-2.sr-1.nm-1",
        scale_factor=scale,
        add_offset=0.0,
        _FillValue=_FILL,
        **(attributes or {}),
    )


def _array(dtype: str, lengths: dict[str, int], text: str, **attributes: Any) -> Node:
    fill = attributes.pop("_FillValue", None)
    packed = {"dtype": dtype, "fill_value": fill} if fill is not None else {"dtype": dtype}
    names = [name for name in lengths if name != "removed_pixels"]
    return {
        "attributes": {
            "_ARRAY_DIMENSIONS": list(lengths),
            "_eopf_attrs": {"coordinates": names, "dimensions": list(lengths), **packed},
            "long_name": text,
            **attributes,
        },
        "chunks": [min(length, _CHUNK) for length in lengths.values()],
        "compressor": {"blocksize": 0, "clevel": 3, "cname": "zstd", "id": "blosc", "shuffle": 2},
        "dimension_separator": ".",
        "dtype": dtype,
        "fill_value": fill,
        "filters": None,
        "order": "C",
        "shape": list(lengths.values()),
    }


def _root_attributes(size: int) -> dict[str, Any]:
    rows = rows_of(size)
    line, column = np.array([0, 0, rows - 1, rows - 1, 0]), np.array([0, size - 1, size - 1, 0, 0])
    longitudes, latitudes = (np.round(degrees, 6).tolist() for degrees in _place(line, column))
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": "S3A_OL_1_EFR____20251008T094112_20251008T094412_20251008T115208_0179_131_136_2160_PS1_O_NR_004",
        "bbox": [min(longitudes), min(latitudes), max(longitudes), max(latitudes)],
        "geometry": {"type": "Polygon", "coordinates": [[list(p) for p in zip(longitudes, latitudes, strict=True)]]},
        "links": [{"href": "./.zattrs.json", "rel": "self", "type": "application/json"}],
        "assets": {},
        "properties": {
            "constellation": "sentinel-3",
            "datetime": None,
            "start_datetime": "2025-10-08T09:41:12+00:00",
            "end_datetime": "2025-10-08T09:44:12+00:00",
            "instrument": "olci",
            "mission": "copernicus",
            "platform": "sentinel-3a",
            "processing:level": "L1",
            "product:type": "S03OLCEFR",
            "sat:orbit_state": "descending",
        },
    }
    return {"other_metadata": {"eopf_category": "eoproduct"}, "stac_discovery": item}


def _tie_points(size: int) -> int:
    return max(round(size * _TIE_POINTS / FULL_COLUMNS), 2)


def _place(row: Any, column: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitude and latitude in degrees on a descending pass, slanted by 13 degrees against the meridians."""
    slant = np.radians(13.0)
    degree = 111_320.0
    latitude = 48.6 - _PIXEL * (row * np.cos(slant) + column * np.sin(slant)) / degree
    east = _PIXEL * (column * np.cos(slant) - row * np.sin(slant)) / degree
    return 7.4 + east / np.cos(np.radians(latitude)), latitude


def write_product(folder: Path, size: int) -> None:
    """Write the sample into an existing, empty `folder`."""
    root = structure(size)
    write(root, folder)
    pixels = MadePixels(folder)
    rows = rows_of(size)
    landscape = Landscape(size)
    with ThreadPoolExecutor(_THREADS) as pool:
        for top in range(0, rows, _CHUNK):
            _write_strip(pixels, landscape, slice(top, min(top + _CHUNK, rows)), pool)
    longitude, latitude = _place(np.arange(rows)[:, None], np.arange(size)[None, :])
    pixels.fill("measurements/longitude", np.rint(longitude * 1e6))
    pixels.fill("measurements/latitude", np.rint(latitude * 1e6))
    pixels.fill("measurements/altitude", np.clip(600 + 350 * fractal(2, size)[:rows], 0, None))
    pixels.fill("measurements/time_stamp", np.arange(rows) * _LINE_INTERVAL)
    for path, node in walk(root):
        if is_array(node) and path.startswith("conditions/"):
            pixels.fill(path, _tie_point_values(path.rpartition("/")[2], node["shape"]))


def _write_strip(pixels: MadePixels, landscape: Landscape, rows: slice, pool: ThreadPoolExecutor) -> None:
    """Make and write everything that depends on the scene in `rows`, which are whole chunks."""
    size = landscape.edge
    shape = (rows.stop - rows.start, size)
    counts = {name: np.empty(shape, dtype=np.uint16) for name in _BANDS}
    flags = np.empty(shape, dtype=np.uint32)

    def make(part: slice) -> None:
        lines = slice(rows.start + part.start, rows.start + part.stop)
        scene = landscape.block(lines, slice(0, size))
        outside = np.arange(size) + 0.16 * np.arange(lines.start, lines.stop)[:, None] > 1.09 * size
        for name, values in counts.items():
            values[part] = _counts(name, scene, [3, size, lines.start])
            values[part][outside] = _FILL
        flags[part] = _flags(scene, outside)

    def store(name: str) -> None:
        pixels.array(f"measurements/{name}")[rows] = counts[name]
        pixels.array(f"measurements/orphans/{name}")[rows] = counts[name][:, :_REMOVED]

    list(pool.map(make, row_blocks(*shape)))
    list(pool.map(store, counts))
    pixels.array("quality/quality_flags")[rows] = flags


def _counts(name: str, scene: Block, seed: list[int]) -> NDArray[np.uint16]:
    """Radiance at the top of the atmosphere, packed."""
    wavelength, irradiance, scale, transmission = _BANDS[name]
    haze = np.float32(0.13 * (wavelength / 400) ** -3.6)
    reflectance = (haze + (1 - haze) * ground_reflectance(spectrum_at(wavelength), scene)) * np.float32(transmission)
    radiance = reflectance * np.float32(irradiance * np.cos(np.radians(SUN_ZENITH)) / np.pi)
    noise = np.random.default_rng([*seed, int(wavelength)])
    counts = radiance / np.float32(scale) + noise.standard_normal(radiance.shape, dtype=np.float32)
    return np.clip(np.rint(counts), 0, _FILL - 1).astype(np.uint16)


def _flags(scene: Block, outside: NDArray[np.bool_]) -> NDArray[np.uint32]:
    water = scene.cover[Cover.WATER] > 0.5
    bright = scene.cover[Cover.CLOUD] + scene.cover[Cover.SNOW] > 0.5
    flags = np.where(water, _WATER, _LAND).astype(np.uint32) | np.where(bright, _BRIGHT, 0).astype(np.uint32)
    flags[outside] = _INVALID
    return flags


def _tie_point_values(name: str, shape: list[int]) -> Any:
    """Angles in millionths of a degree, and the weather, over the tie points."""
    down, across = np.mgrid[0 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    match name:
        case "oaa":
            return np.rint(1e6 * np.where(across < 0.3, 103.0, -77.0))
        case "oza":
            return np.rint(1e6 * (0.5 + 48 * np.abs(across - 0.3) / 1.3))
        case "saa":
            return np.rint(1e6 * (SUN_AZIMUTH + 4 * across + 2 * down))
        case "sza":
            return np.rint(1e6 * (SUN_ZENITH - 1.5 * across - 2 * down))
        case "sea_level_pressure":
            return 1020.5 - 1.2 * down + 0.4 * across
        case "total_columnar_water_vapour":
            return 15.7 + 2.5 * down - 1.1 * across
        case "total_ozone":
            return 0.0060 + 0.0001 * across
    raise KeyError(name)
