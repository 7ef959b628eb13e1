"""A converter that converts a product once in a run of the tests, and gives the same output whenever it is asked again.

    python -I -S replaying_converter.py FOLDER CONVERTER convert SOURCE OUTPUT [OPTION...]

Outputs are the real converter's own, kept in FOLDER by what was converted and how. What fails is not kept. Tests about
what happens around a conversion use it; those about the converter and its processes use the real one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def main(folder: str, converter: str, command: str, source: str, output: str, *options: str) -> int:
    """Convert, or copy what was made of the same product with the same options; return the exit code."""
    name = _digest(Path(source), [command, *options])
    kept, partial = Path(folder, name), Path(folder, f"{name}.partial")
    with Path(folder, f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            done = subprocess.run([converter, command, source, output, *options], check=False)
            if done.returncode == 0:
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(output, partial)
                partial.rename(kept)
            return done.returncode
    shutil.copytree(kept, output)
    return 0


def _digest(source: Path, call: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(call).encode())
    for folder, folders, names in os.walk(source, followlinks=True):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            content = path.read_bytes()
            digest.update(json.dumps([str(path.relative_to(source)), len(content)]).encode() + content)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
