"""A worker: takes the jobs that wait, the oldest first, runs each as its own process, and leaves when none is left.

    python -m geozarr_nb.backends.worker STATE_DIR SLOT

It is started detached by whoever submits when a slot is free, inherits the open file SLOT that holds the slot, and
needs the standard library only, so it starts at once and takes little memory for as long as a conversion runs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from geozarr_nb.backends.folder import JobFolder, StateFolder, read_json, write_json

LAST_WORDS = 5
_started: set[int] = set()  # workers of this process that it has not collected yet


def start(state: StateFolder, slot: int) -> None:
    """Start a worker that goes on without this process; `slot` is the open file that holds its slot."""
    _collect()
    with state.workers_log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "geozarr_nb.backends.worker", str(state.root), str(slot)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=state.root,
            start_new_session=True,
            pass_fds=(slot,),
        )
    _started.add(process.pid)
    process.returncode = 0  # it outlives us on purpose; without this Python would warn of it when we end


def _collect() -> None:
    """Let go of the workers that have left, so that none stays as a zombie of this process."""
    for pid in list(_started):
        try:
            gone = os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:  # someone else collected it, or this process is a fork of the one that started it
            gone = True
        if gone:
            _started.discard(pid)


def work(state: StateFolder, slot: int) -> None:
    """Run what waits until nothing does."""
    while True:
        with state.dispatching():
            job = state.next_pending()
            if job is None:
                # Given up under the lock: whoever adds a job from now on sees the slot free and starts a worker.
                os.close(slot)
                return
            lock = job.hold()
            write_json(job.claim, {"started": now(), "pid": None})
        try:
            run(job, lock, slot)
        finally:
            os.close(lock)


def run(job: JobFolder, lock: int, slot: int) -> None:
    """Run one claimed job to its end, and write down how it ended."""
    ticket, private = read_json(job.ticket), read_json(job.private)
    if ticket is None or private is None:
        write_json(job.exit, ended(None, problem="the files of the job were removed while it waited"))
        return
    try:
        with job.events.open("ab") as events, job.errors.open("ab") as errors:
            process = subprocess.Popen(
                ticket["argv"],
                stdin=subprocess.PIPE,
                stdout=events,
                stderr=errors,
                cwd=job.path,
                env=private["environ"],
                start_new_session=True,
                # While the run lives the job lives and its slot is taken, even if this worker is killed.
                pass_fds=(lock, slot),
            )
    except OSError as error:
        job.private.unlink(missing_ok=True)
        write_json(job.exit, ended(None, problem=f"the run could not be started: {error}"))
        return
    write_json(job.claim, {"started": now(), "pid": process.pid})
    job.private.unlink(missing_ok=True)
    with suppress(BrokenPipeError), cast(IO[bytes], process.stdin) as stdin:  # it may have ended before it asked
        stdin.write(private["source"].encode())
    if job.cancel.exists():  # it came between the claim and the process number, so nobody could send the signal
        os.killpg(process.pid, signal.SIGTERM)
    code = process.wait()
    with suppress(ProcessLookupError):  # what a killed run left behind in its process group
        os.killpg(process.pid, signal.SIGKILL)
    words = keep_errors(job)
    hide(private["secrets"], job)
    write_json(job.exit, ended(code, last_words=words))


def ended(code: int | None, **more: Any) -> dict[str, Any]:
    """Return what exit.json says; `code` is None when there was no process, or nobody saw it end."""
    return {"code": code, "finished": now(), **more}


def keep_errors(job: JobFolder) -> list[str]:
    """Move what the run wrote to its standard error to the end of its log; returns the last lines of it."""
    if not job.log.exists():  # it ended before it opened its log
        shutil.copyfile(job.events, job.log)
    lines = [line for line in job.errors.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if lines:
        with job.log.open("a", encoding="utf-8") as log:
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
            content = path.read_bytes()
            clean = content
            for secret in secrets:
                clean = clean.replace(secret.encode(), b"*" * len(secret.encode()))  # same length: offsets stay valid
            if clean != content:
                with path.open("r+b") as file:
                    file.write(clean)


def now() -> str:
    """Return the time as the events have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def main() -> None:
    """Run as `python -m geozarr_nb.backends.worker`."""
    work(StateFolder(Path(sys.argv[1])), int(sys.argv[2]))


if __name__ == "__main__":
    main()
