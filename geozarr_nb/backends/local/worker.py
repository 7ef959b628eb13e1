"""A worker: a process that runs the waiting jobs one after the other, the oldest first, and ends when none waits.

    python -m geozarr_nb.backends.local.worker STATE_DIR SLOT COMMAND...

The process that submits a job starts a worker if a slot is free. The worker is detached from it, and inherits the open
file SLOT, which holds the slot. The worker imports only the standard library, so that it starts at once and needs
little memory while a conversion runs.

The worker runs COMMAND, the runner, which gets the job's request as a document. No file of the state folder chooses a
program. From the argv of a ticket the worker takes only the Python that the job was submitted with, and only if this
Python belongs to this account or the system: so each job runs with the packages of its submitter.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from geozarr_nb.backends.local.state_file import read_json, understood, write_json
from geozarr_nb.backends.local.state_folder import JobFolder, StateFolder, Ticket
from geozarr_nb.errors import GeozarrError
from geozarr_nb.ownership import open_own, others_may_write, read_own
from geozarr_nb.request import Request

RUNNER = (sys.executable, "-P", "-m", "geozarr_runner")
SUBCOMMAND = "run"
LAST_WORDS = 5
_PYTHON = re.compile(r"python(3(\.\d+)?t?)?")
_started: set[int] = set()  # process numbers of workers that this process started and has not waited for


def start(state: StateFolder, slot: int, command: Sequence[str] = RUNNER) -> None:
    """Start a worker that goes on when this process ends.

    Parameters
    ----------
    slot
        The open file that holds the worker's slot.
    command
        The runner's command.
    """
    _collect()
    with _log_of(state) as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "geozarr_nb.backends.local.worker", str(state.root), str(slot), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=state.root,
            start_new_session=True,
            pass_fds=(slot,),
        )
    _started.add(process.pid)
    process.returncode = 0  # the worker outlives this process on purpose; this keeps Python from warning of it


def _log_of(state: StateFolder) -> IO[bytes]:
    """Return the open file for messages of workers that belong to no job."""
    try:
        return os.fdopen(open_own(state.workers_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")
    except (OSError, GeozarrError):  # a full disk, or a link: jobs have logs of their own
        return open(os.devnull, "ab")  # noqa: PTH123  of the same kind as the other


def _collect() -> None:
    """Wait for workers that have ended, so that none stays as a zombie of this process."""
    for pid in list(_started):
        try:
            gone = os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:  # something else waited for it, or this process is a fork of its parent
            gone = True
        if gone:
            _started.discard(pid)


def work(state: StateFolder, slot: int, command: Sequence[str] = RUNNER) -> None:
    """Run waiting jobs until none waits."""
    while True:
        with state.dispatching():
            job = state.next_pending()
            if job is None:
                # The slot is freed under the dispatch lock: the next process that adds a job starts a worker.
                os.close(slot)
                return
            try:
                lock = job.hold()
            except (OSError, GeozarrError) as error:  # the other jobs still run
                _give_up(job, error)
                continue
            write_json(job.claim, {"started": now(), "pid": None})
        try:
            run(job, lock, slot, command)
        finally:
            os.close(lock)


def run(job: JobFolder, lock: int, slot: int, command: Sequence[str] = RUNNER) -> None:
    """Run one claimed job to its end, and store how it ended."""
    with ExitStack() as opened:
        try:
            ticket, private, document = job.read_ticket(), read_json(job.private), read_json(job.request)
            if ticket is None or private is None or document is None:
                write_json(job.exit, ended(None, problem="the files of the job were removed while it waited"))
                return
            with understood(job.private):
                environ = {str(name): str(value) for name, value in private["environ"].items()}
                source = str(private["source"])
                secrets = [str(secret) for secret in private.get("secrets", ())]
            Request.from_json(document)  # refuses a document that is no request
            argv = [*runner_of(ticket, command), *arguments(job)]
            streams = [
                opened.enter_context(os.fdopen(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab"))
                for path in (job.events, job.errors)
            ]
            if job.log.is_symlink():
                read_own(job.log)  # refuses the link, which the run would follow
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=streams[0],
                stderr=streams[1],
                cwd=job.path,
                env=environ,
                start_new_session=True,
                # The run inherits lock and slot, so that both stay taken if this worker is killed.
                pass_fds=(lock, slot),
            )
        except (OSError, ValueError, GeozarrError) as error:  # a ValueError: for example a NUL in an argument
            _give_up(job, error)
            return
    write_json(job.claim, {"started": now(), "pid": process.pid})
    job.private.unlink(missing_ok=True)
    with suppress(BrokenPipeError), cast(IO[bytes], process.stdin) as stdin:  # the run may have ended already
        stdin.write(json.dumps({**document, "source": source}).encode())
    if job.cancel.exists():  # the job was cancelled before the process number was known: the signal is sent now
        os.killpg(process.pid, signal.SIGTERM)
    code = process.wait()
    with suppress(ProcessLookupError):  # processes that a killed run left in its process group
        os.killpg(process.pid, signal.SIGKILL)
    words = keep_errors(job)
    hide(secrets, job)
    write_json(job.exit, ended(code, last_words=words))


def _give_up(job: JobFolder, error: Exception) -> None:
    """Store why a job could not be started."""
    job.private.unlink(missing_ok=True)
    said = error.message if isinstance(error, GeozarrError) else str(error)
    write_json(job.exit, ended(None, problem=f"the run could not be started: {said}"))


def runner_of(ticket: Ticket, command: Sequence[str]) -> Sequence[str]:
    """Return the runner's command for a job: that of the worker, with the Python that the job was submitted with."""
    if tuple(command) != RUNNER or ticket.argv[1 : len(RUNNER) + 1] != (*RUNNER[1:], SUBCOMMAND):
        return command  # a ticket of an earlier version, whose runner takes no document
    python = Path(ticket.argv[0])
    try:
        found = python.stat()
    except (OSError, ValueError):
        return command
    is_one = python.is_absolute() and _PYTHON.fullmatch(python.name) and stat.S_ISREG(found.st_mode)
    is_ours = found.st_uid in (os.geteuid(), 0) and not others_may_write(python, found)
    return (str(python), *RUNNER[1:]) if is_one and is_ours else command


def arguments(job: JobFolder) -> list[str]:
    """Return the runner's arguments; the request with its full address is sent to standard input."""
    return [SUBCOMMAND, "--log", str(job.log), "--json"]


def ended(code: int | None, **more: Any) -> dict[str, Any]:
    """Return the content of exit.json; `code` is None if there was no process, or its end was not seen."""
    return {"code": code, "finished": now(), **more}


def keep_errors(job: JobFolder) -> list[str]:
    """Move the run's standard error to the end of its log, and return its last lines."""
    if not job.log.exists():  # the run ended before it opened its log
        shutil.copyfile(job.events, job.log)
    lines = [line for line in read_own(job.errors).decode(errors="replace").splitlines() if line.strip()]
    if lines:
        with os.fdopen(open_own(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a", encoding="utf-8") as log:
            for line in lines:
                event = {"v": 1, "time": now(), "type": "log", "source": "stderr", "text": line}
                log.write(json.dumps(event) + "\n")
    job.errors.unlink()
    return lines[-LAST_WORDS:]


def hide(secrets: list[str], job: JobFolder) -> None:
    """Replace the secret parts of an address in the events and the log of a job."""
    if not secrets:
        return
    for path in (job.events, job.log):
        with suppress(FileNotFoundError):
            content = read_own(path)
            clean = content
            for secret in secrets:
                clean = clean.replace(secret.encode(), b"*" * len(secret.encode()))  # same length: offsets stay valid
            if clean != content:
                with os.fdopen(open_own(path, os.O_RDWR), "r+b") as file:
                    file.write(clean)


def now() -> str:
    """Return the present time in the form of events."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def main() -> None:
    """Run the worker of a command line."""
    work(StateFolder(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3:] or RUNNER)


if __name__ == "__main__":
    main()
