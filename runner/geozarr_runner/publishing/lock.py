"""The lock of an output in an object store: it exists while a run writes the output."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geozarr_runner.errors import (
    GeozarrError,
    OutputBusy,
)
from geozarr_runner.publishing.bucket import beside
from geozarr_runner.publishing.remote_output import RemoteOutput
from geozarr_runner.trust.bounds import from_json

SECONDS_BETWEEN_SIGNS = 10.0


SECONDS_WITHOUT_A_SIGN = 40.0


SECONDS_BETWEEN_LOOKS = 1.0


BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass
class Lock:
    """The lock of an output: an object beside it, which its run rewrites every few seconds.

    Parameters
    ----------
    output
        The output that is locked.
    scratch
        The folder for intermediate files. A run that holds the file lock in this folder knows that another run which
        wrote this object from the same folder is dead.
    """

    output: RemoteOutput
    scratch: Path
    run: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self._store = beside(self.output)
        self._key = f".{self.output.name}.lock"
        self._place = _place(self.scratch)
        self._ended, self._is_lost = threading.Event(), threading.Event()
        self._version: str | None = None
        self._signed = _now()

    @contextmanager
    def held(self) -> Iterator[Lock]:
        """Hold the lock during a block.

        Raises
        ------
        OutputBusy
            Another run holds the lock and gives signs of life.
        """
        self._take()
        signs = threading.Thread(target=self._give_signs, name="output-lock", daemon=True)
        signs.start()
        try:
            yield self
        finally:
            self._ended.set()
            signs.join()
            with suppress(GeozarrError):  # the next run takes over a lock that stays
                self.confirm()
                self._store.remove([self._key])

    def confirm(self) -> None:
        """Check that this run still holds the lock.

        Raises
        ------
        OutputBusy
            Another run holds the lock.
        """
        if self._is_lost.is_set() or record_of(self._store.read(self._key)).get("run") != self.run:
            raise self.lost()

    def check(self) -> None:
        """Check the lock only if the last sign of life is so old that this run may have been suspended.

        Raises
        ------
        OutputBusy
            Another run holds the lock.
        """
        if self._is_lost.is_set() or _now() - self._signed > SECONDS_WITHOUT_A_SIGN:
            self.confirm()

    def lost(self) -> OutputBusy:
        """Return the error of a run that has lost its lock to another run; the lock is never taken back."""
        self._is_lost.set()
        return self._busy("another run has taken this output over")

    def _take(self) -> None:
        seen, since = None, time.monotonic()
        while True:
            content = self._store.read(self._key)
            if content is None and self._write(only_new=True):
                return
            found = record_of(content)
            if found.get("run") == self.run:  # the first try was written although its answer was lost
                self._version, self._signed = None, _now()
                return
            if content is None:
                continue
            if found.get("place") == self._place or (
                seen == content and time.monotonic() - since > SECONDS_WITHOUT_A_SIGN
            ):
                # Several runs can find a dead lock in the same moment; the condition lets only one of them take it.
                version = self._store.version(self._key)
                if self._store.read(self._key) == content and self._write(version=version):
                    return
                continue
            if seen not in (None, content):
                raise self._busy("another run is writing this output")
            seen = content
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _write(self, *, only_new: bool = False, version: str | None = None) -> bool:
        record = {"run": self.run, "place": self._place, "time": time.time()}
        written = self._store.write(self._key, json.dumps(record).encode(), only_new=only_new, version=version)
        if written is None:
            return False
        if not written.conditional and (only_new or version is not None):
            self.confirm()  # a store without conditions never refuses: the last run to write has the lock
        self._version, self._signed = written.version, _now()
        return True

    def _give_signs(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_SIGNS) and not self._is_lost.is_set():
            with suppress(GeozarrError):  # the next sign may succeed
                self._give_sign()

    def _give_sign(self) -> None:
        """Rewrite the lock if this run still holds it, and never the lock of another run."""
        # The version is asked for before the owner is checked, so that a later write of another run fails the
        # condition.
        version = self._version or self._store.version(self._key)
        self.confirm()
        if not self._write(version=version):
            self._version = None  # another run wrote the lock, or this run did and the answer was lost

    def _busy(self, message: str) -> OutputBusy:
        return OutputBusy(message, given=self.output, remedy="wait for it, cancel it, or write elsewhere")


def _now() -> float:
    """Return the seconds of a clock that also runs while this machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _place(scratch: Path) -> str:
    """Return a hash that identifies a folder of this machine without naming it."""
    boot = BOOT.read_text() if BOOT.exists() else str(uuid.getnode())
    found = scratch.stat()
    return hashlib.sha256(f"{socket.gethostname()} {boot} {found.st_dev} {found.st_ino}".encode()).hexdigest()


def record_of(content: bytes | None) -> dict[str, Any]:
    """Return what a small document says; empty if there is none, or if it is no object."""
    try:
        found = from_json(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
