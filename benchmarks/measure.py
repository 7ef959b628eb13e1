"""What a command costs: seconds, processor seconds, memory of its process tree, bytes it left in a folder."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import psutil

RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in one of ru_maxrss


@dataclass(frozen=True)
class Measurement:
    """One run of a command.

    Attributes
    ----------
    command
        Its arguments.
    exit_code
        As in `subprocess`: negative for a signal.
    wall
        Seconds from its start to its end.
    user, system
        Processor seconds of the process and of all its descendants that were waited for.
    peak_rss
        Bytes: the largest resident memory of the whole process tree at one moment. Pages that processes share count
        once for each.
    own_peak_rss
        Bytes: the same for the process that was started, alone.
    bytes_written
        Size of the output's files afterwards; 0 without an output.
    stdout, stderr
        What it printed.
    """

    command: tuple[str, ...]
    exit_code: int
    wall: float
    user: float
    system: float
    peak_rss: int
    own_peak_rss: int
    bytes_written: int
    stdout: str
    stderr: str


def measure(
    command: Sequence[str | PathLike[str]],
    *,
    output: str | PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    interval: float = 0.1,
) -> Measurement:
    """Run a command to its end and measure it; its exit code is for the caller to judge.

    Parameters
    ----------
    command
        The program and its arguments; no shell.
    output
        File or folder whose size is to be taken afterwards.
    env
        Variables to set beside those of this process.
    timeout
        Seconds after which the command and its descendants are killed.
    interval
        Seconds between two looks at the process tree. Peaks of a single process are not lost between them where the
        system keeps a high-water mark (Linux).

    Raises
    ------
    TimeoutError
        The command ran longer than `timeout`.
    OSError
        The command could not be started.
    """
    arguments = tuple(os.fspath(argument) for argument in command)
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        start = time.perf_counter()
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(env or {})},
            start_new_session=True,  # so that killing its group takes the descendants along, and not us
        )
        watch = _Watch(process.pid, interval, timeout)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _kill_group(process.pid)
            process.wait()
            raise
        finally:
            watch.stop()
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)  # it is reaped already; Popen must not try again
        if watch.expired:
            raise TimeoutError(f"{' '.join(arguments)} ran longer than {timeout} s and was killed.")
        # A new program inherits its starter's high-water mark in ru_maxrss: a value up to ours may be only that.
        reported = usage.ru_maxrss * RUSAGE_UNIT if usage.ru_maxrss > ours else 0
        return Measurement(
            command=arguments,
            exit_code=process.returncode,
            wall=wall,
            user=usage.ru_utime,
            system=usage.ru_stime,
            peak_rss=max(watch.tree, reported),
            own_peak_rss=watch.own,
            bytes_written=0 if output is None else stored_bytes(output),
            stdout=_text(stdout.fileno()),
            stderr=_text(stderr.fileno()),
        )


def stored_bytes(path: str | PathLike[str]) -> int:
    """Return the bytes of a file, or of all files below a folder; 0 if there is nothing at `path`."""
    if Path(path).is_file():
        return Path(path).stat().st_size
    return sum((folder / name).stat().st_size for folder, _, names in Path(path).walk() for name in names)


class _Watch:
    """Looks at a process and its descendants from a thread until `stop`, and ends them after `timeout` seconds."""

    def __init__(self, pid: int, interval: float, timeout: float | None) -> None:
        self.tree = 0
        self.own = 0
        self.expired = False
        self._pid = pid
        self._interval = interval
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="measure", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        wait = 0.0
        while not self._stopping.wait(wait):
            wait = self._interval
            with contextlib.suppress(psutil.NoSuchProcess):
                self._look(psutil.Process(self._pid))
            if self._deadline is not None and time.monotonic() > self._deadline and not self.expired:
                self.expired = True
                _kill_group(self._pid)

    def _look(self, process: psutil.Process) -> None:
        total = 0
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                now = member.memory_info().rss
                peak = max(now, _high_water_mark(member.pid))
                total += now
                self.tree = max(self.tree, peak)
                if member == process:
                    self.own = max(self.own, peak)
        self.tree = max(self.tree, total)


def _high_water_mark(pid: int) -> int:
    """Return the peak resident bytes of one process as Linux keeps them; 0 elsewhere, and once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    marks = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(next(marks, 0)) * 1024


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _text(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read().decode(errors="replace")
