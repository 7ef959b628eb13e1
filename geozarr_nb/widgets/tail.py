"""The last lines of one job's log, as they come."""

from __future__ import annotations

import threading
from collections import deque

import geozarr_nb as gz
from geozarr_nb.widgets.choice import sentence

LINES = 200


class Tail:
    """Follows the log of one job at a time, in a thread.

    Attributes
    ----------
    count
        How many lines came so far: it differs when there is something new.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=LINES)
        self._stop = threading.Event()
        self.count = 0

    @property
    def lines(self) -> list[str]:
        """The last lines."""
        with self._lock:
            return list(self._lines)

    def follow(self, name: str, backend: str | None) -> None:
        """Follow this job's log, and no other any more."""
        self.stop()
        stop = self._stop = threading.Event()
        threading.Thread(target=self._run, args=(name, backend, stop), name="geozarr-tail", daemon=True).start()

    def stop(self) -> None:
        """Forget the log that was followed."""
        self._stop.set()
        with self._lock:
            self._lines.clear()
            self.count += 1

    def _run(self, name: str, backend: str | None, stop: threading.Event) -> None:
        try:
            for line in gz.get_job(name, backend).logs(follow=True, tail=LINES, stop=stop):
                self._add(line, stop)
        except gz.GeozarrError as error:
            self._add(f"the log cannot be read: {sentence(error)}", stop)

    def _add(self, line: str, stop: threading.Event) -> None:
        with self._lock:
            if not stop.is_set():
                self._lines.append(line)
                self.count += 1
