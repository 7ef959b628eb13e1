"""Work off the main thread: a notebook's kernel goes on meanwhile, and front ends stay fluent."""

from __future__ import annotations

import threading
from collections.abc import Callable

import geozarr_nb as gz

SECONDS_BEFORE_WORK = 0.3


class Worker:
    """Does work in threads, and hands over what came of it; a failure is handed over like a result.

    Results are handed over one at a time, in the thread that did the work.

    Parameters
    ----------
    name
        Of its threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle = threading.Condition()
        self._busy = 0
        self._handing_over = threading.RLock()
        self._outdated = threading.Event()

    def start[T](self, work: Callable[[], T], done: Callable[[T | gz.GeozarrError], None]) -> None:
        """Do some work now, whatever else is being done."""
        self._run(work, done, threading.Event(), 0)

    def start_latest[T](
        self,
        work: Callable[[], T],
        done: Callable[[T | gz.GeozarrError], None],
        delay: float = SECONDS_BEFORE_WORK,
    ) -> None:
        """Do some work in place of all that was asked for in this way before.

        What has not begun never does, and what comes of the rest is dropped.

        Parameters
        ----------
        delay
            Seconds to wait for something newer, as when someone types.
        """
        self.drop()
        self._run(work, done, self._outdated, delay)

    def drop(self) -> None:
        """Take back what `start_latest` was asked for."""
        self._outdated.set()
        self._outdated = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether all work was done, and handed over, within some seconds."""
        with self._idle:
            return self._idle.wait_for(lambda: self._busy == 0, timeout)

    def _run[T](
        self,
        work: Callable[[], T],
        done: Callable[[T | gz.GeozarrError], None],
        outdated: threading.Event,
        delay: float,
    ) -> None:
        def run() -> None:
            try:
                if not outdated.wait(delay):
                    self._do(work, done, outdated)
            finally:
                with self._idle:
                    self._busy -= 1
                    self._idle.notify_all()

        with self._idle:
            self._busy += 1
        threading.Thread(target=run, name=f"geozarr-{self._name}", daemon=True).start()

    def _do[T](
        self, work: Callable[[], T], done: Callable[[T | gz.GeozarrError], None], outdated: threading.Event
    ) -> None:
        # What nobody expected goes to the kernel's log as it is; a form must not wait for ever all the same.
        answer: T | gz.GeozarrError = gz.GeozarrError(
            "this is a defect of geozarr-nb", remedy="please report it, with what the kernel's log says"
        )
        try:
            answer = work()
        except gz.GeozarrError as error:
            answer = error
        finally:
            with self._handing_over:
                if not outdated.is_set():
                    done(answer)
