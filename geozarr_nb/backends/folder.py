"""The local backend's memory on disk, shared by the SDK's processes and the workers. Standard library only.

::

    <state>/                    readable by its owner only
      dispatch.lock             held while a job is added, claimed, ended from outside, or a worker leaves
      slots/<n>                 held by a worker and the run it started: bounds how many run at once
      workers.log               what a worker had to say that belongs to no job
      sets/<name>.jsonl         members of a set of jobs
      jobs/<name>/
        request.json            what was asked for, without secrets
        private.json            mode 600, gone once the run has started: the full address and the environment
        ticket.json             its presence makes the job; argv, order, number of the attempt
        claim.json              a worker took it: since when, and the run's process
        lock                    held by the worker AND the run: whoever can take it knows that neither lives
        cancel.json             a person wants it to end
        exit.json               it ended
        events.jsonl log.jsonl  what the run said
        attempts/<n>/           the same files of earlier attempts

Locks are flock's: they belong to the open file, go to a child with it, and end with the last process that has it. So
no process number, which may be in use again, ever decides whether a job lives.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ADDRESS = "-"  # tells the runner to read the address from its standard input: an argv can be seen by everyone
_ATTEMPT_FILES = (
    "request.json",
    "ticket.json",
    "claim.json",
    "cancel.json",
    "exit.json",
    "events.jsonl",
    "log.jsonl",
    "errors.txt",
)


class JobFolder:
    """The files of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.request = path / "request.json"
        self.private = path / "private.json"
        self.ticket = path / "ticket.json"
        self.claim = path / "claim.json"
        self.cancel = path / "cancel.json"
        self.exit = path / "exit.json"
        self.events = path / "events.jsonl"
        self.log = path / "log.jsonl"
        self.errors = path / "errors.txt"
        self.lock = path / "lock"

    @property
    def is_pending(self) -> bool:
        """True while it waits for a worker."""
        return self.ticket.exists() and not self.claim.exists() and not self.exit.exists()

    @property
    def is_held(self) -> bool:
        """True while its worker or its run lives."""
        try:
            descriptor = os.open(self.lock, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            # Shared, so that two who look at the same time do not take each other for the run.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)

    def hold(self) -> int:
        """Take its lock; returns the open file that has it. Only who looks whether it is held can be in the way."""
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def attempt_folder(self, attempt: int) -> Path:
        """Return where an earlier attempt is kept."""
        return self.path / "attempts" / str(attempt)

    def archive(self, attempt: int) -> None:
        """Put the files of a finished attempt aside."""
        folder = self.attempt_folder(attempt)
        folder.mkdir(parents=True, exist_ok=True)
        # The ticket goes last: until then the job is there, and finished.
        for name in sorted(_ATTEMPT_FILES, key="ticket.json".__eq__):
            if (self.path / name).exists():
                (self.path / name).replace(folder / name)


class StateFolder:
    """All jobs of one person on this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.jobs = root / "jobs"
        self.slots = root / "slots"
        self.sets = root / "sets"
        self.workers_log = root / "workers.log"
        self._known: dict[str, JobFolder] = {}  # a dozen paths each: not to be made anew at every look

    def create(self) -> None:
        """Make the folders; only their owner may look inside."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.jobs, self.slots, self.sets):
            folder.mkdir(mode=0o700, exist_ok=True)

    def job(self, name: str) -> JobFolder:
        """Return a job's files, whether or not there are any."""
        if name not in self._known:
            self._known[name] = JobFolder(self.jobs / name)
        return self._known[name]

    def names(self) -> list[str]:
        """Return the name of every job."""
        try:
            return sorted(entry.name for entry in os.scandir(self.jobs) if entry.is_dir())
        except FileNotFoundError:
            return []

    def next_pending(self) -> JobFolder | None:
        """Return the job that has been waiting longest."""
        waiting = ((order, name) for name in self.names() if (order := self.order(name)) is not None)
        first = min(waiting, default=None)
        return None if first is None else self.job(first[1])

    def order(self, name: str) -> int | None:
        """Return a waiting job's place in the queue (smaller is earlier); None when it does not wait."""
        job = self.job(name)
        if not job.is_pending:
            return None
        ticket = read_json(job.ticket)
        return None if ticket is None else int(ticket["order"])

    @contextmanager
    def dispatching(self) -> Iterator[None]:
        """Keep everyone else from adding, claiming and ending jobs."""
        descriptor = os.open(self.root / "dispatch.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def take_slot(self, count: int) -> int | None:
        """Take one of `count` slots; returns the open file that has it, or None when all are taken."""
        for number in range(count):
            descriptor = os.open(self.slots / str(number), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                return descriptor
        return None


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a file's object; None where there is no such file."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return document if isinstance(document, dict) else None


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a file that only its owner may read, so that a reader sees all of it or nothing."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)  # in ASCII: an environment may hold bytes that are no text
    beside.replace(path)
