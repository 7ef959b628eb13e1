"""The local backend's memory on disk, shared by the SDK's processes and the workers. Standard library only.

::

    <state>/                    readable by its owner only
      dispatch.lock             held while a job is added, claimed, ended from outside, or a worker leaves
      slots/<n>                 held by a worker and the run it started: bounds how many run at once
      workers.log               what a worker had to say that belongs to no job
      sets/<name>.jsonl         members of a set of jobs
      jobs/<name>/
        request.json            what was asked for, without secrets
        private.json            gone once the run has started: the full address, and what a run needs of the environment
        ticket.json             its presence makes the job; argv, order, number of the attempt
        claim.json              a worker took it: since when, and the run's process
        lock                    held by the worker AND the run: whoever can take it knows that neither lives
        cancel.json             a person wants it to end
        exit.json               it ended
        events.jsonl log.jsonl  what the run said
        attempts/<n>/           the same files of earlier attempts

Locks are flock's: they belong to the open file, go to a child with it, and end with the last process that has it. So
no process number, which may be in use again, ever decides whether a job lives.

The folders and files are this account's alone (`ownership` says what that is), and a file says little: a worker makes
a run's command from request.json. Of a ticket's argv it takes which Python the job was submitted with, at the most.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geozarr_nb.errors import GeozarrError, LaterVersion, StateUnusable
from geozarr_nb.ownership import check_folder, lock, open_own, read_own, unlock

SCHEMA_VERSION = 1
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
_NOT_UNDERSTOOD = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What was written down when an attempt was submitted."""

    order: int
    attempt: int
    submitted: datetime
    argv: tuple[str, ...] = ()

    @classmethod
    def of(cls, document: Mapping[str, Any], path: Path) -> Ticket:
        """Read a ticket."""
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
    """What a worker has written down that took a job; `pid` is None before the run's process is there."""

    started: datetime
    pid: int | None

    @classmethod
    def of(cls, document: Mapping[str, Any], path: Path) -> Claim:
        """Read a claim."""
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
        """True while it waits for a worker."""
        return is_there(self.ticket) and not is_there(self.claim) and not is_there(self.exit)

    @property
    def is_closed(self) -> bool:
        """True where this account may not look into it: it is another's, root's say."""
        return is_there(self.path) and not os.access(self.path, os.X_OK)

    @property
    def is_held(self) -> bool:
        """True while its worker or its run lives."""
        try:
            descriptor = open_own(self.lock, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            # Shared, so that two who look at the same time do not take each other for the run.
            lock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, self.lock)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            unlock(descriptor)

    def hold(self) -> int:
        """Take its lock; returns the open file that has it. Only who looks whether it is held can be in the way."""
        descriptor = open_own(self.lock, os.O_RDWR | os.O_CREAT)
        try:
            lock(descriptor, fcntl.LOCK_EX, self.lock)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def check(self) -> None:
        """Raise where the folder is not this account's alone.

        Raises
        ------
        StateUnusable
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
        """Return its ticket; None where there is none.

        Raises
        ------
        StateUnusable, LaterVersion
        """
        document = read_json(self.ticket)
        return None if document is None else Ticket.of(document, self.ticket)

    def read_claim(self) -> Claim | None:
        """Return what a worker has written down that took it; None where none has.

        Raises
        ------
        StateUnusable, LaterVersion
        """
        document = read_json(self.claim)
        return None if document is None else Claim.of(document, self.claim)

    @contextmanager
    def making(self) -> Iterator[None]:
        """Make the folder; where it is new and the body fails, it is gone again."""
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
        """Return where an earlier attempt is kept."""
        return self.path / "attempts" / str(attempt)

    def archive(self, attempt: int) -> None:
        """Put the files of a finished attempt aside."""
        folder = self.attempt_folder(attempt)
        for made in (folder.parent, folder):
            made.mkdir(mode=0o700, exist_ok=True)
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
        """Return the job that has been waiting longest."""
        waiting = ((order, name) for name in self.names() if (order := self.order(name)) is not None)
        first = min(waiting, default=None)
        return None if first is None else self.job(first[1])

    def order(self, name: str) -> int | None:
        """Return a waiting job's place in the queue (smaller is earlier); None when it does not wait.

        What cannot be understood does not wait: a look at the job says why.
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

    @contextmanager
    def dispatching(self) -> Iterator[None]:
        """Keep everyone else from adding, claiming and ending jobs.

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
        """Take one of `count` slots; returns the open file that has it, or None when all are taken."""
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


def is_there(path: Path) -> bool:
    """Return whether something is there; False where nobody may look."""
    return os.path.exists(path)  # noqa: PTH110  never raises


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a file's object; None where there is no such file.

    Raises
    ------
    StateUnusable
        It is not this account's alone, or holds no object.
    LaterVersion
        It holds one in a form of a later version.
    """
    try:
        content = read_own(path, alone=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with understood(path):
        document = json.loads(content)
        later = document.get("v", SCHEMA_VERSION) > SCHEMA_VERSION
    if later:
        raise LaterVersion("the job", given=path)
    return dict(document)


def check_version(path: Path) -> None:
    """Raise where a file holds nothing that this version could read.

    Raises
    ------
    StateUnusable, LaterVersion
    """
    read_json(path)


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Turn the surprise at what a file holds into an error of ours."""
    try:
        yield
    except (LaterVersion, StateUnusable):
        raise
    except _NOT_UNDERSTOOD as error:  # an InvalidRequest is a ValueError: what is no request is none of ours
        raise StateUnusable(
            "a file of the job cannot be understood: it is damaged, or nothing of this package's",
            given=path,
            remedy=f"remove the job's folder, and submit again: {path.parent}",
        ) from error


@contextmanager
def written(documents: Mapping[Path, Mapping[str, Any]]) -> Iterator[None]:
    """Write files that only their owner may read: all of them, or none.

    What takes space is written before the body runs; after it they only get their names, in their order. So a reader
    sees all of a file or nothing, and where the disk is full no file is there, nor what the body did.
    """
    drafts: dict[Path, Path] = {}
    try:
        for path, document in documents.items():
            drafts[path] = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
            descriptor = open_own(drafts[path], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=1)  # in ASCII: an environment may hold bytes that are no text
        yield
        for path, draft in drafts.items():
            draft.replace(path)
    except BaseException:
        for draft in drafts.values():
            with suppress(OSError):
                draft.unlink()
        raise


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write one file as `written` does."""
    with written({path: document}):
        pass


def parse_time(text: str) -> datetime:
    """Return a time with its zone; without one it is in UTC."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
