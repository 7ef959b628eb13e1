"""What is to be seen of a product's groups; and how fast a job goes, once that is known."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from geozarr_nb.backends.base import JobState, Progress
from geozarr_nb.widgets.jobs.row import Pace, duration
from geozarr_nb.widgets.request.tree import Tree
from geozarr_runner.product.model import Array, Group, Product
from geozarr_runner.spec.request import Request

REQUEST = Request(source="/p.zarr", shown="/p.zarr", product="p", output="/out.zarr", identity="0" * 64)
STATE = JobState("p-1", "local", REQUEST, "Running", datetime(2025, 1, 1, tzinfo=UTC), stage="stage")


def product_of(*paths: str, variable: str = "b01") -> Product:
    def array(path: str, name: str, *dims: str) -> Array:
        shape = (64,) * len(dims)
        return Array(f"{path}/{name}", shape, shape, "<u2", dims, {}, {"zarr_format": 2})

    def group(path: str) -> Group:
        return Group(path, (array(path, variable, "y", "x"), array(path, "y", "y"), array(path, "x", "x")), {})

    groups = {path: group(path) for path in paths}
    return Product("/nowhere.zarr", "many", "Zarr", 2, groups, {"/": {}}, consolidated=True, identity="0")


def paths(tree: Tree, *arguments: Any) -> list[str]:
    return [node.path for node in tree.seen(*arguments)]


def test_only_what_is_open_is_seen() -> None:
    tree = Tree(product_of("/a/x", "/a/y", "/b"))
    assert paths(tree, frozenset()) == ["/a", "/b"]
    assert paths(tree, {"/a"}) == ["/a", "/a/x", "/a/y", "/b"]
    above = tree.seen(frozenset())[0]
    assert above.has_children
    assert not above.holds_arrays


def test_a_filter_finds_paths_and_variables_with_their_parents() -> None:
    tree = Tree(product_of("/a/x", "/a/y", "/b"))
    assert paths(tree, frozenset(), "y") == ["/a", "/a/y"]
    assert paths(tree, frozenset(), "B01 /b") == ["/b"]
    assert paths(tree, frozenset(), "nothing") == []


def test_as_many_levels_are_open_as_there_are_rows_for() -> None:
    tree = Tree(product_of(*(f"/a/{number}/x" for number in range(9))))
    assert tree.opened_for(10) == {"/a"}
    assert tree.opened_for(19) == {"/a", *(f"/a/{number}" for number in range(9))}
    assert tree.opened_for(1) == frozenset()


def test_arrays_in_the_root_are_a_group_like_others() -> None:
    nodes = Tree(product_of("/", "/a")).seen(frozenset())
    assert [(node.path, node.has_children) for node in nodes] == [("/", False), ("/a", False)]


def at(done: int, total: int | None = 100_000_000, unit: str = "bytes") -> JobState:
    return replace(STATE, progress=Progress(done, total, unit))


def test_no_rate_and_no_end_without_evidence() -> None:
    pace = Pace()
    for now, done in ((0.0, 0), (1.0, 10_000_000)):
        pace.take(at(done), now)
        assert pace.text(now) == ""
    pace.take(at(20_000_000), 2.0)
    assert pace.text(2.0) == "10.0 MB/s, 8 s left in this stage"
    assert pace.text(13.0) == ""  # nothing came for a while


def test_another_stage_begins_anew() -> None:
    pace = Pace()
    for second in range(4):
        pace.take(at(second * 1_000_000), second)
    pace.take(replace(at(5, 12, "chunks"), stage="convert"), 4.0)
    assert pace.rate(4.0) is None
    pace.take(replace(at(8, 12, "chunks"), stage="convert"), 7.0)
    assert pace.text(7.0) == "4 s left in this stage"
    pace.take(replace(STATE, status="Succeeded"), 8.0)
    assert pace.text(8.0) == ""


def test_the_rate_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    for second in range(40):
        pace.take(at(second * second * 1000, None), second)
    assert pace.rate(39.0) == (39**2 - 31**2) * 1000 / 8
    assert "left" not in pace.text(39.0)


def test_durations() -> None:
    assert [duration(seconds) for seconds in (4, 90, 12_000)] == ["4 s", "2 min", "3 h 20 min"]
