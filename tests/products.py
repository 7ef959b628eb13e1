"""What tests read and nobody changes: made by the first process of a run that wants it, and shared by all.

Nothing here imports the SDK: the runner's tests use it too.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

STAMP = ".made.json"


def made_once(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    """Return `folder/name`; the first process that asks calls `make` with this path, and all others wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    stamp = folder / f".{name}{STAMP}"
    with (folder / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists():
            if path.exists():  # of a call that failed
                shutil.rmtree(path)
            make(path)
            stamp.write_text(json.dumps(_state(path)))
    return path


def changed(folder: Path) -> list[str]:
    """Return the paths below what `made_once` made in a folder that are no longer as they were."""
    found = []
    for stamp in sorted(folder.glob(f".*{STAMP}")):
        name = stamp.name.removeprefix(".").removesuffix(STAMP)
        before, now = json.loads(stamp.read_text()), _state(folder / name)
        found += [f"{name}/{path}" for path in sorted(before.keys() | now) if before.get(path) != now.get(path)]
    return found


def _state(path: Path) -> dict[str, list[int]]:
    files = (each for each in path.rglob("*") if each.is_file())
    found = ((str(each.relative_to(path)), each.stat()) for each in files)
    return {name: [status.st_size, status.st_mtime_ns] for name, status in found}


def sample(folder: Path, name: str, size: int, kind: str) -> Path:
    """Return a sample product of the SDK's, made once; see `geozarr_nb.sample_product`."""

    def make(path: Path) -> None:
        command = [sys.executable, "-m", "geozarr_nb", "sample", str(path), "--size", str(size), "--kind", kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return made_once(folder, name, make)
