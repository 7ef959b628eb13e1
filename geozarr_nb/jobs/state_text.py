"""The state of a job in a few words, and as a table."""

from __future__ import annotations

from geozarr_nb.backends.base import JobState
from geozarr_runner.events import amount
from geozarr_runner.text import html
from geozarr_runner.text.printable import printable


def describe_state(state: JobState) -> str:
    """Return a job's name, state, output and reason in one or two lines."""
    text = printable(f"{state.name}: {status_line(state)} -> {state.request.output}")
    return f"{text}\n  {printable(state.reason)}" if state.reason else text


def status_line(state: JobState) -> str:
    """Return status, stage, progress and elapsed time in a few words, and as a table."""
    parts: list[str] = [state.status]
    if state.status == "Running" and state.stage:
        parts.append(state.stage)
        if state.progress:
            parts.append(amount(*state.progress))
    if state.started:
        parts.append(f"{state.elapsed:.0f} s")
    if state.attempt > 1:
        parts.append(f"attempt {state.attempt}")
    return ", ".join(parts)


def state_html(state: JobState) -> str:
    """Return a job's state as a notebook shows it."""
    values = {
        "input": state.request.shown,
        "groups": ", ".join(state.request.groups) or "the whole product",
        "output": state.request.output,
        "reason": state.reason,
        "remedy": state.failure.remedy if state.failure else "",
        "log": state.log if state.failure else "",
    }
    return html.block(f"{state.name}: {status_line(state)}", html.facts(values))
