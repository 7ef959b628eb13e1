"""What hostile input meets here: a process of its own, whose memory and time are bounded and measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MEGABYTE = 1_000_000
CEILING = 6_000 * MEGABYTE  # of address space that is written to: the machine is not the one that gives way


@dataclass(frozen=True)
class Ended:
    """A process that has ended, within its bounds."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak: int

    def refused(self, code: str) -> Ended:
        """Return this, if it ended with that error of ours and without a traceback."""
        assert f"[{code}]" in self.stderr + self.stdout, self.stdout + self.stderr
        assert "Traceback" not in self.stderr + self.stdout, self.stderr
        return self


# Linux hands a program the high-water mark of whoever started it: a worker of these tests, of any size. So a small
# process starts it, waits, and says what it needed.
LAUNCHER = """
import os, resource, sys
said, ceiling, *command = sys.argv[1:]
if not (pid := os.fork()):
    resource.setrlimit(resource.RLIMIT_DATA, (int(ceiling), int(ceiling)))
    os.execv(command[0], command)
_, status, usage = os.wait4(pid, 0)
os.write(int(said), f"{os.waitstatus_to_exitcode(status)} {usage.ru_maxrss}".encode())
"""


def bounded(
    *arguments: object,
    seconds: float = 20,
    megabytes: int = 1000,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Ended:
    """Run a command to its end; it fails the test when it takes longer or has more memory resident than it may.

    The arguments follow this Python's name: `bounded("-m", "geozarr_nb", "inspect", path)`, or `"-c", code, ...`.
    """
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER]
    start = time.monotonic()
    said, theirs = os.pipe()
    with os.fdopen(said) as usage:
        try:
            process = subprocess.Popen(
                [*launcher, str(theirs), str(CEILING), sys.executable, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**os.environ, **(env or {})},
                cwd=cwd,
                pass_fds=(theirs,),
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            _, stderr = process.communicate()
            raise AssertionError(f"it took more than {seconds} s\n{stderr[-2000:]}") from None
        took = time.monotonic() - start
        code, resident = map(int, usage.read().split())
    peak = resident * 1024
    assert peak <= megabytes * MEGABYTE, f"{peak / MEGABYTE:.0f} MB were resident"
    return Ended(code, stdout, stderr, took, peak)
