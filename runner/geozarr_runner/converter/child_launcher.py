"""Runs a command that ends when its parent does: `python child_launcher.py PARENT-PID COMMAND ...`.

A runner that is killed with SIGKILL cannot end its converter. On Linux the kernel ends it: this process asks the kernel
for that, and then becomes the command. On other systems the command runs without it. Only the standard library is
imported, so that this takes milliseconds.
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
        if os.getppid() != parent:  # the parent died before the kernel was asked
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  the caller built the list
