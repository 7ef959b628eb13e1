"""Ends the processes of a run. A process number alone is not trusted, since the system may use it again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress

import psutil

from geozarr_nb.backends.local.state_folder import JobFolder
from geozarr_nb.errors import StateUnusable
from geozarr_runner.text.shell import word

GRACE = 10.0
LOOK = 0.05


def end_run(job: JobFolder) -> None:
    """End a running job's processes: first with SIGTERM, after some seconds with SIGKILL.

    Raises
    ------
    StateUnusable
        A process that is no run of this job keeps its lock.
    """
    deadline = time.monotonic() + GRACE
    asked = False
    family: set[psutil.Process] = set()  # only grows: a grandchild is no longer found once its parent has ended
    while job.is_held and not job.exit.exists():
        run = _run_of(job)
        if run is not None:
            family |= _family(run)
            if not asked:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(run.pid, signal.SIGTERM)
                asked = True
        if time.monotonic() > deadline:
            _kill(family)
        if time.monotonic() > deadline + GRACE and job.is_held and not job.exit.exists():
            raise StateUnusable(
                "something that cannot be ended from here holds the job's lock",
                given=job.lock,
                remedy=f"see what it is, and end it: fuser -v {word(str(job.lock))}",
            )
        time.sleep(LOOK)
    _kill(family)


def _run_of(job: JobFolder) -> psutil.Process | None:
    """Return the process of a running job; None before it starts and after it has ended."""
    claim = job.read_claim()
    if claim is None or claim.pid is None:
        return None
    try:
        process = psutil.Process(claim.pid)
        # The system may use the process number again; the path of the log in the command line is unique.
        return process if str(job.log) in process.cmdline() else None
    except (psutil.Error, OSError):  # it has ended, or the number now belongs to another account's process
        return None


def _family(process: psutil.Process) -> set[psutil.Process]:
    try:
        return {process, *process.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()
    except psutil.AccessDenied:
        return {process}


def _kill(processes: Collection[psutil.Process]) -> None:
    """Kill processes, and return when none runs any more."""
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.kill()
    deadline = time.monotonic() + GRACE
    while any(map(_lives, processes)) and time.monotonic() < deadline:
        time.sleep(LOOK)


def _lives(process: psutil.Process) -> bool:
    try:
        # In a container a dead process can stay a zombie if its parent died first.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
