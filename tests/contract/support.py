"""What the contract tests share: a backend's place, spoken to in the same words whatever it is made of."""

from __future__ import annotations

import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import geozarr_nb as gz
from benchmarks.server import ProductServer
from geozarr_nb.jobs.job import Job

GROUP = "/measurements/reflectance/r60m"


@dataclass(frozen=True)
class Place(ABC):
    """Where a test's jobs run, and where its outputs go.

    Attributes
    ----------
    backend
        The backend's name.
    sample
        A small product, as it has to be submitted here.
    scratch
        A folder of this machine for whatever the test, the SDK and its other processes write.
    settings
        Environment variables with which every process finds this place.
    host
        Address of this machine that jobs reach.
    tidies
        Whether what a killed run leaves is removed before the output is asked for again.
    """

    backend: str
    sample: str
    scratch: Path
    settings: Mapping[str, str]
    host: str
    tidies: bool = field(default=True, kw_only=True)

    @property
    def environ(self) -> dict[str, str]:
        """The environment of another process that is to find this place."""
        return {**os.environ, **self.settings}

    def submit(self, name: str, **options: object) -> Job:
        used: dict[str, object] = {"groups": [GROUP], "backend": self.backend, **options}
        return gz.submit(self.sample, self.output(name), **used)  # type: ignore[arg-type]

    def leftovers(self, name: str) -> list[str]:
        """Return what lies beside an output and belongs to it, except for its log."""
        own = f"{name}.zarr"
        return [
            found
            for found in self.files()
            if own in found and found not in (own, f"{own}.log.jsonl", f"{own}.stac.json")
        ]

    @abstractmethod
    def product(self, path: str | Path) -> str:
        """Return how a product of this machine's disk, which may be missing, is named to the backend."""

    @abstractmethod
    def output(self, name: str) -> str:
        """Return the address of an output, as a job shows it."""

    @abstractmethod
    def files(self) -> list[str]:
        """Return the names of what lies where outputs go."""

    @abstractmethod
    def stamp(self, name: str) -> int:
        """Return when an output was last written, in nanoseconds; it has to be there."""

    @abstractmethod
    def running(self, name: str) -> list[str]:
        """Return what works, or waits to work, on an output: nothing after a job has ended."""

    @abstractmethod
    def family(self, name: str) -> Callable[[], list[str]]:
        """Return a call that says what still works of all that works on an output now, and of what it started."""

    @abstractmethod
    def converting(self, name: str) -> bool:
        """Return whether the converter itself is at work on an output."""

    @abstractmethod
    def hold(self, group: str = GROUP) -> None:
        """Have runs that begin now get no data of a group until `release`, where jobs do not wait for each other."""

    @abstractmethod
    def release(self) -> None:
        """Let all runs go on."""

    @abstractmethod
    def held_product(self) -> AbstractContextManager[str]:
        """Give the address of the sample in a block during which no run gets data of it."""

    @abstractmethod
    def kill(self, name: str) -> None:
        """Kill the run of an output, so that it can say nothing more."""

    @abstractmethod
    def forget(self, job: Job) -> None:
        """Take all memory of a finished job away, but not its output."""

    @abstractmethod
    def traces(self, text: str) -> list[str]:
        """Return wherever a text was left."""

    def exists(self, name: str) -> bool:
        """Return whether anything has an output's final name."""
        return f"{name}.zarr" in self.files()


@dataclass(frozen=True)
class LocalPlace(Place):
    """Folders and processes of this machine."""

    outputs: Path = field(kw_only=True)

    def product(self, path: str | Path) -> str:
        return str(path)

    def output(self, name: str) -> str:
        return str(self.outputs / f"{name}.zarr")

    def files(self) -> list[str]:
        return sorted(path.name for path in self.outputs.iterdir())

    def stamp(self, name: str) -> int:
        return Path(self.output(name)).stat().st_mtime_ns

    def running(self, name: str) -> list[str]:
        # What a run starts in its turn is found by the folder that it writes in.
        found = {*processes_with(self.output(name)), *processes_with(str(self._partial(name)))}
        return [str(process.pid) for process in found]

    def family(self, name: str) -> Callable[[], list[str]]:
        own = processes_with(self.output(name))
        known = [*own, *(child for process in own for child in _children(process))]
        return lambda: [str(process) for process in known if _is_alive(process)]

    def converting(self, name: str) -> bool:
        return any(self._partial(name).glob("output*"))

    def hold(self, group: str = GROUP) -> None:
        pass  # one job runs at a time, and all others wait

    def release(self) -> None:
        pass

    @contextmanager
    def held_product(self) -> Iterator[str]:
        sample = Path(self.sample).resolve()
        with ProductServer(sample.parent) as server:
            server.hold(f"/{sample.name}{GROUP}/")
            yield f"{server.url}/{sample.name}"

    def kill(self, name: str) -> None:
        [job] = [job for job in gz.list_jobs(self.backend).jobs if job.output == self.output(name)]
        for process in processes_with(f"/jobs/{job.name}/"):
            with suppress(psutil.NoSuchProcess):  # some end by themselves meanwhile
                process.kill()

    def forget(self, job: Job) -> None:
        shutil.rmtree(Path(self.settings["GEOZARR_STATE_DIR"]) / "jobs" / job.name)

    def traces(self, text: str) -> list[str]:
        return files_with(text, self.scratch)

    def _partial(self, name: str) -> Path:
        return self.outputs / f".{name}.zarr.partial"


def until(condition: Callable[[], bool], seconds: float = 600) -> None:
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


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:  # it has ended meanwhile
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def files_with(text: str, folder: Path) -> list[str]:
    """Return the files below a folder that hold a text."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
