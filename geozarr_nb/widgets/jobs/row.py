"""One job in a row: how far it is and how fast, with no guess and no colour to tell it by."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import ipywidgets
import traitlets

from geozarr_nb.backends.base import JobState
from geozarr_nb.errors import GeozarrError
from geozarr_nb.jobs.rate import Rate
from geozarr_nb.jobs.state_text import describe_state
from geozarr_nb.widgets.blocks.background import SEEN, sentence
from geozarr_nb.widgets.blocks.panel import FAINT, Panel, change, facts, lines
from geozarr_nb.widgets.jobs.job_watcher import JobWatcher, Subscriber
from geozarr_runner.events import amount, human_bytes
from geozarr_runner.text.html import escape

SECONDS_OF_RATE = 8.0
SHORTEST_EVIDENCE = 2.0
LONGEST_SILENCE = 10.0
SIGNS = {"Pending": "\u2026", "Running": "\u25b6", "Succeeded": "\u2713", "Failed": "\u2717", "Error": "!"}


class Pace:
    """The speed of a job's stage, from what was read of its progress in the last seconds."""

    def __init__(self) -> None:
        self._stage: tuple[int, str | None, str] | None = None
        self._rate = Rate(SECONDS_OF_RATE, SHORTEST_EVIDENCE)
        self._total: int | None = None
        self._unit = ""

    def take(self, state: JobState, now: float) -> None:
        """Take in a state as it was at a moment, in seconds of any clock that goes on."""
        progress = state.progress
        if progress is None or state.is_finished:
            self._stage = None
            self._rate.begin()
            return
        stage = (state.attempt, state.stage, progress.unit)
        if stage != self._stage:
            self._stage = stage
            self._rate.begin()
        self._total, self._unit = progress.total, progress.unit
        last = self._rate.last
        # It is looked at more often than something is read: what is the same says nothing.
        if last is None or last[1] != progress.done:
            self._rate.take(now, progress.done)

    def rate(self, now: float) -> float | None:
        """Return units a second; None with too little evidence, or when nothing has come for a while."""
        last = self._rate.last
        return None if last is None or now - last[0] > LONGEST_SILENCE else self._rate.value

    def text(self, now: float) -> str:
        """Return rate and time left in a few words; empty without evidence."""
        rate, last = self.rate(now), self._rate.last
        if rate is None or last is None:
            return ""
        shown = f"{human_bytes(rate)}/s" if self._unit == "bytes" else ""
        left = ""
        if self._total is not None and self._total > last[1]:
            left = f"{duration((self._total - last[1]) / rate)} left in this stage"
        return ", ".join(filter(None, [shown, left]))


class JobView(Panel):
    """One job in a row.

    Parameters
    ----------
    state
        What is shown first.

    Attributes
    ----------
    state
        What is shown; may be set.
    notes
        Lines below it: what the run warned of; may be set.
    """

    state = traitlets.Any()
    notes = traitlets.Tuple(())

    def __init__(self, state: JobState) -> None:
        self._pace = Pace()
        self._leave: Callable[[], None] = lambda: None
        self._row, self._below = ipywidgets.HTML(), ipywidgets.HTML()
        super().__init__("Job", (self._row, self._below), state=state)
        self.observe(self._show, ["state", "notes"])
        self._show(None)

    @property
    def text(self) -> str:
        """What is shown, as lines of text."""
        return "\n".join([describe_state(self.state), *(f"  {note}" for note in self.notes)])

    def follow(self) -> None:
        """Bring it up to date from a thread, until the job has finished."""
        name = self.state.name

        def take(changed: Mapping[str, JobState], trouble: str) -> None:
            with SEEN:
                state = changed.get(name, self.state)
                gone = ("it was deleted: its backend does not know it any more",) if state.is_gone else ()
                self.notes = (*gone, trouble) if trouble else gone
                self.state = state
                self._show(None)  # time goes on, and a rate ages, with no change of the job's state
            if state.is_finished or state.is_gone:
                self._leave()

        def fail(error: GeozarrError) -> None:
            self.notes = (f"this is not brought up to date any more: {sentence(error)}",)

        self._leave = JobWatcher.subscribe(self.state.backend, Subscriber(take, fail))

    def close(self) -> None:
        """Take the widget away; the job goes on."""
        self._leave()
        super().close()

    def _show(self, _: object) -> None:
        with SEEN:
            state, now = self.state, time.monotonic()
            self._pace.take(state, now)
            known = {"Job": state.name, "Output": state.request.output, **advice(state)}
            change(self._row, value=row(state, self._pace.text(now)) + facts(known))
            change(self._below, value=lines(self.notes, "Note"))


def row(state: JobState, pace: str) -> str:
    """Return a job as a row of HTML; what it is is said in words, and by no colour."""
    parts = [f"<strong>{SIGNS[state.status]} {state.status}</strong>"]
    progress = None if state.is_finished else state.progress
    if state.stage and not state.is_finished:
        parts.append(escape(state.stage))
    if progress is not None:
        if progress.total:
            share = min(progress.done / progress.total, 1.0)
            label = escape(f"{state.stage or 'progress'} of {state.name}")
            parts.append(f'<progress max="1" value="{share:.3f}" aria-label="{label}" style="width:8em"></progress>')
        parts.append(escape(amount(*progress)))
    if pace:
        parts.append(escape(pace))
    if state.started:
        parts.append(duration(int(state.elapsed)))
    if state.attempt > 1:
        parts.append(f"attempt {state.attempt}")
    reason = f'<div style="{FAINT};overflow-wrap:anywhere">{escape(state.reason)}</div>' if state.reason else ""
    return f'<div style="line-height:1.5">{" &middot; ".join(parts)}{reason}</div>'


def advice(state: JobState) -> dict[str, str]:
    """Return what a job that failed says beside its reason: with what, and what to do."""
    return {"Given": state.failure.given, "Remedy": state.failure.remedy} if state.failure else {}


def duration(seconds: float) -> str:
    """Return a time in the largest unit that suits: 45 s, 12 min, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
