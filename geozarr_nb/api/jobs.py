"""The public calls that find jobs: `list_jobs`, `get_job`, `watch_jobs`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from geozarr_nb.backends import open_backend
from geozarr_nb.jobs.job import Job
from geozarr_nb.jobs.jobset import JobSet
from geozarr_nb.settings import Settings

if TYPE_CHECKING:
    from geozarr_nb.backends.base import JobState


def list_jobs(backend: str | None = None) -> JobSet:
    """Return all jobs of a backend, the oldest first: those of other processes and of earlier days too.

    Parameters
    ----------
    backend
        As for `submit`.
    """
    settings = Settings.load()
    place = open_backend(backend or settings.backend, settings)
    return JobSet(place, [Job(place, state.name) for state in place.list()])


def get_job(name: str, backend: str | None = None) -> Job:
    """Return the job of a name, whether it waits, runs or has finished, and whoever submitted it.

    Raises
    ------
    JobNotFound
        The backend has no job of this name.
    """
    settings = Settings.load()
    place = open_backend(backend or settings.backend, settings)
    return Job(place, place.get(name).name)


def watch_jobs(stop: threading.Event, backend: str | None = None) -> Iterator[JobState]:
    """Yield the state of every job of a backend, and again each time it changes, until `stop` is set.

    One connection watches all jobs, whoever submitted them. When a job is deleted, its last state comes once more, with
    `is_gone`.

    Parameters
    ----------
    stop
        Ends the iterator, from another thread, when it is set.
    backend
        As for `submit`.

    Examples
    --------
    >>> for state in gz.watch_jobs(threading.Event()):
    ...     print(state.name, state.status, state.stage, state.progress)
    """
    settings = Settings.load()
    return open_backend(backend or settings.backend, settings).watch(stop)
