"""Jobs as they go, seen from a thread: bounded in messages, and true to the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import geozarr_nb as gz
from geozarr_nb.api import jobs
from geozarr_nb.backends.base import Failure, JobState, Progress
from geozarr_nb.widgets import Monitor
from geozarr_nb.widgets.jobs.job_watcher import SECONDS_BETWEEN_BEATS, JobWatcher
from geozarr_nb.widgets.jobs.monitor import ROWS, ROWS_A_BEAT
from geozarr_nb.widgets.jobs.row import JobView
from geozarr_runner.spec.request import Request
from tests.contract.support import until
from tests.unit.widgets_support import SECONDS, button, field, sent_messages, shown

START = datetime(2025, 1, 1, tzinfo=UTC)
BESIDE_THE_ROWS = 8  # counts, pages, message, and the selected job's facts, buttons and log
JOBS = 100


class Watched:
    """In place of a backend's watch: hands out what a test puts in, to however many watch."""

    def __init__(self) -> None:
        self.watchers = 0
        self.next_states: Callable[[], list[JobState]] = list
        self.error: gz.GeozarrError | None = None

    def __call__(self, stop: threading.Event, backend: str | None = None) -> Iterator[JobState]:
        if self.error is not None:
            raise self.error
        self.watchers += 1
        try:
            while not stop.is_set():
                yield from self.next_states()
                stop.wait(0.01)
        finally:
            self.watchers -= 1


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Watched]:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    fake = Watched()
    monkeypatch.setattr(jobs, "watch_jobs", fake)
    yield fake
    until(lambda: fake.watchers == 0)


@pytest.fixture
def made() -> Iterator[Callable[..., Monitor]]:
    """Makes monitors that are closed at the end."""
    monitors: list[Monitor] = []

    def make(*arguments: Any, **options: Any) -> Monitor:
        monitors.append(Monitor(*arguments, **options))
        return monitors[-1]

    yield make
    for monitor in monitors:
        monitor.close()


def state_of(number: int, **changed: Any) -> JobState:
    request = Request(source="/p.zarr", shown="/p.zarr", product="p", output=f"/out{number}.zarr", identity="0" * 64)
    submitted = START + timedelta(seconds=number)
    started = datetime.now(UTC)
    values: dict[str, Any] = {
        "status": "Running",
        "stage": "convert",
        "progress": Progress(0, 1000, "chunks"),
        "started": started,
    }
    return JobState(f"p-{number:03}", "local", request, submitted=submitted, **{**values, **changed})


def test_messages_are_bounded_however_many_jobs_run(
    watched: Watched, made: Callable[..., Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0

    def next_states() -> list[JobState]:
        nonlocal done
        done += 1
        return [state_of(number, progress=Progress(done, 100_000, "chunks")) for number in range(JOBS)]

    watched.next_states = next_states
    messages = sent_messages(monkeypatch)
    tell, told = JobWatcher._tell, 0

    def count(*arguments: Any) -> None:
        nonlocal told
        told += 1
        tell(*arguments)

    monkeypatch.setattr(JobWatcher, "_tell", count)
    monitor = made()
    other = made()  # in another cell
    until(lambda: all(len(one.states) == JOBS and len(one.shown) == ROWS for one in (monitor, other)))
    assert watched.watchers == 1, "one watch serves every monitor"
    messages.clear()
    begun, seen = told, done
    until(lambda: told - begun >= 16 and done - seen > 100)  # states come much faster than they are shown
    sent = list(messages)
    assert sent.count("comm_open") == 0, "no widget is made as jobs go on"
    a_beat = ROWS_A_BEAT + BESIDE_THE_ROWS
    assert 0 < len(sent) <= (told - begun + 1) * a_beat  # one may have been in the middle of its beat
    assert a_beat / SECONDS_BETWEEN_BEATS <= 80, "messages a second of one monitor"
    assert f"{JOBS} Running" in shown(monitor)


def test_every_row_has_its_turn(watched: Watched, made: Callable[..., Monitor]) -> None:
    done = 0

    def next_states() -> list[JobState]:
        nonlocal done
        done += 1
        return [state_of(number, progress=Progress(done, None, "chunks")) for number in range(ROWS)]

    watched.next_states = next_states
    monitor = made()
    until(lambda: len(monitor.shown) == ROWS and "" not in monitor.shown)
    first = [row._content.value for row in monitor._rows]
    until(lambda: all(row._content.value != old for row, old in zip(monitor._rows, first, strict=True)))


def test_what_does_not_change_is_not_sent(
    watched: Watched, made: Callable[..., Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [state_of(number, status="Succeeded", finished=datetime.now(UTC)) for number in range(JOBS)]
    watched.next_states = lambda: states
    monitor = made()
    until(lambda: len(monitor.shown) == ROWS and "" not in monitor.shown)
    beats = 0
    take = monitor._take

    def count(*arguments: Any) -> None:
        nonlocal beats
        take(*arguments)
        beats += 1

    monitor._leave()
    monkeypatch.setattr(monitor, "_take", count)
    monitor._watch(None)
    until(lambda: beats >= 2)
    messages = sent_messages(monkeypatch)
    until(lambda: beats >= 5)
    assert messages == []


def test_a_job_is_a_row_with_what_is_known_of_it(watched: Watched, made: Callable[..., Monitor]) -> None:
    failure = Failure("storage-full", "no space is <left>", given="/full/disk", remedy="make space")
    failed = state_of(
        1, status="Failed", progress=None, reason=failure.message, failure=failure, attempt=2, finished=START
    )
    watched.next_states = lambda: [
        state_of(0, status="Pending", started=None, stage=None, progress=None, reason="it is next"),
        failed,
        state_of(2, stage="stage", progress=Progress(250, 1000, "bytes")),
    ]
    monitor = made()
    until(lambda: monitor.shown == ["p-002", "p-001", "p-000"])
    text = shown(monitor)
    assert 'value="0.250" aria-label="stage of p-002"' in text
    assert "250 B of 1.0 kB" in text
    assert "it is next" in text
    assert "no space is &lt;left&gt;" in text
    assert "attempt 2" in text
    button(monitor, "p-001").click()
    assert monitor.selected == "p-001"
    for view in (monitor, JobView(failed)):
        assert "/full/disk" in shown(view)
        assert "make space" in shown(view)
    assert button(monitor, "Cancel").disabled
    assert not button(monitor, "Run again").disabled
    assert button(monitor, "View result").disabled
    assert "1 Pending, 1 Running, 1 Failed" in repr(monitor)
    assert "no space is <left>" in monitor._repr_mimebundle_()["text/plain"]


def test_pages_and_kinds(watched: Watched, made: Callable[..., Monitor]) -> None:
    watched.next_states = lambda: [
        state_of(number, status="Failed" if number < 3 else "Running") for number in range(ROWS + 5)
    ]
    monitor = made()
    until(lambda: len(monitor.shown) == ROWS and monitor.shown[0] == f"p-{ROWS + 4:03}")
    button(monitor, "Older jobs").click()
    assert monitor.shown == [f"p-{number:03}" for number in (4, 3, 2, 1, 0)]
    field(monitor, "Show").value = "those that failed"
    assert monitor.shown == ["p-002", "p-001", "p-000"]


def test_it_comes_back_when_the_backend_does(watched: Watched, made: Callable[..., Monitor]) -> None:
    watched.error = gz.InvalidRequest("the cluster is away", remedy="wait")
    monitor = made()
    until(lambda: "the cluster is away; wait" in shown(monitor))
    watched.next_states = lambda: [state_of(0)]
    watched.error = None
    until(lambda: "1 Running" in shown(monitor))


def test_it_comes_back_without_any_job_too(watched: Watched, made: Callable[..., Monitor]) -> None:
    watched.error = gz.InvalidRequest("the cluster is away", remedy="wait")
    monitor = made()
    until(lambda: "the cluster is away" in shown(monitor))
    watched.error = None
    until(lambda: "no jobs yet" in shown(monitor))


def test_a_defect_in_one_monitor_leaves_the_others_alone(
    watched: Watched, made: Callable[..., Monitor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done = 0

    def next_states() -> list[JobState]:
        nonlocal done
        done += 1
        return [state_of(0, progress=Progress(done, None, "chunks"))]

    watched.next_states = next_states
    broken, other = made(), made()
    until(lambda: "1 Running" in shown(broken) and "1 Running" in shown(other))

    def paint(*_: Any) -> None:
        raise KeyError("p-000")

    monkeypatch.setattr(broken, "_paint_rows", paint)
    until(lambda: "defect of geozarr-nb (KeyError)" in shown(broken))
    assert "please report it" in shown(broken)
    assert "gz.ui() begins anew" in shown(broken)
    before = shown(other)
    until(lambda: shown(other) != before)
    assert "defect" not in shown(other)
    assert caplog.text.count("Traceback") == 1, "it is not asked again at every beat"


def test_one_watch_serves_a_backend_by_name_and_by_setting(watched: Watched, made: Callable[..., Monitor]) -> None:
    watched.next_states = lambda: [state_of(0)]
    by_setting, by_name = made(), made("local")
    until(lambda: len(by_setting.states) == len(by_name.states) == 1)
    assert watched.watchers == 1


def test_a_watch_that_ends_with_a_defect_is_taken_up_again(
    watched: Watched, made: Callable[..., Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def next_states() -> list[JobState]:
        raise KeyError("p-000")

    watched.next_states = next_states
    monitor = made()
    until(lambda: "cannot be seen now: this is a defect" in shown(monitor))
    watched.next_states = lambda: [state_of(0)]
    until(lambda: "1 Running" in shown(monitor))


def test_a_job_that_is_deleted_disappears(watched: Watched, made: Callable[..., Monitor]) -> None:
    given = [state_of(0), state_of(1)]
    watched.next_states = lambda: given
    monitor = made()
    view = JobView(state_of(0))
    view.follow()
    until(lambda: monitor.shown == ["p-001", "p-000"])
    monitor.selected = "p-000"
    given = [state_of(0, is_gone=True), state_of(1)]
    until(lambda: monitor.shown == ["p-001"])
    assert set(monitor.states) == {"p-001"}
    assert monitor.selected == ""
    until(lambda: "p-000 was deleted" in shown(monitor))
    until(lambda: "it was deleted" in shown(view))
    assert set(made().states) <= {"p-001"}, "whoever comes later is not told of it"


def test_what_was_deleted_while_nothing_could_be_seen_disappears(
    watched: Watched, made: Callable[..., Monitor]
) -> None:
    def fail() -> list[JobState]:
        raise gz.InvalidRequest("the cluster is away", remedy="wait")

    watched.next_states = lambda: [state_of(0)]
    monitor = made()
    until(lambda: monitor.shown == ["p-000"])
    watched.next_states = fail
    until(lambda: "the cluster is away" in shown(monitor))
    watched.next_states = list
    until(lambda: "no jobs yet" in shown(monitor))


def test_a_job_shows_itself_until_it_has_finished(watched: Watched) -> None:
    given = state_of(0, progress=Progress(1, 4, "chunks"))
    watched.next_states = lambda: [given, state_of(1)]
    view = JobView(state_of(0, status="Pending", stage=None, progress=None, started=None, reason="it is next"))
    assert "it is next" in shown(view)
    view.follow()
    until(lambda: 'value="0.250"' in shown(view))
    given = replace(given, status="Succeeded", progress=None, finished=datetime.now(UTC))
    until(lambda: "Succeeded" in shown(view))
    until(lambda: watched.watchers == 0)
    assert view._repr_mimebundle_()["text/plain"].startswith("Job: p-000: Succeeded")


def test_a_refused_action_is_told(
    watched: Watched, made: Callable[..., Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_job(name: str, backend: str | None = None) -> gz.Job:
        raise gz.JobNotFound("it is gone", given=name)

    monkeypatch.setattr(jobs, "get_job", get_job)
    watched.next_states = lambda: [state_of(0)]
    monitor = made()
    until(lambda: len(monitor.shown) == 1)
    monitor.selected = "p-000"
    button(monitor, "Cancel").click()
    assert monitor.wait(SECONDS)
    assert "it is gone (p-000)" in shown(monitor)
    until(lambda: any("the log cannot be read" in line for line in monitor.log))


def test_a_double_click_runs_a_job_again_once(
    watched: Watched, made: Callable[..., Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    may_answer = threading.Event()

    def retry(job: Any) -> None:
        asked.append("retry")
        assert may_answer.wait(SECONDS)

    monkeypatch.setattr(gz.Job, "retry", retry)
    monkeypatch.setattr(jobs, "get_job", lambda name, backend=None: gz.Job.__new__(gz.Job))
    watched.next_states = lambda: [state_of(0, status="Failed", finished=START)]
    monitor = made()
    until(lambda: len(monitor.shown) == 1)
    monitor.selected = "p-000"
    again = button(monitor, "Run again")
    again.click()
    again.click()
    may_answer.set()
    assert monitor.wait(SECONDS)
    assert asked == ["retry"]
    assert "p-000 was started again" in shown(monitor)
    again.click()
    assert monitor.wait(SECONDS)
    assert asked == ["retry", "retry"]


def test_closing_ends_every_thread(watched: Watched) -> None:
    monitor = Monitor()
    until(lambda: watched.watchers == 1)
    monitor.close()
    until(lambda: not [each for each in threading.enumerate() if each.name.startswith("geozarr-feed")])


def test_a_later_monitor_sees_what_is_known(watched: Watched, made: Callable[..., Monitor]) -> None:
    given = [state_of(0)]
    watched.next_states = lambda: given
    first = made()
    until(lambda: len(first.states) == 1)
    given = []
    second = made()
    until(lambda: len(second.states) == 1)
    assert replace(second.states["p-000"]) == first.states["p-000"]
