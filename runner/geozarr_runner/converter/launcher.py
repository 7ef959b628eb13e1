"""Loads a command, then waits for its command line: `python -P launcher.py NAME [ABOUT]`, and one line of JSON.

The converter takes seconds to load, and its input is downloaded meanwhile. If standard input ends without a line, this
process ends. ABOUT is a text for the list of processes. (`-P` is needed since modules beside this file have names of
modules of the standard library.)

To save time, garbage collection is off while the modules load, and the process ends without Python's own tear-down.
"""

import atexit
import gc
import json
import os
import sys
from importlib.metadata import entry_points

code = 0


def end() -> None:
    """End the process after all other functions that were registered for its exit."""
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
    # From here on the process looks like the command itself.
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
