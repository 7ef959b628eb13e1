"""Loads a command, then waits for its command line: `python -P launcher.py NAME [ABOUT]`, and one line of JSON.

Loading the converter takes seconds; they pass while its input is still on the way. Without a line there is nothing to
do. ABOUT is for those who look at processes. (`-P`: the modules beside this file have names of the standard library's.)

What Python itself spends on a process of a thousand modules is left out where nobody needs it: looking for garbage
among what only gets loaded, and taking everything down at the end.
"""

import atexit
import gc
import json
import os
import sys
from importlib.metadata import entry_points

code = 0


def end() -> None:
    """End as Python would after this, the last of all that was registered for its exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    atexit.register(end)
    gc.disable()
    command = next(iter(entry_points(group="console_scripts", name=sys.argv[1]))).load()
    gc.freeze()
    gc.enable()
    line = sys.stdin.readline()
    if not line:
        sys.exit()
    # From here on nothing tells it from the command itself.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    sys.argv = json.loads(line)
    code = 1
    try:
        sys.exit(command())
    except SystemExit as ending:
        if ending.code is None or isinstance(ending.code, int):  # else a text, which Python prints
            code = ending.code or 0
        raise
