"""Footprints: whatever a product says, what comes of it is GeoJSON by RFC 7946 or nothing; shapely is the judge."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapely.affinity import translate
from shapely.geometry import MultiPoint, Polygon, box, shape
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from geozarr_runner.product.footprint import Footprint, around, footprint_of, of_box, of_geometry, of_grid
from geozarr_runner.product.model import Product

SCENE = [[-2.9, 39.5], [0.1, 39.9], [0.4, 38.5], [-2.5, 38.1]]  # neither closed nor against the clock
ACROSS = [[179.0, 1.0], [-179.0, 1.5], [-179.0, 3.0], [179.0, 2.5], [179.0, 1.0]]


def polygon(*rings: Any) -> dict[str, Any]:
    """Return a GeoJSON Polygon."""
    return {"type": "Polygon", "coordinates": list(rings)}


def checked(found: Footprint | None) -> Footprint:
    """Return a footprint that is what RFC 7946 wants; the outline lies in the box, and fills it."""
    assert found is not None
    outline = shape(found.geometry)
    assert outline.is_valid
    assert json.loads(json.dumps(found.geometry)) == found.geometry
    west, south, east, north = found.bbox
    assert -180 <= west <= 180
    assert -180 <= east <= 180
    assert -90 <= south < north <= 90
    limits = (
        box(west, south, east, north) if west < east else box(west, south, 180, north) | box(-180, south, east, north)
    )
    assert limits.buffer(1e-9).covers(outline)
    left, low, right, high = outline.bounds
    assert (low, high) == pytest.approx((south, north))
    assert (left, right) == pytest.approx((west, east) if west < east else (-180, 180))
    parts = [found.geometry["coordinates"]] if found.geometry["type"] == "Polygon" else found.geometry["coordinates"]
    for shell, *holes in parts:
        assert shell[0] == shell[-1]
        assert Polygon(shell).exterior.is_ccw
        assert not any(Polygon(hole).exterior.is_ccw for hole in holes)
    return found


def width(found: Footprint) -> float:
    """Return how wide a box is, in degrees."""
    west, _, east, _ = found.bbox
    return east - west if west <= east else east + 360 - west


def unrolled(found: Footprint, reference: float) -> BaseGeometry:
    """Return an outline on a plane, its parts as near to a longitude as they can be."""
    parts = getattr(shape(found.geometry), "geoms", [shape(found.geometry)])
    moved = [translate(part, 360 * round((reference - part.centroid.x) / 360)) for part in parts]
    return unary_union([part.buffer(1e-9) for part in moved])


# --- geometries ------------------------------------------------------------------------------------------------------


def test_a_ring_is_closed_and_goes_against_the_clock() -> None:
    found = checked(of_geometry(polygon(SCENE)))
    assert found.bbox == (-2.9, 38.1, 0.4, 39.9)
    assert shape(found.geometry).equals(Polygon(SCENE))


def test_a_sound_outline_stays_as_it_is() -> None:
    sound = polygon([[11.0, 42.0], [12.0, 42.0], [12.0, 43.0], [11.0, 42.0]])
    assert checked(of_geometry(sound)).geometry == sound


@pytest.mark.parametrize(
    "geometry",
    [
        polygon(ACROSS),
        polygon(ACROSS[::-1]),
        polygon([[x % 360, y] for x, y in ACROSS]),
        polygon([[x if x < 0 else x - 360, y] for x, y in ACROSS]),
        {
            "type": "MultiPolygon",
            "coordinates": [
                [[[179.0, 1.0], [180.0, 1.25], [180.0, 2.75], [179.0, 2.5], [179.0, 1.0]]],
                [[[-180.0, 1.25], [-179.0, 1.5], [-179.0, 3.0], [-180.0, 2.75], [-180.0, 1.25]]],
            ],
        },
    ],
)
def test_an_outline_across_the_antimeridian_is_cut_there(geometry: dict[str, Any]) -> None:
    found = checked(of_geometry(geometry))
    assert found.geometry["type"] == "MultiPolygon"
    assert found.bbox == (179.0, 1.0, -179.0, 3.0)
    assert shape(found.geometry).area == pytest.approx(3.0)
    again = checked(of_geometry(found.geometry))
    assert again == found, "what is right stays as it is"


@pytest.mark.parametrize("sign", [1, -1])
def test_an_outline_around_a_pole_holds_the_pole(sign: int) -> None:
    found = checked(of_geometry(polygon([[x, sign * 80.0] for x in (0, 90, 180, -90)])))
    assert found.bbox == ((-180, 80, 180, 90) if sign > 0 else (-180, -90, 180, -80))
    assert checked(of_geometry(found.geometry)) == found


def test_an_outline_that_winds_is_its_box() -> None:
    found = checked(of_geometry(polygon([[0, 0], [1, 1], [1, 0], [0, 1]])))
    assert found.bbox == (0, 0, 1, 1)


def test_holes_go_with_the_clock() -> None:
    hole = [[-1.0, 39.0], [-1.0, 39.2], [-0.8, 39.2], [-0.8, 39.0]]
    for ring in (hole, hole[::-1]):
        found = checked(of_geometry(polygon(SCENE, ring)))
        assert len(found.geometry["coordinates"]) == 2


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        7,
        {},
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "Polygon"},
        polygon(),
        polygon([]),
        polygon([[0, 0], [1, 1], [0, 0]]),
        polygon([[0, 0], [1, 0], [2, 0]]),
        polygon([["a", "b"]] * 4),
        polygon([[True, False]] * 4),
        polygon([[500.0, 1.0], [501.0, 1.0], [501.0, 2.0]]),
        polygon([[1.0, 91.0], [2.0, 91.0], [2.0, 92.0]]),
        polygon([[math.nan, 1.0], [2.0, 1.0], [2.0, 2.0]]),
        polygon([[10**400, 1], [2, 1], [2, 2]]),
        polygon([[-180, -90], [180, -90], [180, 90], [-180, 90]]),
        {"type": "MultiPolygon", "coordinates": [[SCENE]] * 1000},
        polygon([[math.sin(n), math.cos(n)] for n in range(100_000)]),
    ],
    ids=lambda geometry: str(geometry)[:50],
)
def test_what_is_no_outline_is_none(geometry: Any) -> None:
    assert of_geometry(geometry) is None


@settings(max_examples=300, deadline=None)
@given(
    st.floats(-360, 360),
    st.floats(-88, 88),
    st.lists(st.tuples(st.floats(-85, 85), st.floats(-20, 20)), min_size=3, max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_any_scene_anywhere(middle: float, latitude: float, around_it: Any, reverse: bool, is_closed: bool) -> None:
    hull = MultiPoint([(x, min(max(latitude + y, -90), 90)) for x, y in around_it]).convex_hull
    assume(isinstance(hull, Polygon) and hull.area > 1e-3 and min(hull.length, hull.area) > 1e-3)
    ring = list(hull.exterior.coords)[:-1]
    place = middle % 360 - 180
    said = [[(x + place + 180) % 360 - 180, y] for x, y in (ring[::-1] if reverse else ring)]
    assume(len({tuple(point) for point in said}) == len(ring))
    found = checked(of_geometry(polygon([*said, said[0]] if is_closed else said)))
    assert width(found) <= 180
    expected = translate(hull, place)
    assert unrolled(found, expected.centroid.x).symmetric_difference(expected).area < 1e-3 * max(expected.area, 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(-180, 180), st.floats(-90, 90)), min_size=3, max_size=9))
def test_any_points_are_a_right_outline_or_none(ring: Any) -> None:
    found = of_geometry(polygon([list(point) for point in ring]))
    if found is not None:
        checked(found)


# --- boxes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ([179.1, 62.1, -178.8, 63.1], (179.1, 62.1, -178.8, 63.1)),
        ([-178.8, 62.1, 179.1, 63.1], (179.1, 62.1, -178.8, 63.1)),
        ([51.794, -23.95, 37.08, -10.63], (37.08, -23.95, 51.794, -10.63)),
        ([12.763, 42.427, 11.393, 41.404], (11.393, 41.404, 12.763, 42.427)),
        ([1, 2, -5.0, 3, 4, 100.0], (1, 2, 3, 4)),
        ([170.0, 1.0, 190.0, 2.0], (170.0, 1.0, -170.0, 2.0)),
        ([170.0, 1.0, 180.0, 2.0], (170.0, 1.0, 180.0, 2.0)),
        ([-180.0, 1.0, -170.0, 2.0], (-180.0, 1.0, -170.0, 2.0)),
    ],
)
def test_the_narrower_reading_of_a_box(said: list[float], wanted: tuple[float, ...]) -> None:
    assert checked(of_box(said)).bbox == pytest.approx(wanted)


@pytest.mark.parametrize(
    "said",
    [
        None,
        "1,2,3,4",
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [None] * 4,
        ["1", "2", "3", "4"],
        [math.nan, 1, 2, 3],
        [math.inf] * 4,
        [500, 1, 501, 2],
        [10**400, 1, 2, 3],
        [-180, -90, 180, 90],
        [-179.5, -89.5, 179.5, 89.5],
        [0, 0, 180, 1],
        [5, 1, 5, 2],
        [1, 2, 3, 2],
    ],
    ids=str,
)
def test_a_box_that_says_nothing_is_none(said: Any) -> None:
    assert of_box(said) is None


@settings(max_examples=200, deadline=None)
@given(st.floats(-180, 180), st.floats(-90, 89), st.floats(0.01, 179), st.floats(0.01, 100), st.booleans())
def test_any_box_comes_back(west: float, south: float, wide: float, tall: float, is_swapped: bool) -> None:
    east, north = west + wide, min(south + tall, 90)
    east = east - 360 if east > 180 else east
    said = [east, north, west, south] if is_swapped else [west, south, east, north]
    found = checked(of_box(said))
    assert width(found) <= 180
    assert found.bbox == pytest.approx((west if west < 180 - 1e-9 else -180.0, south, east, north), abs=1e-6)


def test_a_geometry_decides_over_a_box() -> None:
    said = {"geometry": polygon(SCENE), "bbox": [170.0, 1.0, 171.0, 2.0]}
    assert checked(footprint_of(said)).bbox == (-2.9, 38.1, 0.4, 39.9)
    assert checked(footprint_of({**said, "geometry": {"type": "Polygon"}})).bbox == (170.0, 1.0, 171.0, 2.0)
    assert footprint_of({}) is None


# --- grids, and several of them --------------------------------------------------------------------------------------


def test_a_grid_may_be_as_wide_as_the_earth() -> None:
    assert checked(of_grid(0, -90, 360, 90)).bbox == (-180, -90, 180, 90)
    assert checked(of_grid(100, -10, 250, 10)).bbox == (100, -10, -110, 10)
    assert of_grid(math.inf, 0, 1, 1) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(-180, 180), st.floats(0.1, 40)), min_size=1, max_size=5))
def test_the_box_around_some_holds_each_of_them(spans: Any) -> None:
    boxes = [(west, 0.0, west + wide if west + wide <= 180 else west + wide - 360, 1.0) for west, wide in spans]
    found = around(boxes)
    assert found is not None
    west, _, east, _ = found
    total = (east - west) % 360 or 360
    for left, _, right, _ in boxes:
        start = (left - west + 1e-7) % 360
        assert start + (right - left) % 360 <= total + 1e-6
    assert total <= sum(wide for _, wide in spans) + 360 - max(0, 360 - total) + 1e-6


def test_nothing_is_around_nothing() -> None:
    assert around([]) is None


# --- products --------------------------------------------------------------------------------------------------------


def product(discovery: Any = None, item: Any = None) -> Product:
    """Return a product that says of itself what is given."""
    root = {} if discovery is None else {"stac_discovery": discovery}
    return Product("p.zarr", "p", "Zarr", 2, {}, {"/": root}, True, "1", item=item or {})


@pytest.mark.parametrize("said", [None, "", "null", "None", 7, "yesterday", []])
def test_what_is_unknown_is_none(said: Any) -> None:
    found = product({"properties": {"datetime": said, "start_datetime": said}, "bbox": said, "geometry": said})
    assert (found.when, found.bbox, found.footprint) == (None, None, None)
    assert found.to_dict()["when"] is None
    assert "None" not in repr(found)
    assert "None" not in found._repr_html_()


def test_the_item_that_a_product_was_opened_from_comes_first() -> None:
    own = {"bbox": [1, 2, 3, 4], "properties": {"datetime": "2025-01-01T00:00:00Z"}}
    item = {"geometry": polygon(ACROSS), "properties": {"datetime": None, "start_datetime": "2024-01-01T00:00:00Z"}}
    assert product(own).bbox == (1, 2, 3, 4)
    assert product(own, item).bbox == (179.0, 1.0, -179.0, 3.0)
    assert (product(own).when, product(own, item).when) == ("2025-01-01T00:00:00Z", "2024-01-01T00:00:00Z")
    assert product(own, {"properties": {"datetime": "null"}}).when == "2025-01-01T00:00:00Z"
