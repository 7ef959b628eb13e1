"""Runs a command that ends when its parent does: `python child_launcher.py PARENT-PID COMMAND ...`.

A runner killed with SIGKILL cannot end its converter; the kernel does it, if the converter asked for that before it
became the converter. (Linux; elsewhere the command runs without.) Standard library only: it starts in milliseconds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  the caller built the list
