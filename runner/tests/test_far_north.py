"""Radar scenes whose place the converter's polynomial misses: a warning up to a limit, and a refusal above it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds.control_points import ControlPoints
from geozarr_runner.kinds.sentinel1 import FARTHEST
from geozarr_runner.planning.groups import report
from runner.tests.radar import Geometry, said, write_radar
from runner.tests.support import beside, run

LINES, PIXELS, METRES = 16_700, 25_000, 10.0  # of an IW scene
EARTH = Geod(ellps="WGS84")


def control_points(latitude: float, mountains: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """Return points of a scene on the ellipsoid, as it lies there: along a great circle, and across it.

    Mountains are moved towards the radar, as they are in every image that is not corrected for terrain.
    """
    rows, columns = np.meshgrid(np.linspace(0, LINES - 1, 10), np.linspace(0, PIXELS - 1, 21), indexing="ij")
    heights = mountains * np.abs(np.random.default_rng(seed).normal(size=rows.shape))
    middle = np.full(rows.shape, 10.0), np.full(rows.shape, latitude)
    along = (rows - LINES / 2) * METRES
    east, north, back = EARTH.fwd(*middle, np.where(along < 0, 168.0, -12.0), np.abs(along))
    heading = np.where(along < 0, back, back + 180)
    across = (columns - PIXELS / 2) * METRES - heights / np.tan(np.radians(30 + 15 * columns / PIXELS))
    east, north, _ = EARTH.fwd(east, north, heading + np.where(across < 0, -90, 90), np.abs(across))
    return {"line": rows, "pixel": columns, "longitude": east, "latitude": north, "height": heights}


def write(path: Path, points: dict[str, Any], zarr_format: int = 2) -> Path:
    """Write a scene with such points. Its image is small: nobody looks at it."""

    def change(gcp: zarr.Group) -> None:
        for name, values in points.items():
            array: Any = gcp[name]
            array[...] = np.ravel(said(values) if name == "longitude" else values).astype(array.dtype)

    # As many points as a scene has.
    geometry = Geometry()
    net = np.arange(10.0), np.arange(21.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Geometry, "net", lambda _: net)
        return write_radar(path, geometry, points="list", zarr_format=zarr_format, change=change)


def as_read(points: dict[str, Any]) -> ControlPoints:
    rows, columns, *rest = (np.ravel(points[name]) for name in ("line", "pixel", "longitude", "latitude", "height"))
    return ControlPoints(rows + 0.5, columns + 0.5, *rest)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(("latitude", "mountains"), [(45.0, 0.0), (45.0, 1500.0), (-60.0, 500.0), (78.0, 0.0)])
def test_up_to_the_limit_a_scene_is_converted(
    latitude: float, mountains: float, zarr_format: int, tmp_path: Path
) -> None:
    product = open_product(str(write(tmp_path / "p.zarr", control_points(latitude, mountains), zarr_format)))
    found = report(product, "measurements", reads=True)
    assert found.ok, found
    assert len(found.found) == 2


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(("latitude", "mountains"), [(80.0, 0.0), (80.0, 1500.0), (-81.0, 300.0)])
def test_above_it_it_is_refused_with_what_to_use_instead(
    latitude: float, mountains: float, zarr_format: int, tmp_path: Path
) -> None:
    path = write(tmp_path / "p.zarr", control_points(latitude, mountains), zarr_format)
    for groups in ("measurements", []):
        found = report(open_product(str(path)), groups, reads=True)
        assert not found.ok
        assert not found.found
        assert f"{latitude:.0f} degrees" in found.refused
        assert "terrain-corrected" in found.instead
    assert report(open_product(str(path)), "measurements").ok, "what takes requests is looked at where it is asked for"


def test_nothing_is_staged_of_it(tmp_path: Path) -> None:
    done = run(write(tmp_path / "p.zarr", control_points(80.0)), tmp_path / "out.zarr", "--groups", "measurements")
    assert (done.code, done.error["code"]) == (2, "groups-missing")
    assert "misses them by up to" in str(done.error["message"])
    assert [event["stage"] for event in done.of("stage")] == ["preflight"] * len(done.of("stage"))
    assert beside(done.output) == {"p.zarr"}


@settings(max_examples=30, deadline=None)
@given(latitude=st.floats(-83, 83), mountains=st.sampled_from([0.0, 200.0, 1500.0]), seed=st.integers(0, 99))
def test_what_heights_do_not_explain_is_what_gdal_misses_of_a_flat_scene(
    latitude: float, mountains: float, seed: int
) -> None:
    """GDAL's own polynomial of a flat scene is the reference: mountains change what it misses, and not what counts."""
    _, flat = as_read(control_points(latitude)).misses()
    found = as_read(control_points(latitude, mountains, seed)).curvature()
    assert abs(found - flat) < 0.15 * flat + mountains / 100 + 0.3


@pytest.mark.parametrize("latitude", [70.0, 78.0, 80.0, 83.0])
def test_it_grows_towards_the_poles_alike(latitude: float) -> None:
    north, south = (as_read(control_points(sign * latitude)).curvature() for sign in (1, -1))
    assert np.isclose(north, south, rtol=0.05)
    assert (north > FARTHEST) == (latitude >= 80)
