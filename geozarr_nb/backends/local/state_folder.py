"""The state folder of this machine's jobs, which the SDK's processes and the workers share. Standard library only.

::

    <state>/                    readable by its owner only
      dispatch.lock             held while a job is added, claimed or cancelled, and while a worker decides to end
      slots/<n>                 held by a worker and its run: limits the number of jobs that run at the same time
      workers.log               messages of workers that belong to no job
      sets/<name>.jsonl         members of a set of jobs
      jobs/<name>/
        request.json            the request, without secrets
        private.json            the full address and the environment variables of the run; removed once it has started
        ticket.json             makes the folder a job; argv, order, number of the attempt
        claim.json              a worker has taken the job: start time and process of the run
        lock                    held by the worker AND the run: a process that can take it knows that both have ended
        cancel.json             somebody has cancelled the job
        exit.json               the job has ended
        events.jsonl log.jsonl  events and log of the run
        attempts/<n>/           the same files of earlier attempts

The locks are those of flock: a lock belongs to the open file, a child process inherits it, and it ends with the last
process that has the file open. So no process number, which the system may use again, decides whether a job lives.

Folders and files belong to this account alone (see `ownership`). A file chooses no program: a worker makes the command
of a run from request.json. From the argv of a ticket it takes at most the Python that the job was submitted with.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from geozarr_nb.backends.local.state_file import check_version, is_there, parse_time, read_json, understood
from geozarr_nb.errors import GeozarrError, StateUnusable
from geozarr_nb.ownership import check_folder, lock, open_own, unlock

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
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


@dataclass(frozen=True, slots=True)
class Ticket:
    """The content of ticket.json, which is written when an attempt is submitted."""

    order: int
    attempt: int
    submitted: datetime
    argv: tuple[str, ...] = ()

    @classmethod
    def of(cls, document: Mapping[str, Any], path: Path) -> Ticket:
        """Return the ticket of a document."""
        with understood(path):
            argv = document.get("argv", ())
            return cls(
                int(document["order"]),
                int(document["attempt"]),
                parse_time(document["submitted"]),
                tuple(argv) if isinstance(argv, list) and all(isinstance(word, str) for word in argv) else (),
            )


@dataclass(frozen=True, slots=True)
class Claim:
    """The content of claim.json, which a worker writes when it takes a job; `pid` is None before the run starts."""

    started: datetime
    pid: int | None

    @classmethod
    def of(cls, document: Mapping[str, Any], path: Path) -> Claim:
        """Return the claim of a document."""
        with understood(path):
            pid = document["pid"]
            if pid is not None and int(pid) < 1:
                raise ValueError(pid)
            return cls(parse_time(document["started"]), None if pid is None else int(pid))


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
        """True while the job waits for a worker."""
        return is_there(self.ticket) and not is_there(self.claim) and not is_there(self.exit)

    @property
    def is_closed(self) -> bool:
        """True if this account may not read the folder, for example because it belongs to root."""
        return is_there(self.path) and not os.access(self.path, os.X_OK)

    @property
    def is_held(self) -> bool:
        """True while the job's worker or run lives."""
        try:
            descriptor = open_own(self.lock, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            # A shared lock, so that two processes that look at the same time do not take each other for the run.
            lock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, self.lock)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            unlock(descriptor)

    def hold(self) -> int:
        """Take the job's lock and return the open file; only processes that test the lock can delay this."""
        descriptor = open_own(self.lock, os.O_RDWR | os.O_CREAT)
        try:
            lock(descriptor, fcntl.LOCK_EX, self.lock)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def check(self) -> None:
        """Check that the folder belongs to this account alone.

        Raises
        ------
        StateUnusable
            It does not.
        """
        if self.path.is_symlink():
            raise StateUnusable(
                "the folder of the job is a link", given=self.path, remedy="remove the link, and submit again"
            )
        check_folder(self.path)
        if self.is_closed:
            raise StateUnusable(
                "the folder of the job cannot be looked into",
                given=self.path,
                remedy=f"chmod u+rwx {shlex.quote(str(self.path))}, or remove it and submit again",
            )

    def read_ticket(self) -> Ticket | None:
        """Return the job's ticket; None if there is none.

        Raises
        ------
        StateUnusable, LaterVersion
        """
        document = read_json(self.ticket)
        return None if document is None else Ticket.of(document, self.ticket)

    def read_claim(self) -> Claim | None:
        """Return the job's claim; None if no worker has taken the job.

        Raises
        ------
        StateUnusable, LaterVersion
        """
        document = read_json(self.claim)
        return None if document is None else Claim.of(document, self.claim)

    @contextmanager
    def making(self) -> Iterator[None]:
        """Make the folder; a new folder is removed again if the block fails."""
        is_new = not self.path.exists()
        self.path.mkdir(mode=0o700, exist_ok=True)
        self.check()
        try:
            yield
        except BaseException:
            if is_new:
                with suppress(OSError):
                    self.path.rmdir()
            raise

    def attempt_folder(self, attempt: int) -> Path:
        """Return the folder of an earlier attempt."""
        return self.path / "attempts" / str(attempt)

    def archive(self, attempt: int) -> None:
        """Move the files of a finished attempt to its own folder."""
        folder = self.attempt_folder(attempt)
        for made in (folder.parent, folder):
            made.mkdir(mode=0o700, exist_ok=True)
        # The ticket is moved last: until then the folder is a finished job.
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
        """Make the folders; only their owner may look inside.

        Raises
        ------
        StateUnusable
            They are there, and not this account's alone.
        """
        check_folder(self.root)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_folder(self.root)
        for folder in (self.jobs, self.slots, self.sets):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.check()

    def check(self) -> None:
        """Raise where a folder is not this account's alone.

        Raises
        ------
        StateUnusable
        """
        for folder in (self.root, self.jobs, self.slots):
            check_folder(folder)

    def job(self, name: str) -> JobFolder:
        """Return a job's files, whether or not there are any."""
        if name not in self._known:
            self._known[name] = JobFolder(self.jobs / name)
        return self._known[name]

    def names(self) -> list[str]:
        """Return the name of every job."""
        try:
            with os.scandir(self.jobs) as entries:
                return sorted(
                    entry.name
                    for entry in entries
                    if NAME.fullmatch(entry.name) and (entry.is_symlink() or entry.is_dir(follow_symlinks=False))
                )
        except FileNotFoundError:
            return []

    def next_pending(self) -> JobFolder | None:
        """Return the job that has waited longest; None if none waits."""
        waiting = ((order, name) for name in self.names() if (order := self.order(name)) is not None)
        first = min(waiting, default=None)
        return None if first is None else self.job(first[1])

    def order(self, name: str) -> int | None:
        """Return a number that orders waiting jobs (smaller is earlier); None if the job does not wait.

        A job whose files cannot be read does not wait; its state has the reason.
        """
        job = self.job(name)
        if not job.is_pending:
            return None
        try:
            job.check()
            ticket = job.read_ticket()
            check_version(job.request)
        except GeozarrError:
            return None
        return None if ticket is None else ticket.order

    def places(self) -> Mapping[str, int]:
        """Return for each waiting job the number of jobs that wait before it."""
        waiting = ((self.order(name), name) for name in self.names())
        places = sorted((order, name) for order, name in waiting if order is not None)
        return {name: place for place, (_, name) in enumerate(places)}

    def count_running(self) -> int:
        """Return how many jobs run now."""
        jobs = (self.job(name) for name in self.names())
        return sum(is_there(job.claim) and not is_there(job.exit) for job in jobs)

    @contextmanager
    def dispatching(self) -> Iterator[None]:
        """Hold the dispatch lock, so that no other process adds, claims or cancels jobs.

        Raises
        ------
        StateUnusable, StorageFailed
            The folders are not this account's alone, or know no locks.
        """
        self.check()
        path = self.root / "dispatch.lock"
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        try:
            lock(descriptor, fcntl.LOCK_EX, path)
            yield
        finally:
            unlock(descriptor)

    def take_slot(self, count: int) -> int | None:
        """Take one of `count` slots and return its open file; None if all are taken."""
        for number in range(count):
            path = self.slots / str(number)
            descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
            try:
                lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
            except BlockingIOError:
                os.close(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            else:
                return descriptor
        return None
