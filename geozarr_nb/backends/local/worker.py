"""A worker: takes the jobs that wait, the oldest first, runs each as its own process, and leaves when none is left.

    python -m geozarr_nb.backends.local.worker STATE_DIR SLOT COMMAND...

It is started detached by whoever submits when a slot is free, inherits the open file SLOT that holds the slot, and
needs the standard library only, so it starts at once and takes little memory for as long as a conversion runs.

What it runs is COMMAND, the runner, which gets the job's request as a document. A file of the state folder
chooses no program: of the argv that a ticket holds only the Python counts that the job was submitted with, where it is
one of this account's or the system's, so that each job runs with what is installed beside its submitter.
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

from geozarr_nb.backends.local.state_folder import JobFolder, StateFolder, Ticket, read_json, understood, write_json
from geozarr_nb.errors import GeozarrError
from geozarr_nb.ownership import open_own, others_may_write, read_own
from geozarr_nb.request import Request

RUNNER = (sys.executable, "-P", "-m", "geozarr_runner")
SUBCOMMAND = "run"
LAST_WORDS = 5
_PYTHON = re.compile(r"python(3(\.\d+)?t?)?")
_started: set[int] = set()  # workers of this process that it has not collected yet


def start(state: StateFolder, slot: int, command: Sequence[str] = RUNNER) -> None:
    """Start a worker that goes on without this process.

    Parameters
    ----------
    slot
        The open file that holds its slot.
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
    process.returncode = 0  # it outlives us on purpose; without this Python would warn of it when we end


def _log_of(state: StateFolder) -> IO[bytes]:
    """Return where a worker says what belongs to no job."""
    try:
        return os.fdopen(open_own(state.workers_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")
    except (OSError, GeozarrError):  # the disk is full, or somebody linked it away: jobs have logs of their own
        return open(os.devnull, "ab")  # noqa: PTH123  of the same kind as the other


def _collect() -> None:
    """Let go of the workers that have left, so that none stays as a zombie of this process."""
    for pid in list(_started):
        try:
            gone = os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:  # someone else collected it, or this process is a fork of the one that started it
            gone = True
        if gone:
            _started.discard(pid)


def work(state: StateFolder, slot: int, command: Sequence[str] = RUNNER) -> None:
    """Run what waits until nothing does."""
    while True:
        with state.dispatching():
            job = state.next_pending()
            if job is None:
                # Given up under the lock: whoever adds a job from now on sees the slot free and starts a worker.
                os.close(slot)
                return
            try:
                lock = job.hold()
            except (OSError, GeozarrError) as error:  # the other jobs run
                _give_up(job, error)
                continue
            write_json(job.claim, {"started": now(), "pid": None})
        try:
            run(job, lock, slot, command)
        finally:
            os.close(lock)


def run(job: JobFolder, lock: int, slot: int, command: Sequence[str] = RUNNER) -> None:
    """Run one claimed job to its end, and write down how it ended."""
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
            Request.from_json(document)  # what is none is never run
            argv = [*runner_of(ticket, command), *arguments(job)]
            streams = [
                opened.enter_context(os.fdopen(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab"))
                for path in (job.events, job.errors)
            ]
            if job.log.is_symlink():
                read_own(job.log)  # refuses it: the run would follow it
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=streams[0],
                stderr=streams[1],
                cwd=job.path,
                env=environ,
                start_new_session=True,
                # While the run lives the job lives and its slot is taken, even if this worker is killed.
                pass_fds=(lock, slot),
            )
        except (OSError, ValueError, GeozarrError) as error:  # a ValueError: a NUL, say, where the system takes none
            _give_up(job, error)
            return
    write_json(job.claim, {"started": now(), "pid": process.pid})
    job.private.unlink(missing_ok=True)
    with suppress(BrokenPipeError), cast(IO[bytes], process.stdin) as stdin:  # it may have ended before it asked
        stdin.write(json.dumps({**document, "source": source}).encode())
    if job.cancel.exists():  # it came between the claim and the process number, so nobody could send the signal
        os.killpg(process.pid, signal.SIGTERM)
    code = process.wait()
    with suppress(ProcessLookupError):  # what a killed run left behind in its process group
        os.killpg(process.pid, signal.SIGKILL)
    words = keep_errors(job)
    hide(secrets, job)
    write_json(job.exit, ended(code, last_words=words))


def _give_up(job: JobFolder, error: Exception) -> None:
    """Write down why a job was never run."""
    job.private.unlink(missing_ok=True)
    said = error.message if isinstance(error, GeozarrError) else str(error)
    write_json(job.exit, ended(None, problem=f"the run could not be started: {said}"))


def runner_of(ticket: Ticket, command: Sequence[str]) -> Sequence[str]:
    """Return the command of the runner for a job: the worker's own, with the Python that the job was submitted with."""
    if tuple(command) != RUNNER or ticket.argv[1 : len(RUNNER) + 1] != (*RUNNER[1:], SUBCOMMAND):
        return command  # the runner of an earlier version takes no document
    python = Path(ticket.argv[0])
    try:
        found = python.stat()
    except (OSError, ValueError):
        return command
    is_one = python.is_absolute() and _PYTHON.fullmatch(python.name) and stat.S_ISREG(found.st_mode)
    is_ours = found.st_uid in (os.geteuid(), 0) and not others_may_write(python, found)
    return (str(python), *RUNNER[1:]) if is_one and is_ours else command


def arguments(job: JobFolder) -> list[str]:
    """Return the runner's arguments; the request is handed over on its standard input, with the full address."""
    return [SUBCOMMAND, "--log", str(job.log), "--json"]


def ended(code: int | None, **more: Any) -> dict[str, Any]:
    """Return what exit.json says; `code` is None when there was no process, or nobody saw it end."""
    return {"code": code, "finished": now(), **more}


def keep_errors(job: JobFolder) -> list[str]:
    """Move what the run wrote to its standard error to the end of its log; returns the last lines of it."""
    if not job.log.exists():  # it ended before it opened its log
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
    """Remove the secret parts of an address from everything the job leaves."""
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
    """Return the time as the events have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def main() -> None:
    """Run as `python -m geozarr_nb.backends.local.worker`."""
    work(StateFolder(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3:] or RUNNER)


if __name__ == "__main__":
    main()
