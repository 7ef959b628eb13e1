"""The events of a job as they come, until the job ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from geozarr_nb.backends.base import Backend, Cursor, JobState
from geozarr_runner.events import Event


def followed(backend: Backend, name: str, stop: threading.Event, *, log: bool) -> Iterator[Event]:
    """Yield the events of a job, with the converter's own lines if `log` is true, until it ends or `stop` is set."""
    read = backend.log if log else backend.events
    cursor: Cursor | None = None
    while not stop.is_set():
        state = backend.get(name)  # read before the events, so that no event of a finished job is missed
        is_first = cursor is None or cursor.offset == 0
        events, cursor = read(name, cursor)
        yield from introduced(state, events) if is_first else events
        if state.is_finished or state.attempt != cursor.attempt:
            return
        stop.wait(backend.poll_interval)


def introduced(state: JobState, events: Sequence[Event]) -> list[Event]:
    """Put an event about the settings, which only the submitter knows, in front of the events of a run."""
    if not events or not state.request.origins:
        return list(events)
    told = Event("message", state.submitted, {"text": f"settings: {state.request.origins}"})
    return [told, *events]
