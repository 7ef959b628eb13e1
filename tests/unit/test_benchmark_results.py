"""Benchmark figures are judged, kept and shown without loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results import Goal, Result, Row, as_markdown, load, save, shown

RESULT = Result(
    "whole",
    "a title",
    ("ours", "converter"),
    [
        Row("wall time", "s", 11.0, 10.0, Goal("ratio", 1.10)),
        Row("downloaded", "bytes", 4e6, 1e6, Goal("ratio", 1.02, 0.98)),
        Row("requests", "count", 1, goal=Goal("value", 1)),
        Row("names", "names", 0, note="none"),
    ],
    3,
    "2 cores",
)


@pytest.mark.parametrize(("row", "met"), list(zip(RESULT.rows, [True, False, True, None], strict=True)))
def test_goal(row: Row, met: bool | None) -> None:
    assert row.met is met


def test_nothing_to_compare_with_is_not_a_met_ratio() -> None:
    assert Row("x", "bytes", 1.0, 0.0, Goal("ratio", 1.1)).met is False


def test_kept_and_loaded(tmp_path: Path) -> None:
    assert load(tmp_path / "results.json") == {}
    save(tmp_path / "results.json", [RESULT])
    assert load(tmp_path / "results.json") == {"whole": RESULT}


def test_markdown() -> None:
    page = as_markdown([RESULT])
    assert "a title (3 runs; 2 cores)" in page
    assert "| wall time | 11.0 s | 10.0 s | 1.10 | ratio ≤ 1.1: met |" in page
    assert "| downloaded | 4.0 MB | 1.0 MB | 4.00 | ratio 0.98 to 1.02: MISSED |" in page
    assert "| requests | 1 |  |  | ≤ 1: met |" in page
    assert "| names (none) | 0 |  |  |  |" in page


def test_shown() -> None:
    assert [shown(None, "s"), shown(0.0123, "s"), shown(12.34, "s")] == ["", "0.012 s", "12.3 s"]
    assert [shown(1234.5e6, "bytes"), shown(12345, "count")] == ["1,234.5 MB", "12,345"]
