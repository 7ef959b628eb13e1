"""What the contract tests share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

import geozarr_nb as gz
from geozarr_nb.job import Job

GROUP = "/measurements/reflectance/r60m"


@dataclass(frozen=True)
class Place:
    """Where a test's jobs run, and where its outputs go."""

    backend: str
    folder: Path
    sample: str
    environ: dict[str, str]

    def output(self, name: str) -> str:
        return str(self.folder / f"{name}.zarr")

    def submit(self, name: str, **options: object) -> Job:
        used: dict[str, object] = {"groups": [GROUP], "backend": self.backend, **options}
        return gz.submit(self.sample, self.output(name), **used)  # type: ignore[arg-type]

    def leftovers(self, name: str) -> list[str]:
        """Return what lies beside an output and belongs to it, except for its log."""
        names = [path.name for path in self.folder.iterdir()]
        return [found for found in names if f"{name}.zarr" in found and found != f"{name}.zarr"]


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return when a condition holds; a test that waits for nothing fails."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def processes_with(text: str) -> list[psutil.Process]:
    """Return the processes that have a text in their command line."""
    running = (
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
    )
    return [process for process in running if text in " ".join(process.info["cmdline"] or [])]
