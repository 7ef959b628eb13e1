"""Live progress of a job: in a terminal, in a notebook without widgets, or as plain lines.

A `Board` turns states and events into texts, and a display shows them. Everything that is shown was measured: a rate
needs two readings, and no end is guessed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

from geozarr_nb.backends.base import JobState, Progress
from geozarr_nb.jobs.job import Job
from geozarr_nb.jobs.rate import Rate
from geozarr_nb.jobs.state_text import describe_state
from geozarr_runner.events import Event, amount, describe, human_bytes
from geozarr_runner.text.html import Views, escape
from geozarr_runner.text.printable import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

SECONDS_OF_RATE = 5.0
SHORTEST_EVIDENCE = 1.0
SECONDS_BETWEEN_DRAWS = 0.25


@dataclass
class StageRow:
    """One stage of the run: its progress, and how long it took."""

    name: str
    progress: Progress | None = None
    rate: float | None = None
    seconds: float | None = None

    @property
    def text(self) -> str:
        """Progress, rate and duration in a few words."""
        return ", ".join(filter(None, [self.measured, "" if self.seconds is None else f"{self.seconds:.1f} s"]))

    @property
    def measured(self) -> str:
        """Progress and rate, without the duration."""
        parts = [amount(*self.progress)] if self.progress else []
        if self.rate is not None:
            parts.append(f"{human_bytes(self.rate)}/s")
        return ", ".join(parts)

    @property
    def share(self) -> float | None:
        """Share that is done, from 0 to 1; None if unknown."""
        if self.progress is None or not self.progress.total:
            return 1.0 if self.seconds is not None else None
        return min(self.progress.done / self.progress.total, 1.0)


class Board:
    """The texts about a job, made from its states and events."""

    def __init__(self, state: JobState) -> None:
        self.state = state
        # The events of a job that had finished before are not shown as if it ran now.
        self._ended_before = state.is_finished
        self._begin()

    def _begin(self) -> None:
        self.stages: list[StageRow] = []
        self.notes: list[str] = []
        self._waits_for = ""
        self._looks = 0
        self._rate = Rate(SECONDS_OF_RATE, SHORTEST_EVIDENCE)

    def update(self, state: JobState, events: Sequence[Event]) -> list[str]:
        """Add a state and new events; return the new lines, for displays that can only add lines."""
        if state.attempt != self.state.attempt:
            self._begin()
        self.state = state
        self._looks += 1
        lines = []
        # At the first look every job is Pending, even if it starts at once.
        if state.status == "Pending" and self._looks > 1 and state.reason != self._waits_for:
            self._waits_for = state.reason
            lines.append(printable(state.reason))
        if self._ended_before:
            if self._looks == 1:
                lines += self._note("it had finished before: nothing ran now")
            return lines
        for event in events:
            lines += self._take(event)
        return lines

    def _take(self, event: Event) -> list[str]:
        match event.type:
            case "stage" if event.get("state") == "started":
                self.stages.append(StageRow(printable(str(event["stage"]))))
                self._rate.begin()
            case "stage" if self.stages:
                row = self.stages[-1]
                row.seconds, row.rate = event.get("seconds"), None
                return [f"{row.name}: {row.text}"]
            case "progress" if self.stages:
                row = self.stages[-1]
                row.progress = Progress(event["done"], event.get("total"), printable(str(event.get("unit", ""))))
                row.rate = self._rate_of(event.time, row.progress)
            case "warning":
                return self._note(describe(event))
            case "result" if event.get("skipped"):
                return self._note(describe(event))
        return []

    def _note(self, text: str) -> list[str]:
        self.notes.append(text)
        return [text]

    def _rate_of(self, moment: datetime, progress: Progress) -> float | None:
        """Return bytes per second over the last readings; None for another unit or too few readings."""
        if progress.unit != "bytes":
            return None
        self._rate.take(moment.timestamp(), progress.done)
        return self._rate.value

    @property
    def verdict(self) -> str:
        """State and reason of the job in one or two lines."""
        return describe_state(self.state)

    @property
    def text(self) -> str:
        """The whole board as text."""
        rows = [f"  {row.name:<10}{row.text}" for row in self.stages]
        notes = [f"  {note}" for note in self.notes]
        return "\n".join([self.verdict, *rows, *notes, *self._moment()])

    @property
    def html(self) -> str:
        """The whole board as HTML, without scripts."""
        rows = "".join(
            f"<tr><td>{escape(row.name)}</td><td>{_bar(row)}</td><td>{escape(row.text)}</td></tr>"
            for row in self.stages
        )
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        moment = "".join(f"<div><small>{escape(line)}</small></div>" for line in self._moment())
        verdict = escape(self.verdict).replace("\n", "<br>")
        return f"<div><div>{verdict}</div><table>{rows}</table>{notes}{moment}</div>"

    def _moment(self) -> list[str]:
        """Return the time of this board, since a stored notebook shows it without updates."""
        if self.state.is_finished:
            return []
        now = datetime.now().astimezone().strftime("%H:%M:%S")
        return [f'as of {now}; the job goes on without this cell: geozarr_nb.get_job("{printable(self.state.name)}")']


def _bar(row: StageRow) -> str:
    if row.share is None:
        return ""
    return f'<progress value="{row.share:.3f}" max="1" style="width:12em"></progress>'


class Display(Protocol):
    """A screen for a board; its block lasts until the job has ended or the wait was interrupted."""

    def __enter__(self) -> Self:
        """Begin to show the job."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End with a text that stays true."""

    def draw(self, board: Board, lines: list[str]) -> None:
        """Show a board; `lines` are the new lines since the last call."""


class LineDisplay:
    """Prints one line for each event: for a log, a pipe, a CI job."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()

    def draw(self, board: Board, lines: list[str]) -> None:
        """Print the new lines."""
        if board.state.is_finished and not self._over:
            self._over = True
            lines = [*lines, board.verdict]
        for line in lines:
            self._stream.write(f"{line}\n")
        self._stream.flush()


class TerminalDisplay:
    """Shows a bar for each stage, below the lines that stay."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._console = Console(file=stream, highlight=False)
        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description:<10}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._tasks: list[TaskID] = []
        self._verdict = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        if self._verdict:
            self._console.print(self._verdict, markup=False, soft_wrap=True)

    def draw(self, board: Board, lines: list[str]) -> None:
        """Update the bars, and print the new lines above them."""
        said_by_bars = {f"{row.name}: {row.text}" for row in board.stages}
        for line in lines:
            if line not in said_by_bars:
                self._console.print(line, markup=False, soft_wrap=True)
        for number, row in enumerate(board.stages):
            if number == len(self._tasks):
                self._tasks.append(self._bars.add_task(row.name, total=None, text=""))
            over = row.seconds is not None
            total = None if row.share is None else 1.0
            done = 1.0 if over else row.share or 0.0
            self._bars.update(self._tasks[number], completed=done, total=total, text=row.measured)
            if over:
                self._bars.stop_task(self._tasks[number])
        if board.state.is_finished:
            for task in self._tasks:
                self._bars.stop_task(task)
            self._verdict = board.verdict


class NotebookDisplay:
    """Shows one output of a cell: a row of widgets while the job runs, if there are widgets, else HTML.

    At the end the output is HTML without widgets, so that it stays readable in a stored notebook.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._board: Board | None = None
        self._view: Any = None
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._board is not None:
            self._show(self._board, {})
        if self._view is not None:
            self._view.close()

    def draw(self, board: Board, lines: list[str]) -> None:
        """Update the output, at most a few times per second."""
        if self._board is None:
            self._view = Views.make(board.state)
            self._show(board, {} if self._view is None else self._view._repr_mimebundle_())
        elif time.monotonic() - self._drawn >= SECONDS_BETWEEN_DRAWS:
            self._drawn = time.monotonic()
            if self._view is None:
                self._show(board, {})
            else:
                self._view.state, self._view.notes = board.state, tuple(board.notes)
        self._board = board

    def _show(self, board: Board, view: dict[str, Any]) -> None:
        from IPython.display import display

        content = {**view, "text/html": board.html, "text/plain": board.text}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(content, raw=True)


def choose(stream: TextIO | None = None) -> Display:
    """Return the display for this process: of a notebook, of a terminal, or plain lines."""
    stream = stream or sys.stderr
    if in_notebook():
        return NotebookDisplay()
    return TerminalDisplay(stream) if stream.isatty() else LineDisplay(stream)


def show(job: Job, poll_interval: float | None = None, display: Display | None = None) -> None:
    """Show a job until it has finished, with or without success; an interrupt leaves the job running."""
    board = Board(job.state)
    with ExitStack() as stack:
        stack.enter_context(job.attended())
        screen = stack.enter_context(display or choose())
        for state, events in job.steps(poll_interval=poll_interval):
            screen.draw(board, board.update(state, events))


def in_notebook() -> bool:
    """Return whether this process is a kernel, whose front end can show HTML."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
