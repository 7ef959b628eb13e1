"""Radar scenes lie where their control points say, to a tenth of a pixel."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import zarr
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.warp import Resampling, calculate_default_transform, reproject

from geozarr_runner.errors import ProductBroken, VerificationFailed
from geozarr_runner.events import Reporter
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds.control_points import ControlPoints, flaw
from geozarr_runner.kinds.profiles import profile_of
from geozarr_runner.kinds.warp import Warp
from geozarr_runner.planning.groups import report
from geozarr_runner.planning.preflight import Plan, preflight
from geozarr_runner.product.model import Group
from geozarr_runner.product.sampler import Pair, StoredPixels
from geozarr_runner.spec.request import Request
from geozarr_runner.stores.store import Store
from geozarr_runner.verification.verify import verify
from runner.tests.radar import NAME, Geometry, misplaced, said, write_radar
from runner.tests.support import Run, run

TENTH = 0.1  # pixel
EIGHTH = 0.125  # pixel: by so much GDAL approximates a warp, as the converter calls it
CROSSING = Geometry(longitude=179.98, latitude=65.0, heading=-168.0, bend=0.5)
SCENES = {
    "net, v2": (Geometry(bend=0.5), {}),
    "list, v2": (Geometry(longitude=-180.0, latitude=-20.0), {"points": "list"}),
    "list across the antimeridian, v3": (CROSSING, {"points": "list", "zarr_format": 3}),
    "net, v3, one polarisation": (Geometry(latitude=75.0), {"zarr_format": 3, "polarisations": ("VV",)}),
}


def opened(path: Path) -> tuple[Group, StoredPixels]:
    product = open_product(str(path))
    group = product.groups[f"/{NAME}_VH/conditions/gcp"]
    return group, StoredPixels(Store(str(path)), product.zarr_format, str(path))


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    return Geometry(
        longitude=draw(st.one_of(st.floats(-180, 180), st.floats(179.8, 180.2), st.floats(-180.2, -179.8))),
        latitude=draw(st.floats(-82, 82)),
        heading=draw(st.sampled_from([-12.0, -168.0, 12.0, 168.0])) + draw(st.floats(-8, 8)),
        bend=draw(st.floats(-0.6, 0.6)),
        shape=(draw(st.integers(60, 90)), draw(st.integers(60, 90))),
    )


SLOWLY = settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # a scene is not understood better for being small
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@SLOWLY
@given(
    geometry=geometries(),
    points=st.sampled_from(["net", "list"]),
    zarr_format=st.sampled_from([2, 3]),
    seed=st.integers(0, 99),
)
def test_every_place_is_known_to_a_tenth_of_a_pixel(
    geometry: Geometry, points: str, zarr_format: int, seed: int, tmp_path: Path
) -> None:
    """The truth is the geometry, which no code of the runner knows."""
    path = tmp_path / "scene.zarr"
    shutil.rmtree(path, ignore_errors=True)
    write_radar(path, geometry, points=points, zarr_format=zarr_format)  # type: ignore[arg-type]
    group, source = opened(path)
    assert flaw(group) is None
    found = ControlPoints.read(group, source)
    random = np.random.default_rng(seed)
    lines, pixels = (random.uniform(0, size - 1, 50) for size in geometry.shape)
    longitudes, latitudes = geometry.place(lines, pixels)
    around = np.round((found.longitudes.mean() - geometry.longitude) / 360) * 360
    rows, columns = found.to_source(longitudes + around, latitudes)
    # GDAL's row 0.5 is the centre of line 0.
    assert np.hypot(rows - 0.5 - lines, columns - 0.5 - pixels).max() < TENTH
    assert np.ptp(found.longitudes) < 180
    assert -180 <= found.longitudes.min() < 180
    assert np.allclose(np.sort(said(found.longitudes)), np.sort(said(ControlPoints.read(group, source).longitudes)))


def warped(scene: Path, geometry: Geometry, shift: tuple[float, float], output: Path) -> Pair:
    """Warp a scene as GDAL does, by control points that are some rows and columns beside their place."""
    grd = zarr.open_array(str(scene / f"{NAME}_VV/measurements/grd"), mode="r")[...]
    lines, pixels = np.meshgrid(*geometry.net(), indexing="ij")
    east, north = geometry.place(lines, pixels)
    gcps = [
        GroundControlPoint(row + 0.5 + shift[0], column + 0.5 + shift[1], x, y, 0.0)
        for row, column, x, y in zip(lines.ravel(), pixels.ravel(), east.ravel(), north.ravel(), strict=True)
    ]
    height, width = geometry.shape
    transform, columns, rows = calculate_default_transform("EPSG:4326", "EPSG:4326", width, height, gcps=gcps)
    assert rows
    assert columns
    made = np.full((rows, columns), 65535, "u2")
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", height=height, width=width, count=1, dtype="u2") as image:
            image.write(grd, 1)
            image.gcps = (gcps, "EPSG:4326")
        with memory.open() as image:
            reproject(
                rasterio.band(image, 1),
                made,
                dst_transform=transform,
                dst_crs="EPSG:4326",
                resampling=Resampling.bilinear,
                dst_nodata=65535,
            )
    root = zarr.create_group(str(output), zarr_format=3, overwrite=True)
    for name, values in {
        "grd": made,
        "x": transform.c + transform.a * (np.arange(columns) + 0.5),
        "y": transform.f + transform.e * (np.arange(rows) + 0.5),
    }.items():
        dims = ("y", "x") if name == "grd" else (name,)
        array = root.create_array(f"m/{name}", data=np.asarray(values), dimension_names=dims)
        array.attrs.update({"_FillValue": 65535} if name == "grd" else {})
    source = open_product(str(scene)).groups[f"/{NAME}_VV/measurements"]
    target = open_product(str(output)).groups["/m"]
    [one] = [array for array in source.arrays if array.name == "grd"]
    [other] = [array for array in target.arrays if array.name == "grd"]
    return Pair(one, other, (), True)


def speckle(scene: Path, seed: int) -> None:
    """Give a scene pixels that have nothing to do with those beside them, as radar has."""
    array = zarr.open_array(str(scene / f"{NAME}_VV/measurements/grd"), mode="r+")
    array[...] = np.random.default_rng(seed).rayleigh(200, array.shape).astype("u2") + 1


@SLOWLY
@given(
    geometry=geometries(),
    shift=st.sampled_from([(0.0, 0.0), (0.5, 0.5), (-0.5, 0.0), (0.0, 0.5), (0.0, -1.0), (1.0, 1.0)]),
    is_speckled=st.booleans(),
    seed=st.integers(0, 99),
)
def test_half_a_pixel_beside_its_place_is_seen_and_right_is_right(
    geometry: Geometry, shift: tuple[float, float], is_speckled: bool, seed: int, tmp_path: Path
) -> None:
    assume(abs(geometry.longitude) < 179)  # GDAL's own points, here, are not cut at 180 degrees
    scene = tmp_path / "scene.zarr"
    shutil.rmtree(scene, ignore_errors=True)
    write_radar(scene, geometry)
    if is_speckled:
        speckle(scene, seed)
    pair = warped(scene, geometry, shift, tmp_path / "made.zarr")
    group, source = opened(scene)
    written = StoredPixels(Store(str(tmp_path / "made.zarr")), 3, "made")
    problems, pixels = Warp(group, source).compare(pair, written)
    assert pixels > 500
    if shift == (0.0, 0.0):
        assert not problems
    elif is_speckled or abs(shift[1]) > abs(shift[0]):  # a slope tells where it lies in its own direction only
        assert "beside its place" in problems[0] or "not among the source's" in problems[0]


# --- what cannot place a scene ---------------------------------------------------------------------------------------


def without(name: str) -> Callable[[zarr.Group], None]:
    return lambda gcp: gcp.__delitem__(name)


def of_text(gcp: zarr.Group) -> None:
    del gcp["line"]
    array = gcp.create_array("line", shape=(6,), dtype="<U3", fill_value="")
    array.attrs["_ARRAY_DIMENSIONS"] = ["azimuth_time"]


def of_other_length(gcp: zarr.Group) -> None:
    del gcp["line"]
    array = gcp.create_array("line", shape=(5,), dtype="u4")
    array.attrs["_ARRAY_DIMENSIONS"] = ["azimuth_time"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (without("line"), "lacks line"),
        (without("latitude"), "lacks latitude"),
        (of_text, "holds no numbers"),
        (of_other_length, "lies over"),
    ],
)
def test_points_that_place_nothing_are_known_before(
    change: Callable[[zarr.Group], None], why: str, tmp_path: Path
) -> None:
    product = open_product(str(write_radar(tmp_path / "scene.zarr", Geometry(), change=change)))
    found = report(product, "measurements")
    assert not found.ok
    assert why in found.refused
    assert "would convert nothing" in repr(found)


def around_a_pole(gcp: zarr.Group) -> None:
    size = gcp["longitude"].size  # type: ignore[union-attr]
    gcp["longitude"][...] = np.linspace(-180, 172, size).reshape(gcp["longitude"].shape)  # type: ignore[index, union-attr]


def in_one_place(gcp: zarr.Group) -> None:
    gcp["longitude"][...], gcp["latitude"][...] = 10.0, 45.0  # type: ignore[index]


def nowhere(gcp: zarr.Group) -> None:
    gcp["latitude"][0, 0] = np.nan  # type: ignore[index]


def beyond_the_earth(gcp: zarr.Group) -> None:
    gcp["latitude"][0, 0] = 99.0  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (around_a_pole, "around a pole"),
        (in_one_place, "GDAL makes no map"),
        (nowhere, "is no number"),
        (beyond_the_earth, "no place on earth"),
    ],
)
def test_points_that_lie_nowhere_are_an_error(change: Callable[[zarr.Group], None], why: str, tmp_path: Path) -> None:
    group, source = opened(write_radar(tmp_path / "scene.zarr", Geometry(), change=change))
    with pytest.raises(ProductBroken, match=why):
        ControlPoints.read(group, source).misses()


def test_heights_are_not_needed(tmp_path: Path) -> None:
    group, source = opened(write_radar(tmp_path / "scene.zarr", Geometry(), change=without("height")))
    assert not ControlPoints.read(group, source).heights.any()


# --- with the converter ----------------------------------------------------------------------------------------------


def assert_in_place(output: Path, geometry: Geometry, polarisation: str) -> None:
    together, worst = misplaced(output, geometry, polarisation)
    assert together < TENTH / 2
    assert worst < TENTH + EIGHTH


@pytest.fixture(scope="module")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("crossing")
    geometry, how = SCENES["list across the antimeridian, v3"]
    scene = write_radar(folder / "scene.zarr", geometry, **how)  # type: ignore[arg-type]
    return scene, run(scene, folder / "out.zarr", "--groups", "measurements")


@pytest.mark.converter
@pytest.mark.parametrize("name", [name for name in SCENES if "across" not in name])
def test_a_scene_is_converted_to_a_tenth_of_a_pixel(name: str, tmp_path: Path) -> None:
    geometry, how = SCENES[name]
    scene = write_radar(tmp_path / "scene.zarr", geometry, **how)  # type: ignore[arg-type]
    done = run(scene, tmp_path / "out.zarr", "--groups", "measurements")
    assert done.code == 0, done.stdout
    for polarisation in how.get("polarisations", ("VH", "VV")):
        assert_in_place(done.output, geometry, str(polarisation))
    assert not list(done.output.rglob("gcp*")), "control points that were made for the converter are gone"


@pytest.mark.converter
def test_a_scene_across_the_antimeridian(crossing: tuple[Path, Run]) -> None:
    _, done = crossing
    assert done.code == 0, done.stdout
    for polarisation in ("VH", "VV"):
        assert_in_place(done.output, CROSSING, polarisation)
    west, _, east, _ = zarr.open_group(str(done.output / f"{NAME}_VV/measurements")).attrs["spatial:bbox"]  # type: ignore[misc]
    assert 179 < west < 180 < east < 181  # type: ignore[operator]


@pytest.fixture
def spoilt(crossing: tuple[Path, Run], tmp_path: Path) -> tuple[Plan, Path]:
    scene, done = crossing
    request = Request.of(scene, tmp_path / "other.zarr", groups="measurements")
    plan = preflight(request, Reporter(io.StringIO()))
    return plan, Path(shutil.copytree(done.output, tmp_path / "out.zarr"))


def moved(axis: str) -> Callable[[Path], None]:
    """Move x or y by half a pixel, and what is said of them in words."""

    def move(store: Path) -> None:
        documents = [store / "zarr.json"]
        for polarisation in ("VH", "VV"):
            group = store / f"{NAME}_{polarisation}/measurements"
            array = zarr.open_array(str(group / axis), mode="r+")
            values = np.asarray(array[:], float)
            half = float(values[1] - values[0]) / 2
            array[:] = values + half
            documents += [group / "zarr.json", group / "spatial_ref" / "zarr.json"]
        for document in documents:
            document.write_text(json.dumps(shifted(json.loads(document.read_text()), axis, half)))

    return move


PLACES = {"spatial:bbox": {"x": (0, 2), "y": (1, 3)}, "spatial:transform": {"x": (2,), "y": (5,)}}
PLACE_OF_GDAL = {"x": 0, "y": 3}


def shifted(said: Any, axis: str, by: float) -> Any:
    """Return what is said of a grid that was moved."""
    if isinstance(said, list):
        return [shifted(each, axis, by) for each in said]
    if not isinstance(said, dict):
        return said
    made = {name: shifted(each, axis, by) for name, each in said.items()}
    for name in PLACES.keys() & said.keys():
        made[name] = [value + by * (place in PLACES[name][axis]) for place, value in enumerate(said[name])]
    if "GeoTransform" in said:
        numbers = enumerate(map(float, said["GeoTransform"].split()))
        made["GeoTransform"] = " ".join(
            repr(float(value + by * (place == PLACE_OF_GDAL[axis]))) for place, value in numbers
        )
    return made


def swapped(store: Path) -> None:
    one, other = (store / f"{NAME}_{polarisation}/measurements/grd" for polarisation in ("VH", "VV"))
    for first, second in ((one, store / "kept"), (other, one), (store / "kept", other)):
        first.rename(second)


@pytest.mark.converter
@pytest.mark.parametrize(
    ("sabotage", "why"),
    [
        (moved("x"), "beside its place"),
        (moved("y"), "beside its place"),
        (swapped, "not among the source's"),
    ],
)
def test_a_wrong_output_is_refused(sabotage: Callable[[Path], None], why: str, spoilt: tuple[Plan, Path]) -> None:
    plan, output = spoilt
    verify(plan, plan.product.url, output, lambda done, total, unit: None)
    sabotage(output)
    with pytest.raises(VerificationFailed, match=why):
        verify(plan, plan.product.url, output, lambda done, total, unit: None)


def test_the_control_points_that_are_made_are_of_no_polarisation_alone(tmp_path: Path) -> None:
    scene = write_radar(tmp_path / "scene.zarr", Geometry(), polarisations=("VV",))
    product = open_product(str(scene))
    paths = {array.path.rpartition("/")[0] for array in profile_of(product).made_arrays(product)}
    assert paths == {f"/{NAME}_VV/conditions/gcp_of_corners", "/without_second_polarisation/conditions/gcp_of_corners"}
