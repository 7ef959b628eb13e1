"""Loads a command, then waits for its command line: `python -P loaded.py NAME [ABOUT]`, and one line of JSON.

Loading the converter takes seconds; they pass while its input is still on the way. Without a line there is nothing to
do. ABOUT is for those who look at processes. (`-P`: the modules beside this file have names of the standard library's.)
"""

import json
import os
import sys
from importlib.metadata import entry_points

if __name__ == "__main__":
    command = next(iter(entry_points(group="console_scripts", name=sys.argv[1]))).load()
    line = sys.stdin.readline()
    if not line:
        sys.exit()
    # From here on nothing tells it from the command itself.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    sys.argv = json.loads(line)
    sys.exit(command())
