"""Command lines of the runner mean what they meant: of queued jobs, of the workflow template, and typed ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frozen.present import Document, filled, recorded, run_runner, runner_call, runner_request

LINES = recorded("runner")


@pytest.mark.parametrize("case", LINES["requests"], ids=[case["about"] for case in LINES["requests"]])
def test_a_line_asks_for_the_recorded_request(case: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = filled(case, {"home": tmp_path, "state": tmp_path / "state"})
    for name, value in case.get("environ", {}).items():
        monkeypatch.setenv(name, value)
    assert runner_request(case["argv"], case.get("stdin", ""), monkeypatch) == case["request"]


@pytest.mark.parametrize("case", LINES["calls"], ids=[" ".join(case["argv"])[:40] for case in LINES["calls"]])
def test_a_line_that_converts_nothing_ends_in_the_recorded_call(
    case: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner_call(case["argv"], monkeypatch) == (case["call"], case["values"])


@pytest.mark.parametrize("argv", LINES["refused"], ids=" ".join)
def test_a_line_that_was_refused_is_refused_as_a_bad_request(argv: list[str]) -> None:
    assert run_runner(argv) == recorded("errors")["exit_codes"]["BAD_REQUEST"]
