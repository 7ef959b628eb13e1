"""What hostile input meets here: a process of its own, whose memory and time are bounded and measured."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
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
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **(env or {})},
        cwd=cwd,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (CEILING, CEILING)),
    )
    said: dict[str, str] = {}
    assert process.stdout is not None
    assert process.stderr is not None
    readers = [
        threading.Thread(target=lambda name=name, pipe=pipe: said.update({name: pipe.read()}))
        for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr))
    ]
    for reader in readers:
        reader.start()
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    late = not timer.is_alive()
    timer.cancel()
    for reader in readers:
        reader.join()
    process.stdout.close()
    process.stderr.close()
    took, peak = time.monotonic() - start, usage.ru_maxrss * 1024
    ended = Ended(process.returncode, said["stdout"], said["stderr"], took, peak)
    assert not late, f"it took more than {seconds} s\n{ended.stderr[-2000:]}"
    assert peak <= megabytes * MEGABYTE, f"{peak / MEGABYTE:.0f} MB were resident"
    return ended
