"""Pixels of the Sentinel-1 GRD sample."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geozarr_nb.samples.landscape import Cover, Field, Landscape, row_blocks
from geozarr_nb.samples.structure import MadePixels, Node, chunks_of, is_array, load, map_attributes, walk, write

FULL_COLUMNS = 26064
FULL_ROWS = 16677

_SPACING = 10.0  # metres, along ground range
_LINE_INTERVAL = 1.499e-3  # seconds
_FIRST_LINE = datetime(2024, 11, 24, 18, 2, 54, 764458, tzinfo=UTC)
_THREADS = 2
_LIGHT_SPEED = 299792458.0
_NEAR_RANGE = 800_000.0  # metres, slant range of the first sample

# Backscatter (sigma nought) in dB of each cover without clouds, in the order of `Cover`.
_BACKSCATTER: dict[str, tuple[float, ...]] = {
    #     snow  water  town  rock forest meadow crop stubble soil
    "VV": (-14, -23.0, 0.5, -8.5, -9.5, -12.5, -10.5, -12.0, -11.0),
    "VH": (-21, -31.0, -8.0, -15.5, -14.5, -19.5, -17.0, -21.0, -22.0),
}
_LOOKS = 4.4  # equivalent number of looks of an IW GRDH scene
_BETA_NOUGHT = 474.0  # calibration constant: number^2 / constant^2 is beta nought


def rows_of(columns: int) -> int:
    """Return the number of lines (azimuth) of a sample with `columns` pixels along ground range."""
    return round(columns * FULL_ROWS / FULL_COLUMNS)


def structure(size: int) -> Node:
    """Return the real product's structure for a scene of `size` pixels along ground range, from its first pixel."""
    root = load("s1-grd")
    lengths = {FULL_COLUMNS: size, FULL_ROWS: rows_of(size)}

    def corners(rings: list[list[list[float]]]) -> list[list[list[float]]]:
        return [[[round(float(n), 6) for n in point] for point in _footprint(np.array(rings[0]), size)]]

    def clipped(chunk: int, full: int) -> int:
        # In the real proportion, so that a small scene has as many chunks as a full one.
        return -(-chunk * lengths[full] // full) if full in lengths else chunk

    for _, node in walk(root):
        node["attributes"] = map_attributes(node.get("attributes") or {}, {"coordinates": _unless_rings(corners)})
        if is_array(node):
            node["chunks"] = [clipped(*pair) for pair in zip(node["chunks"], node["shape"], strict=True)]
            node["shape"] = [lengths.get(length, length) for length in node["shape"]]
    for node in (root, *root["members"].values()):
        item = node["attributes"]["stac_discovery"]
        longitudes, latitudes = zip(*item["geometry"]["coordinates"][0], strict=True)
        # East before west, as in the real item.
        item["bbox"] = [max(longitudes), min(latitudes), min(longitudes), max(latitudes)]
    return root


def _unless_rings(change: Any) -> Any:
    """Apply `change` to a polygon's coordinates, not to the attribute of arrays that has the same name."""
    return lambda value: change(value) if isinstance(value, list) and isinstance(value[0], list) else value


def _footprint(full: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Corners of the sample, in the order of the real ones: last line first, near range first, then back."""
    _, _, _, first_near = full
    corners: NDArray[np.float64] = first_near + (full - first_near) * (size / FULL_COLUMNS)
    return corners


def write_product(folder: Path, size: int) -> None:
    """Write the sample into an existing, empty `folder`."""
    root = structure(size)
    write(root, folder)
    pixels = MadePixels(folder)
    scene = _Geometry(root, size)
    for path, node in walk(root):
        if is_array(node) and not path.endswith("measurements/grd"):
            pixels.fill(path, _small_array(path, node, scene))
    images = {name[-2:]: pixels.array(f"{name}/measurements/grd") for name in root["members"]}
    landscape = Landscape(size)
    with ThreadPoolExecutor(_THREADS) as pool:
        jobs = [pool.submit(_write_chunk, images, landscape, scene, *chunk) for chunk in chunks_of(images["VV"])]
        for job in jobs:
            job.result()


class _Geometry:
    """Where and when lines and pixels are."""

    def __init__(self, root: Node, size: int) -> None:
        self.columns, self.rows = size, rows_of(size)
        ring = root["attributes"]["stac_discovery"]["geometry"]["coordinates"][0]
        self.corners = np.array(ring)

    def place(self, line: Any, pixel: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Longitude and latitude in degrees: an ascending pass that looks to the right, the first line is south."""
        last_near, last_far, first_far, first_near = self.corners
        down, across = line / max(self.rows - 1, 1), pixel / max(self.columns - 1, 1)
        down, across = down[..., None], across[..., None]
        position = (1 - down) * ((1 - across) * first_near + across * first_far)
        position = position + down * ((1 - across) * last_near + across * last_far)
        return position[..., 0], position[..., 1]

    @staticmethod
    def incidence(pixel: Any) -> Any:
        """Incidence angle in degrees."""
        return 30.6 + 15.4 * (1 - (1 - np.asarray(pixel) / FULL_COLUMNS) ** 1.15)

    def sigma_nought(self, pixel: Any) -> Any:
        """Calibration constant: number^2 / constant^2 is sigma nought."""
        return _BETA_NOUGHT / np.sqrt(np.sin(np.radians(self.incidence(pixel))))

    @staticmethod
    def slant_range_time(pixel: Any) -> Any:
        """Two-way travel time in seconds."""
        return 2 * (_NEAR_RANGE + 0.62 * _SPACING * np.asarray(pixel)) / _LIGHT_SPEED


def _write_chunk(images: dict[str, Any], landscape: Landscape, scene: _Geometry, rows: slice, columns: slice) -> None:
    """Make and write one chunk of every polarisation."""
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    chunks = {polarisation: np.empty(shape, dtype=np.uint16) for polarisation in images}
    for part in row_blocks(*shape):
        _make(chunks, part, landscape, scene, slice(rows.start + part.start, rows.start + part.stop), columns)
    for polarisation, numbers in chunks.items():
        images[polarisation][rows, columns] = numbers


def _make(
    chunks: dict[str, NDArray[np.uint16]],
    part: slice,
    landscape: Landscape,
    scene: _Geometry,
    rows: slice,
    columns: slice,
) -> None:
    """Fill the rows `part` of some chunks, which are `rows` and `columns` of the image."""
    # The landscape's south, where its lake and towns are; its last row is the first line.
    edge = landscape.edge
    block = landscape.block(slice(edge - rows.stop, edge - rows.start), columns, clouds=False)
    relief = np.clip(block.light * (1 + block.grain), 0.1, None)
    calibration = scene.sigma_nought(np.arange(columns.start, columns.stop)).astype(np.float32)
    rng = np.random.default_rng([1, edge, rows.start, columns.start])
    for polarisation, numbers in chunks.items():
        power = np.zeros_like(block.light)
        for share, decibel in zip(block.cover[Cover.SNOW :], _BACKSCATTER[polarisation], strict=True):
            power += np.float32(10 ** (decibel / 10)) * share
        power *= relief
        power *= rng.standard_gamma(_LOOKS, power.shape, dtype=np.float32) / np.float32(_LOOKS)
        numbers[part] = np.clip(np.rint(np.sqrt(power[::-1]) * calibration), 1, 65535)


# Values that nothing in a picture depends on: of the size real ones have, the same over the whole array, or one for
# each member of its last dimension.
_TYPICAL: dict[str, Any] = {
    "roll": 29.45,
    "pitch": 0.02,
    "yaw": 3.4,
    "q0": 0.43,
    "q1": -0.55,
    "q2": 0.61,
    "q3": -0.37,
    "wx": 0.002,
    "wy": -0.060,
    "wz": 0.003,
    "terrain_height": 640.0,
    "height": 640.0,
    "azimuth_fm_rate_polynomial": [-2320.0, 448000.0, -80_000_000.0],
    "t0": 0.00534,
    "gr0": 0.0,
    "grsr_coefficients": [_NEAR_RANGE, 0.62, *[0.0] * 7],
    "sr0": _NEAR_RANGE,
    "srgr_coefficients": [0.0, 1 / 0.62, *[0.0] * 7],
    "slant_range_time": 2 * _NEAR_RANGE / _LIGHT_SPEED,
    "data_dc_polynomial": [-12.0, 2400.0, -160000.0],
    "geometry_dc_polynomial": [-9.0, 1900.0, -120000.0],
    "data_dc_rms_error": 6.5,
    "data_dc_rms_error_above_threshold": False,
    "fine_dce_azimuth_start_time": False,
    "fine_dce_azimuth_stop_time": False,
    "position": [4_740_000.0, -480_000.0, 5_240_000.0],
    "velocity": [-5350.0, -1980.0, 5010.0],
    "reference_replica_amplitude_coefficients": [1.0, 0.0, 0.0, 0.0],
    "reference_replica_phase_coefficients": [0.0, 0.0, 0.0, 0.0],
    "absolute_pg_product_valid_flag": True,
    "reconstructed_replica_valid_flag": True,
    "relative_pg_product_valid_flag": True,
    "cross_correlation_peak_location": 0.0,
    "cross_correlation_pslr": -13.3,
    "internal_time_delay": 0.0,
    "model_pg_product_amplitude": 1.0,
    "model_pg_product_phase": 0.0,
    "pg_product_amplitude": 1.0,
    "pg_product_phase": 0.0,
    "noise_power_correction_factor": 1.0,
    "number_of_noise_lines": 8,
    "noise_azimuth_lut": 1.0,
    "beta_nought": _BETA_NOUGHT,
    "dn": 1.0,
    "first_azimuth_time": 0,
}


def _small_array(path: str, node: Node, scene: _Geometry) -> Any:
    """Everything but the image."""
    name, shape = path.rpartition("/")[2], tuple(node["shape"])
    dimensions = node["attributes"]["_ARRAY_DIMENSIONS"]
    if path.endswith("measurements/" + name):
        line, pixel = np.arange(scene.rows), np.arange(scene.columns)
    else:
        line = _spread(scene.rows, shape[dimensions.index("azimuth_time")] if "azimuth_time" in dimensions else 1)
        across = next((d for d in ("ground_range", "count") if d in dimensions), None)
        pixel = _spread(scene.columns, shape[dimensions.index(across)] if across else 1)
    if len(shape) == 2 and dimensions[0] == "azimuth_time" and dimensions[1] in ("ground_range", "count"):
        line, pixel = np.broadcast_arrays(line[:, None], pixel[None, :])
    match name:
        case "azimuth_time":
            return _elapsed(line, shape[0], node["attributes"]["units"])
        case "azimuth_time_gcp":
            return round(_FIRST_LINE.timestamp() * 1e6) * 1000 + np.rint(line * _LINE_INTERVAL * 1e9).astype(np.int64)
        case "line":
            return line
        case "pixel":
            return pixel
        case "ground_range":
            return pixel * _SPACING
        case "longitude":
            return scene.place(line, pixel)[0]
        case "latitude":
            return scene.place(line, pixel)[1]
        case "incidence_angle":
            return scene.incidence(pixel)
        case "elevation_angle":
            return scene.incidence(pixel) * 0.87
        case "slant_range_time_gcp" | "slant_range_time_ap":
            return scene.slant_range_time(pixel)
        case "sigma_nought":
            return scene.sigma_nought(pixel)
        case "gamma":
            return scene.sigma_nought(pixel) * np.sqrt(np.cos(np.radians(scene.incidence(pixel))))
        case "noise_range_lut":
            return 900 + 500 * np.cos(pixel / scene.columns * 19) ** 2
        case "swath":
            return [f"IW{1 + number % 3}" for number in range(shape[0])]
        case "axis":
            return ["x", "y", "z"]
        case "count" | "degree":
            return np.arange(shape[0])
        case "first_range_sample":
            return scene.columns * np.arange(3) // 3
        case "last_range_sample":
            return scene.columns * (1 + np.arange(3)) // 3 - 1
        case "last_azimuth_time":
            return scene.rows - 1
    return _TYPICAL[name]


def _spread(length: int, count: int) -> NDArray[np.int64]:
    """`count` positions from the first to the last of `length`."""
    return np.rint(np.linspace(0, length - 1, count)).astype(np.int64)


def _elapsed(line: Field | NDArray[np.int64], count: int, units: str) -> NDArray[np.int64]:
    """Return the times of `line`, in `units`; where these are whole seconds, one each second as in the real product."""
    per_second = {"seconds": 1, "microseconds": 10**6, "nanoseconds": 10**9}[units.split(" ", 1)[0]]
    if per_second == 1:
        return np.arange(count)
    return np.rint(line * (_LINE_INTERVAL * per_second)).astype(np.int64)
