"""What the files of jobs say: the request, the ticket, the events and the end of an attempt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geozarr_nb.backends.local.state_file import parse_time, read_json, understood
from geozarr_nb.backends.local.state_folder import JobFolder, StateFolder, Ticket
from geozarr_nb.backends.run_state import RunState, read_events
from geozarr_nb.errors import JobNotFound
from geozarr_nb.request import Request

Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Submission:
    """The stored request and ticket of an attempt."""

    stamp: Stamp
    ticket: Ticket
    request: Request


class StoredAttempts:
    """Reads the latest attempts of jobs; what it has read is kept, so that frequent looks at many jobs cost little.

    Parameters
    ----------
    folders
        The state folder.
    """

    def __init__(self, folders: StateFolder) -> None:
        self._folders = folders
        # A new attempt has a new stamp.
        self._submissions: dict[str, Submission] = {}
        self._digests: dict[str, tuple[Stamp, int, RunState]] = {}

    def submission(self, name: str) -> Submission:
        """Return request and ticket of a job.

        Raises
        ------
        StateUnusable, LaterVersion, JobNotFound
            They cannot be understood, or are gone.
        """
        job = self._folders.job(name)
        stamp = stamp_of(job)
        known = self._submissions.get(name)
        if known is None or known.stamp != stamp:
            job.check()
            ticket, request = _needed(job.read_ticket(), job.ticket), _needed(read_json(job.request), job.request)
            with understood(job.request):
                known = Submission(stamp, ticket, Request.from_json(request))
            self._submissions[name] = known
        return known

    def run_state(self, job: JobFolder, stamp: Stamp) -> RunState:
        """Return what the run of an attempt has said so far."""
        known, offset, digest = self._digests.get(job.name, (stamp, 0, RunState()))
        if known != stamp:
            offset, digest = 0, RunState()
        events, offset = read_events(job.events, offset)
        digest.feed(events)
        self._digests[job.name] = (stamp, offset, digest)
        return digest

    def forget_run(self, name: str) -> None:
        """Keep no events of a job that has ended."""
        self._digests.pop(name, None)


def stamp_of(job: JobFolder) -> Stamp:
    """Return a stamp that differs between the tickets of two attempts."""
    found = looked_at(job)
    return found.st_ino, found.st_mtime_ns


def looked_at(job: JobFolder, *, follow: bool = True) -> os.stat_result:
    """Return what the system says of a job's ticket.

    Raises
    ------
    JobNotFound
        There is none any more.
    """
    try:
        return job.ticket.stat(follow_symlinks=follow)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise JobNotFound(
            "the job's folder was removed meanwhile", given=job.name, remedy="geozarr_nb.list_jobs() shows all jobs"
        ) from error
    except PermissionError:
        job.check()
        raise


def exit_of(job: JobFolder) -> dict[str, Any] | None:
    """Return how and when a job ended; None if it has not."""
    document = read_json(job.exit)
    return None if document is None else exit_in(document, job.exit)


def exit_in(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return how and when a job ended, as the document of a file says it."""
    with understood(path):
        code = document["code"]
        words = [str(word) for word in document.get("last_words", ())]
        return {
            **document,
            "code": None if code is None else int(code),
            "finished": parse_time(document["finished"]),
            "last_words": words,
            "problem": str(document.get("problem") or ""),
        }


def _needed[T](found: T | None, path: Path) -> T:
    if found is None:
        raise JobNotFound(
            "the job's folder is incomplete", given=str(path), remedy="remove the folder, and submit again"
        )
    return found
