"""What is shown of a job: measured, in time, and true to the end."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from geozarr_nb.backends.base import Cursor, JobState, Progress
from geozarr_nb.jobs import display as module
from geozarr_nb.jobs.display import Board, LineDisplay, NotebookDisplay, TerminalDisplay, choose, show
from geozarr_nb.jobs.job import Job
from geozarr_runner.events import Event
from geozarr_runner.spec.request import Request

START = datetime(2025, 1, 1, tzinfo=UTC)
REQUEST = Request(source="/p.zarr", shown="/p.zarr", product="p", output="/out.zarr", identity="0" * 64)
PENDING = JobState("p-1", "local", REQUEST, "Pending", START, reason="one job runs at a time, it is next")
RUNNING = replace(
    PENDING, status="Running", reason="", started=START, stage="convert", progress=Progress(1, 4, "chunks")
)
DONE = replace(RUNNING, status="Succeeded", finished=START + timedelta(seconds=9), progress=None)
FAILED = replace(DONE, status="Failed", reason="no space is <left>")


def event(kind: str, after: float = 0, **fields: Any) -> Event:
    return Event(kind, START + timedelta(seconds=after), fields)


def progress(seconds: float, done: int, total: int | None = 100_000_000, unit: str = "bytes") -> Event:
    return event("progress", seconds, stage="stage", done=done, total=total, unit=unit)


STARTED = event("stage", stage="stage", state="started")
FINISHED = event("stage", 8, stage="stage", state="finished", seconds=8.0)
WARNING = event("warning", code="group-dropped", message="/x is left out", remedy="")
SCRIPT: list[tuple[JobState, list[Event]]] = [
    (PENDING, []),
    (PENDING, []),
    (RUNNING, [event("message", text="Available: /a, /b"), WARNING, STARTED, progress(0, 0)]),
    (RUNNING, [progress(2, 50_000_000)]),
    (DONE, [progress(8, 100_000_000), FINISHED]),
]


class Replay:
    """A backend that goes through a script, one step at each look."""

    name = "replay"
    poll_interval = 0.0

    def __init__(self, script: list[tuple[JobState, list[Event]]]) -> None:
        self._script = iter(script)
        self._state, self._events = script[0]

    def get(self, name: str) -> JobState:
        return self._state

    def events(self, name: str, cursor: Cursor | None = None) -> tuple[list[Event], Cursor]:
        self._state, self._events = next(self._script, (self._state, []))
        return self._events, Cursor(1, 0)


def replay(script: list[tuple[JobState, list[Event]]], display: Any) -> None:
    show(Job(Replay(script), "p-1"), display=display)  # type: ignore[arg-type]


def board_after(*events: Event, state: JobState = RUNNING) -> Board:
    board = Board(PENDING)
    board.update(state, list(events))
    return board


def test_a_rate_needs_evidence() -> None:
    assert board_after(STARTED, progress(0, 0)).stages[0].rate is None
    assert board_after(STARTED, progress(0, 0), progress(0.5, 10)).stages[0].rate is None
    assert board_after(STARTED, progress(0, 0), progress(2, 50)).stages[0].rate == 25
    assert board_after(STARTED, progress(0, 9), progress(2, 9)).stages[0].rate is None
    assert board_after(STARTED, progress(0, 0, unit="chunks"), progress(2, 9, unit="chunks")).stages[0].rate is None


def test_a_rate_is_the_last_seconds_not_the_whole_time() -> None:
    readings = [progress(second, 10 * second if second < 20 else 200) for second in range(40)]
    assert board_after(STARTED, *readings).stages[0].rate is None  # it has come to a stand
    faster = [progress(second, second * second) for second in range(40)]
    assert board_after(STARTED, *faster).stages[0].rate == pytest.approx((39**2 - 34**2) / 5)


def test_a_share_needs_a_total() -> None:
    assert board_after(STARTED).stages[0].share is None
    assert board_after(STARTED, progress(0, 5, total=None)).stages[0].share is None
    assert board_after(STARTED, progress(0, 5, total=10)).stages[0].share == 0.5
    assert board_after(STARTED, FINISHED).stages[0].share == 1


def test_a_new_attempt_begins_anew() -> None:
    board = board_after(STARTED, FINISHED, WARNING)
    board.update(replace(RUNNING, attempt=2), [STARTED])
    assert len(board.stages) == 1
    assert board.notes == []


def test_lines_are_one_for_each_thing_that_happened() -> None:
    stream = io.StringIO()
    replay(SCRIPT, LineDisplay(stream))
    assert stream.getvalue().splitlines() == [
        "one job runs at a time, it is next",
        "warning: /x is left out",
        "stage: 100.0 MB of 100.0 MB, 8.0 s",
        "p-1: Succeeded, 9 s -> /out.zarr",
    ]


def test_a_terminal_keeps_the_bars_and_the_verdict() -> None:
    stream = io.StringIO()
    replay(SCRIPT, TerminalDisplay(stream))
    text = stream.getvalue()
    assert "warning: /x is left out" in text
    assert "stage" in text
    assert "100.0 MB of 100.0 MB" in text
    assert text.rstrip().endswith("p-1: Succeeded, 9 s -> /out.zarr")


@pytest.fixture(scope="module")
def shell() -> Iterator[InteractiveShell]:
    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()


@pytest.fixture
def published(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Everything that a notebook would be sent."""
    publisher = CapturingDisplayPublisher()
    monkeypatch.setattr(shell, "display_pub", publisher)
    outputs: list[dict[str, Any]] = publisher.outputs
    return outputs


def test_a_notebook_has_one_output_that_stays_true(
    published: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_DRAWS", 0)
    replay(SCRIPT, NotebookDisplay())
    assert [output["update"] for output in published] == [False] + [True] * (len(published) - 1)
    assert len({output["transient"]["display_id"] for output in published}) == 1
    running = [output for output in published if "Succeeded" not in output["data"]["text/plain"]]
    assert len(running) >= 3
    for output in running:
        assert 'get_job("p-1")' in output["data"]["text/html"].replace("&quot;", '"')
        assert "as of" in output["data"]["text/plain"]
    last = published[-1]["data"]
    for text in last.values():
        assert "Succeeded" in text
        assert "100.0 MB of 100.0 MB" in text
        assert "as of" not in text
    assert "25.0 MB/s" in "".join(output["data"]["text/plain"] for output in published)
    assert "<script" not in last["text/html"]


def test_a_notebook_is_updated_a_few_times_a_second_at_most(published: list[dict[str, Any]]) -> None:
    script = [(RUNNING, [STARTED]), *[(RUNNING, [progress(0, done)]) for done in range(500)], (DONE, [FINISHED])]
    replay(script, NotebookDisplay())
    assert len(published) <= 6
    assert "Succeeded" in published[-1]["data"]["text/plain"]


def test_an_interrupted_notebook_says_that_the_job_goes_on(published: list[dict[str, Any]]) -> None:
    class Interrupted(Replay):
        def events(self, name: str, cursor: Cursor | None = None) -> tuple[list[Event], Cursor]:
            found = super().events(name, cursor)
            if self._state is DONE:
                raise KeyboardInterrupt
            return found

    with pytest.raises(KeyboardInterrupt):
        show(Job(Interrupted(SCRIPT), "p-1"), display=NotebookDisplay())  # type: ignore[arg-type]
    assert "Running" in published[-1]["data"]["text/plain"]
    assert "the job goes on without this cell" in published[-1]["data"]["text/plain"]


def test_what_a_job_says_cannot_become_html() -> None:
    assert "no space is &lt;left&gt;" in board_after(state=FAILED).html


def test_the_display_suits_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(choose(io.StringIO()), LineDisplay)
    assert isinstance(choose(Terminal()), TerminalDisplay)
    monkeypatch.setattr("IPython.get_ipython", lambda: type("Shell", (), {"kernel": object()})())
    assert isinstance(choose(Terminal()), NotebookDisplay)
    monkeypatch.setattr("IPython.get_ipython", lambda: type("Shell", (), {})())  # ipython in a terminal
    assert isinstance(choose(Terminal()), TerminalDisplay)


def test_what_ran_another_time_is_not_played_again() -> None:
    stream = io.StringIO()
    replay([(DONE, [STARTED, progress(0, 100), FINISHED])], LineDisplay(stream))
    assert stream.getvalue().splitlines() == [
        "it had finished before: nothing ran now",
        "p-1: Succeeded, 9 s -> /out.zarr",
    ]


def test_an_output_that_was_kept_is_said_to_be() -> None:
    skipped = Event("result", START, {"path": "/out.zarr", "skipped": True})
    stream = io.StringIO()
    replay([(RUNNING, []), (DONE, [skipped])], LineDisplay(stream))
    assert stream.getvalue().startswith("/out.zarr is there already")


@pytest.mark.parametrize(
    ("raised", "seen", "unseen"),
    [
        ("InvalidRequest('no such thing', given='x', remedy='give y')", "remedy: give y", "<cell line"),
        ("GeozarrError('a defect of ours')", "Traceback", "remedy"),
    ],
)
def test_a_notebook_shows_where_it_happened_for_defects_only(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], raised: str, seen: str, unseen: str
) -> None:
    shell.run_cell(f"from geozarr_runner.errors import GeozarrError, InvalidRequest\nraise {raised}")
    text = capsys.readouterr().out
    assert seen in text
    assert unseen not in text
    assert ("InvalidRequest [invalid-request]: no such thing" in text) == ("Traceback" not in text)
