"""Where on the earth something lies, as GeoJSON has it (RFC 7946): an outline, and the box around it.

Products say it in many ways: rings that are not closed, boxes with west and east the wrong way round, outlines that
jump from 180 to -180 degrees. A geometry decides, without one the narrower reading of a box. Where that is no answer,
there is none: nothing is said to cover the whole earth because nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

HALF, FULL = 180.0, 360.0
POLE = 90.0
MOST_POINTS, MOST_PARTS = 2_000, 50  # of an outline; one with more is not looked at
TALLEST = 170.0  # degrees; what is as tall and wider than half the earth is no scene at the antimeridian
SMALLEST = 1e-9  # square degrees; what is smaller has no inside
CLOSE = 1e-9  # degrees; what is as near to the antimeridian lies there

Point = tuple[float, float]
Ring = list[Point]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Footprint:
    """An outline in degrees.

    Attributes
    ----------
    geometry
        A GeoJSON Polygon; a MultiPolygon, cut at 180 degrees, where it crosses the antimeridian.
    bbox
        West, south, east, north. West is greater than east where the antimeridian is crossed.
    """

    geometry: Mapping[str, Any]
    bbox: Box


def footprint_of(described: Mapping[str, Any]) -> Footprint | None:
    """Return where a STAC item, or what is described as one, says that it lies; None where it does not."""
    return of_geometry(described.get("geometry")) or of_box(described.get("bbox"))


def of_geometry(geometry: Any) -> Footprint | None:
    """Return the footprint of a GeoJSON Polygon or MultiPolygon; None where it is none, or none that can be.

    An edge goes the shorter way around the earth. What winds itself is described by its box.
    """
    if not isinstance(geometry, Mapping):
        return None
    coordinates = geometry.get("coordinates")
    polygons = {"Polygon": [coordinates], "MultiPolygon": coordinates}.get(str(geometry.get("type")))
    if not isinstance(polygons, list | tuple) or not 0 < len(polygons) <= MOST_PARTS:
        return None
    found: list[list[Ring]] = []
    for polygon in polygons:
        rings: list[Ring] = []
        for points in polygon if isinstance(polygon, list | tuple) else ():
            if (ring := _ring(points)) is None:
                return None
            rings.append(_unrolled(ring))
        if not rings:
            return None
        found.append(rings)
    return _placed(found) or _around(ring for rings in found for ring in rings)


def of_box(box: Any) -> Footprint | None:
    """Return the footprint of a box of four numbers, or of six; None where it is none.

    West may be east of east: either the box crosses the antimeridian, or it is written the wrong way round. The
    narrower one of the two is meant.
    """
    if not isinstance(box, list | tuple) or len(box) not in (4, 6):
        return None
    corners = _points((box[:2], box[len(box) // 2 :][:2]))
    if corners is None:
        return None
    south, north = sorted(latitude for _, latitude in corners)
    west, east = sorted(longitude for longitude, _ in corners)
    if east - west >= HALF:
        if north - south > TALLEST:
            return None
        west, east = east, west + FULL
    return _of_edges(west, south, east, north) if east - west < HALF else None


def of_grid(west: float, south: float, east: float, north: float) -> Footprint | None:
    """Return the footprint of a grid, whose edges leave no doubt which is which; it may be as wide as the earth."""
    if not all(map(math.isfinite, (west, south, east, north))):
        return None
    if east < west:
        east += FULL
    if east - west >= FULL:
        west, east = -HALF, HALF
    return _of_edges(west, max(south, -POLE), east, min(north, POLE))


def around(boxes: Iterable[Sequence[float]]) -> Box | None:
    """Return the narrowest box around some, each of which may cross the antimeridian; None around none."""
    known = [(box[0], box[1], box[2] + FULL if box[2] < box[0] else box[2], box[3]) for box in boxes]
    if not known:
        return None
    west, east = _arc([(west, east) for west, _, east, _ in known])
    return west, min(south for _, south, _, _ in known), east, max(north for _, _, _, north in known)


# --- rings -----------------------------------------------------------------------------------------------------------


def _points(values: Iterable[Any]) -> Ring | None:
    """Return points in degrees; None where one of them is none."""
    found = []
    for value in values:
        if not isinstance(value, list | tuple) or len(value) < 2:
            return None
        longitude, latitude = value[:2]
        if any(isinstance(number, bool) or not isinstance(number, int | float) for number in (longitude, latitude)):
            return None
        if not (abs(longitude) <= FULL and abs(latitude) <= POLE):  # nor where it is no number
            return None
        is_at_edge = abs(abs(longitude) - HALF) < CLOSE
        found.append((math.copysign(HALF, longitude) if is_at_edge else float(longitude), float(latitude)))
    return found


def _ring(values: Any) -> Ring | None:
    """Return the points of a ring, each once: the first is not the last again."""
    if not isinstance(values, list | tuple) or len(values) > MOST_POINTS:
        return None
    if not (points := _points(values)):
        return None
    ring = [point for point, following in zip(points, [*points[1:], None], strict=True) if point != following]
    if len(ring) > 1 and ring[0] == ring[-1]:
        del ring[-1]
    return ring if len(ring) >= 3 else None


def _unrolled(ring: Ring) -> Ring:
    """Return a ring whose longitudes do not jump, and so may be beyond 180; one around a pole goes along it."""
    latitudes = [latitude for _, latitude in ring]
    if max(ring)[0] - min(ring)[0] == FULL and (POLE in latitudes) != (-POLE in latitudes):
        return ring  # it goes along the pole already
    found = [ring[0]]
    for longitude, latitude in [*ring[1:], ring[0]]:
        step = longitude - found[-1][0]
        turns = 0 if abs(step) <= HALF else math.floor((step + HALF) / FULL)
        found.append((longitude - turns * FULL, latitude))
    winding = found.pop()[0] - ring[0][0]
    if abs(winding) < HALF:
        return found
    north = sum(latitude for _, latitude in ring) > 0
    end, edge = (POLE, min) if north else (-POLE, max)
    shore = edge(latitude for _, latitude in ring)
    return [(-HALF, shore), (HALF, shore), (HALF, end), (-HALF, end)]


def _is_simple(ring: Ring) -> bool:
    """Return whether no edge of a ring touches another one but its neighbours."""
    count = len(ring)
    if len(set(ring)) < count:
        return False
    return not any(
        _touched(ring[number], ring[(number + 1) % count], ring, skip=(number - 1, number, number + 1))
        for number in range(count)
    )


def _touched(start: Point, end: Point, ring: Ring, skip: Sequence[int] = ()) -> bool:
    """Return whether an edge touches one of a ring's; `skip` has the numbers of those that do not count."""
    import numpy as np

    one = np.asarray(ring)
    other = np.roll(one, -1, axis=0)

    def side(of: Any, origin: Any, towards: Any) -> Any:
        return np.sign(
            (towards[..., 0] - origin[..., 0]) * (of[..., 1] - origin[..., 1])
            - (towards[..., 1] - origin[..., 1]) * (of[..., 0] - origin[..., 0])
        )

    first, last = np.asarray(start), np.asarray(end)
    crossed = (side(one, first, last) * side(other, first, last) <= 0) & (
        side(first, one, other) * side(last, one, other) <= 0
    )
    near = np.minimum(first, last) <= np.maximum(one, other)
    near &= np.maximum(first, last) >= np.minimum(one, other)
    found = crossed & near.all(axis=1)
    found[[number % len(ring) for number in skip]] = False
    return bool(found.any())


def _area(ring: Ring) -> float:
    """Return twice the area of a ring in square degrees; positive where it goes against the clock."""
    (west, south), *_ = ring
    return sum(
        (one[0] - west) * (other[1] - south) - (other[0] - west) * (one[1] - south)
        for one, other in pairwise([*ring, ring[0]])
    )


# --- what is made of them --------------------------------------------------------------------------------------------


def _around(rings: Iterable[Ring]) -> Footprint | None:
    """Return the box around some rings, where it is narrower than half the earth, as a footprint."""
    points = [(min(ring), max(ring), ring) for ring in rings]
    box = around((low[0], min(y for _, y in ring), high[0], max(y for _, y in ring)) for low, high, ring in points)
    if box is None:
        return None
    west, south, east, north = box
    east = east + FULL if east < west else east
    return _of_edges(west, south, east, north) if east - west < HALF else None


def _of_edges(west: float, south: float, east: float, north: float) -> Footprint | None:
    return _placed([[[(west, south), (east, south), (east, north), (west, north)]]])


def _placed(polygons: Iterable[Sequence[Ring]]) -> Footprint | None:
    """Return a footprint of unrolled polygons, holes after their outline; None where they have no area, or cross."""
    parts: list[list[Ring]] = []
    for shell, *holes in polygons:
        west, east = min(shell)[0], max(shell)[0]
        turn = -FULL * math.floor((west + HALF) / FULL)
        if east - west > FULL or not _is_simple(shell):
            return None
        moved = _turned(shell, turn)
        if east + turn <= HALF:
            parts.append([moved, *(_turned(hole, turn) for hole in holes if _is_simple(hole))])
        elif (pieces := _cut(moved)) is None:
            return None
        else:
            parts += [[piece] for piece in pieces]
    parts = [part for part in parts if abs(_area(part[0])) > SMALLEST]
    if not parts or any(_overlap(one[0], other[0]) for number, one in enumerate(parts) for other in parts[:number]):
        return None
    polygons_written = [[_written(ring, is_hole=bool(number)) for number, ring in enumerate(part)] for part in parts]
    box = around((min(ring)[0], min(y for _, y in ring), max(ring)[0], max(y for _, y in ring)) for ring, *_ in parts)
    if box is None:
        return None
    if len(polygons_written) == 1:
        return Footprint({"type": "Polygon", "coordinates": polygons_written[0]}, box)
    return Footprint({"type": "MultiPolygon", "coordinates": polygons_written}, box)


def _turned(ring: Ring, by: float) -> Ring:
    return [(longitude + by, latitude) for longitude, latitude in ring] if by else ring


def _written(ring: Ring, *, is_hole: bool) -> list[list[float]]:
    """Return a ring as GeoJSON: closed, the outline against the clock and a hole with it."""
    ring = ring if (_area(ring) < 0) == is_hole else ring[::-1]
    return [list(point) for point in [*ring, ring[0]]]


def _overlap(one: Ring, other: Ring) -> bool:
    """Return whether two rings touch, or one lies in the other."""
    if any(_touched(start, end, other) for start, end in pairwise([*one, one[0]])):
        return True
    return _lies_in(one[0], other) or _lies_in(other[0], one)


def _lies_in(point: Point, ring: Ring) -> bool:
    x, y = point
    crossings = (
        (other[0] - one[0]) * (y - one[1]) / (other[1] - one[1]) + one[0] > x
        for one, other in pairwise([*ring, ring[0]])
        if (one[1] > y) != (other[1] > y)
    )
    return sum(crossings) % 2 == 1


def _cut(ring: Ring) -> list[Ring] | None:
    """Return the pieces of a ring on both sides of 180 degrees, all of them between -180 and 180; None where it winds.

    The ring is walked from one crossing to the next. Sorted by latitude, what lies between the first crossing and the
    second, the third and the fourth, and so on, is inside.
    """
    chains: list[tuple[bool, Ring]] = []
    for one, other in pairwise([*ring, ring[0]]):
        is_beyond = one[0] > HALF
        if not chains:
            chains.append((is_beyond, []))
        chains[-1][1].append(one)
        if is_beyond != (other[0] > HALF):
            crossing = _crossing(one, other)
            chains[-1][1].append(crossing)
            chains.append((not is_beyond, [crossing]))
    _, first = chains.pop(0)
    chains[-1][1].extend(first)  # it ends where the first one begins
    order = sorted({chain[0] for _, chain in chains}, key=lambda point: point[1])
    if len(order) != len(chains) or len(order) % 2:
        return None
    partners = {point: order[number ^ 1] for number, point in enumerate(order)}
    pieces = []
    for side in (False, True):
        waiting = {chain[0]: chain for is_beyond, chain in chains if is_beyond == side}
        while waiting:
            start, piece = waiting.popitem()
            while (following := partners[piece[-1]]) != start:
                if following not in waiting:
                    return None
                piece = [*piece, *waiting.pop(following)]
            distinct = [point for point, after in pairwise([*piece, piece[0]]) if point != after]
            if len(distinct) < 3 or abs(_area(distinct)) <= SMALLEST:
                continue
            if not _is_simple(distinct):
                return None
            pieces.append(_turned(distinct, -FULL) if side else distinct)
    return pieces


def _crossing(one: Point, other: Point) -> Point:
    """Return where an edge crosses 180 degrees; the point itself where one of its ends lies there."""
    for point in (one, other):
        if point[0] == HALF:
            return point
    return HALF, one[1] + (HALF - one[0]) / (other[0] - one[0]) * (other[1] - one[1])


def _arc(spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the narrowest stretch of longitudes around some, from west to east between -180 and 180."""
    turns = [FULL * math.floor((west + HALF) / FULL) for west, _ in spans]
    known = sorted((west - turn, east - turn) for (west, east), turn in zip(spans, turns, strict=True))
    last = max(east for _, east in known)
    reached, widest, start, end = last - FULL, -math.inf, -HALF, HALF
    for west, east in known:
        if west - reached > widest:  # the widest gap is what the stretch leaves out
            widest, start, end = west - reached, west, last
        if east > reached:
            reached = last = east
    if widest <= 0:
        return -HALF, HALF
    return start, end - FULL if end > HALF else end
