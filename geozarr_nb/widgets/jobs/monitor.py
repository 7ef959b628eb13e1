"""Jobs as they go: a row each, and for one of them its log and what can be done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
import traitlets

from geozarr_nb.api import jobs
from geozarr_nb.backends.base import JobState
from geozarr_nb.errors import GeozarrError
from geozarr_nb.jobs.job import Job
from geozarr_nb.jobs.state_text import describe_state
from geozarr_nb.settings import Settings
from geozarr_nb.widgets.blocks.background import SEEN, Worker, sentence
from geozarr_nb.widgets.blocks.pages import Pages
from geozarr_nb.widgets.blocks.panel import BORDER, MONOSPACE, Panel, button, change, code, facts, flow, lines, status
from geozarr_nb.widgets.jobs.job_watcher import JobWatcher, Subscriber, Tail
from geozarr_nb.widgets.jobs.row import SIGNS, Pace, advice, row
from geozarr_nb.widgets.request.form_fields import menu
from geozarr_nb.widgets.viewer import Viewer
from geozarr_runner.text.html import escape

ROWS = 15
ROWS_A_BEAT = 10  # with four beats a second: what bounds the messages, however many jobs run
LINES_OF_TEXT = 20
SELECTED = "3px solid var(--jp-brand-color1, currentColor)"
SHOWN = {
    "all jobs": ("Pending", "Running", "Succeeded", "Failed", "Error"),
    "those that have not finished": ("Pending", "Running"),
    "those that succeeded": ("Succeeded",),
    "those that failed": ("Failed", "Error"),
}


class Monitor(Panel):
    """Show the jobs of a backend: those of this process, of others, and of those before it.

    It is brought up to date from a thread, while a cell runs and while none does; `close()` ends that.

    Parameters
    ----------
    backend
        As for `geozarr_nb.submit`.
    viewer
        Where results are shown; None shows them below the job.
    rows
        Jobs that are shown at once, the newest first; the rest is on further pages.

    Attributes
    ----------
    selected
        Name of the job whose log is shown, and that `cancel`, `retry` and `view` mean; may be set.
    viewed
        Name of the job whose result was asked for last.
    message
        What became of the last thing that was asked for.
    """

    backend = traitlets.Unicode(None, allow_none=True)
    selected = traitlets.Unicode("")
    viewed = traitlets.Unicode("")
    message = traitlets.Unicode("")

    def __init__(self, backend: str | None = None, *, viewer: Viewer | None = None, rows: int = ROWS) -> None:
        self._worker, self._tail = Worker("job"), Tail()
        self._states: dict[str, JobState] = {}
        self._paces: dict[str, Pace] = {}
        self._acting: set[str] = set()
        self._trouble, self._spelled = "", ""
        self._watching: object = None
        self._turn = 0
        self._said = -1
        self._leave: Callable[[], None] = lambda: None
        self._viewer, self._is_own = viewer, viewer is None
        self._summary = ipywidgets.HTML()
        self._shown = menu("Show", SHOWN, "Which jobs are shown")
        self._rows = [_JobRow(self) for _ in range(rows)]
        self._list = ipywidgets.VBox(layout=ipywidgets.Layout(width="100%"))
        self._pages = Pages(rows, "jobs", "Newer jobs", "Older jobs", self._paint)
        self._facts, self._log, self._message = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self._cancel = button("Cancel", "Ends the selected job, and removes what is half-written")
        self._retry = button("Run again", "Runs the selected job again, under the same name")
        self._view = button("View result", "Shows the selected job's result as a picture")
        self._actions = flow(self._cancel, self._retry, self._view)
        self._detail = ipywidgets.VBox(layout=ipywidgets.Layout(width="100%"))
        self._which = flow(self._shown, *self._pages.parts)
        parts = (self._summary, self._which, self._list, self._message, self._detail)
        super().__init__("Jobs", parts, backend=backend)
        self._connect()
        self._watch(None)

    def _connect(self) -> None:
        self._shown.observe(lambda _: setattr(self, "page", 0), "value")
        self._cancel.on_click(lambda _: self.cancel())
        self._retry.on_click(lambda _: self.retry())
        self._view.on_click(lambda _: self.view())
        self.observe(self._watch, "backend")
        self.observe(self._select, "selected")
        self.observe(lambda _: self._paint(), "message")

    @property
    def states(self) -> Mapping[str, JobState]:
        """The state of every job that is known, by its name."""
        with SEEN:
            return dict(self._states)

    @property
    def shown(self) -> list[str]:
        """Names of the jobs in the rows that are shown, the newest first."""
        return [row.name for row in self._rows if row.view in self._list.children]

    @property
    def page(self) -> int:
        """Number of the page that is shown, from 0; may be set."""
        return self._pages.number

    @page.setter
    def page(self, number: int) -> None:
        self._pages.number = number
        self._paint()

    @property
    def log(self) -> list[str]:
        """The last lines of the selected job's log."""
        return self._tail.lines

    def cancel(self) -> None:
        """End the selected job, in the background."""
        self._act("cancelling", "was cancelled", Job.cancel)

    def retry(self) -> None:
        """Run the selected job again, in the background."""
        self._act("starting again", "was started again", Job.retry)

    def view(self) -> None:
        """Show the result of the selected job."""
        if not self.selected:
            return
        if self._viewer is None:
            self._viewer = Viewer()
        self.viewed = self.selected
        self._viewer.show_job(self.selected, self.backend)
        self._paint_selected()

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether all that was asked for was done within so many seconds."""
        return self._worker.wait(timeout)

    def close(self) -> None:
        """Take the widget away, and end what brings it up to date; the jobs go on."""
        self._leave()
        self._watching = None
        self._tail.stop()
        super().close()

    @property
    def text(self) -> str:
        """What is shown, as lines of text."""
        states = [state for state in self._newest_first() if state.status in SHOWN[self._shown.value]]
        rows = [f"  {row}" for state in states[:LINES_OF_TEXT] for row in describe_state(state).splitlines()]
        more = [f"  and {len(states) - LINES_OF_TEXT} more"] if len(states) > LINES_OF_TEXT else []
        return "\n".join([self._counts(), *rows, *more])

    # What comes

    def _watch(self, _: Any) -> None:
        default = Settings.load().backend
        self._spelled = "" if self.backend in (None, default) else f', backend="{self.backend}"'
        watching = object()

        def take(changed: Mapping[str, JobState], trouble: str) -> None:
            with SEEN:
                if self._watching is watching:  # a last beat of what was watched before may still come
                    self._take(changed, trouble)

        def fail(error: GeozarrError) -> None:
            with SEEN:
                self._trouble = f"the jobs are not brought up to date any more: {sentence(error)}; gz.ui() begins anew"
                change(self._summary, value=status(lines([self._trouble], "Problem")))

        with SEEN:
            self._leave()
            self._states, self._paces, self._trouble = {}, {}, ""
            self._watching = watching
            self.selected = ""
            self._leave = JobWatcher.subscribe(self.backend, Subscriber(take, fail))
            self._paint()

    def _take(self, changed: Mapping[str, JobState], trouble: str) -> None:
        """Take in what changed since the last beat; called in a thread, a few times a second."""
        now = time.monotonic()
        with SEEN:
            before = self._states.get(self.selected)
            for name, state in changed.items():
                if state.is_gone:
                    self._forget(name)
                    continue
                self._states[name] = state
                self._paces.setdefault(name, Pace()).take(state, now)
            self._trouble = trouble
            after = self._states.get(self.selected)
            if before is not None and after is not None and before.attempt != after.attempt:
                self._tail.follow(self.selected, self.backend)
            self._paint(ROWS_A_BEAT)

    def _forget(self, name: str) -> None:
        self._states.pop(name, None)
        self._paces.pop(name, None)
        if name == self.selected:
            self.selected = ""
            self.message = f"{name} was deleted: its backend does not know it any more"

    def _act(self, verb: str, done_text: str, work: Callable[[Job], Any]) -> None:
        name, backend = self.selected, self.backend
        if not name or name in self._acting:  # a second click asks for nothing else
            return
        self._acting.add(name)

        def done(answer: Any) -> None:
            self._acting.discard(name)
            failed = isinstance(answer, GeozarrError)
            self.message = f"{name}: {sentence(answer)}" if failed else f"{name} {done_text}"

        self.message = f"{name}: {verb} ..."
        self._worker.start(lambda: work(jobs.get_job(name, backend)), done)

    # What is shown

    def _select(self, _: Any) -> None:
        if self.selected:
            self._tail.follow(self.selected, self.backend)
        else:
            self._tail.stop()
        self._paint()

    def _newest_first(self) -> list[JobState]:
        with SEEN:
            return sorted(self._states.values(), key=lambda state: (state.submitted, state.name), reverse=True)

    def _counts(self) -> str:
        if self._trouble:
            return self._trouble
        counts = Counter[str](state.status for state in self._newest_first())
        return ", ".join(f"{counts[name]} {name}" for name in SIGNS if counts[name]) or "no jobs yet"

    def _paint(self, most: int | None = None) -> None:
        """Bring what is seen up to date; of the rows at most so many, the others at the next beats."""
        with SEEN:
            states = [state for state in self._newest_first() if state.status in SHOWN[self._shown.value]]
            seen = self._pages.of(states, "none at the moment")
            self._paint_rows(seen, len(self._rows) if most is None else most)
            change(self._list, children=tuple(row.view for row in self._rows[: len(seen)]))
            change(self._summary, value=status(lines([self._counts()])))
            change(self._which.layout, display=None if self._states else "none")
            change(self._message, value=status(lines([self.message] if self.message else [])))
            self._paint_selected()

    def _paint_rows(self, seen: Sequence[JobState], most: int) -> None:
        """Paint the rows in turn, so that each has its turn however few can be painted at once."""
        if not seen:
            return
        now, left = time.monotonic(), most
        start = self._turn % len(seen)
        for number in [*range(start, len(seen)), *range(start)]:
            state = seen[number]
            is_selected = state.name == self.selected
            left -= self._rows[number].paint(state, self._paces[state.name].text(now), is_selected=is_selected)
            self._turn = number + 1
            if left <= 0:
                return

    def _paint_selected(self) -> None:
        state = self._states.get(self.selected)
        if state is None:
            change(self._detail, children=())
            return
        values = {
            "Job": state.name,
            "Product": state.request.shown,
            "Groups": ", ".join(state.request.groups) or "the whole product",
            "Output": state.request.output,
            "Reason": state.reason,
            **advice(state),
        }
        opened = f'import geozarr_nb as gz\ntree = gz.get_job("{state.name}"{self._spelled}).open()'
        is_there = state.status == "Succeeded"
        change(
            self._facts, value=facts(values) + (code(opened, "Python code that opens the result") if is_there else "")
        )
        change(self._cancel, disabled=state.is_finished)
        change(self._retry, disabled=state.status not in ("Failed", "Error"))
        change(self._view, disabled=not is_there)
        if self._tail.count != self._said:
            self._said = self._tail.count
            change(self._log, value=_log(state.name, self._tail.lines))
        parts: list[Any] = [self._facts, self._actions, self._log]
        # A viewer of one's own stands where its owner put it.
        if self._viewer is not None and self._is_own and self.viewed == self.selected:
            parts.append(self._viewer)
        change(self._detail, children=tuple(parts))


class _JobRow:
    """A row; it shows one job after the other, as newer ones come and pages are turned."""

    def __init__(self, monitor: Monitor) -> None:
        self.name = ""
        self._choose = button("", "")
        self._choose.layout.min_width = "15em"  # most names fit: what is said of jobs stands below each other
        self._content = ipywidgets.HTML(layout=ipywidgets.Layout(flex="1 1 20em"))
        self.view = flow(self._choose, self._content)
        self._choose.on_click(lambda _: setattr(monitor, "selected", self.name))

    def paint(self, state: JobState, pace: str, *, is_selected: bool) -> int:
        """Show a state; returns how many messages that took."""
        self.name = state.name
        shows = "The log below is that" if is_selected else "Shows the log"
        tooltip = f"{shows} of {state.name}, and what can be done with it"
        return (
            change(self._choose, description=state.name, tooltip=tooltip)
            + change(self._choose.layout, border_bottom=SELECTED if is_selected else None)
            + change(self._content, value=row(state, pace))
        )


def _log(name: str, texts: list[str]) -> str:
    """Return lines as HTML that stays at its end as lines come."""
    # A column in reverse begins at its end, and stays there.
    frame = "display:flex;flex-direction:column-reverse;overflow:auto;max-height:16em"
    own = "flex:none;overflow:visible"  # front ends let it shrink, and scroll by itself from its top
    label = escape(f"Log of {name}")
    text = escape("\n".join(texts)) or "nothing in the log yet"
    return (
        f'<div role="log" tabindex="0" aria-label="{label}" style="{frame};border:{BORDER}">'
        f'<pre style="{MONOSPACE};margin:4px 8px;white-space:pre-wrap;overflow-wrap:anywhere;{own}">{text}</pre></div>'
    )
