"""In place of a backend's watch, for a kernel: many jobs that go on all the time, and take nothing to run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

from geozarr_nb.api import jobs as calls
from geozarr_nb.backends.base import JobState, Progress
from geozarr_runner.spec.request import Request

SECONDS_BETWEEN_CHANGES = 0.05
CHUNKS = 5_000


def watch(jobs: int) -> Callable[..., Iterator[JobState]]:
    """Return a watch of so many running jobs, every one of which has got on twenty times a second."""
    begun = datetime.now(UTC)

    def state(number: int, done: int) -> JobState:
        request = Request(source="p.zarr", shown="p.zarr", product="p", output=f"out{number}.zarr", identity="0" * 64)
        progress = Progress(min(done + CHUNKS * number // (2 * jobs), CHUNKS), CHUNKS, "chunks")
        submitted = begun + timedelta(seconds=number)
        name = f"p-{number:03}"
        return JobState(name, "local", request, "Running", submitted, stage="convert", progress=progress, started=begun)

    def watch_jobs(stop: threading.Event, backend: str | None = None) -> Iterator[JobState]:
        for done in count():
            yield from (state(number, done) for number in range(jobs))
            if stop.wait(SECONDS_BETWEEN_CHANGES):
                return

    return watch_jobs


def begin(jobs: int) -> None:
    """Have monitors of this kernel see so many jobs."""
    calls.watch_jobs = watch(jobs)
