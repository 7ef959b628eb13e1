"""Work off the main thread: a notebook's kernel goes on meanwhile, and front ends stay fluent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from traitlets.log import get_logger

from geozarr_nb.errors import GeozarrError

SECONDS_BEFORE_WORK = 0.3

# What is seen is changed by one thread at a time. One lock serves all widgets, so that no two can wait for each other;
# whoever holds it waits for nothing else.
SEEN = threading.RLock()


def attempt[T](work: Callable[[], T]) -> T | GeozarrError:
    """Return what came of some work, a failure like a result; what nobody expected is in the kernel's log as well."""
    try:
        return work()
    except GeozarrError as error:
        return error
    except Exception as error:  # noqa: BLE001  the end of a thread: nobody above it could tell a person
        get_logger().error("geozarr_nb: nobody expected this", exc_info=True)
        return GeozarrError(
            f"this is a defect of geozarr-nb ({type(error).__name__})",
            remedy="please report it, with what the kernel's log says",
        )


def sentence(error: GeozarrError) -> str:
    """Return an error in one line: what is wrong, with what, and what to do."""
    given = "" if error.given is None else f" ({error.given})"
    remedy = f"; {error.remedy}" if error.remedy else ""
    return f"{error.message}{given}{remedy}"


class _Told(logging.Handler):
    """Hands over what is logged by some work, and by the event loops and threads that do it for this work."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is of this work; of others not even the handler's lock is taken."""
        return _LISTENER.get() is self

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())


_LISTENER: ContextVar[_Told | None] = ContextVar("listener", default=None)


@contextmanager
def _telling(tell: Callable[[str], object] | None) -> Iterator[None]:
    """Hand over what this work says of what it waits for, as a call in a cell shows it below the cell."""
    if tell is None:
        yield
        return
    logger, handler = logging.getLogger("geozarr_nb"), _Told(tell)
    logger.addHandler(handler)
    before = _LISTENER.set(handler)
    try:
        yield
    finally:
        _LISTENER.reset(before)
        logger.removeHandler(handler)


class Worker:
    """Does work in threads, and hands over what came of it; a failure is handed over like a result.

    Results are handed over in the thread that did the work, one at a time among all workers.

    Parameters
    ----------
    name
        Of its threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle = threading.Condition()
        self._busy = 0
        self._outdated = threading.Event()

    def start[T](
        self,
        work: Callable[[], T],
        done: Callable[[T | GeozarrError], None],
        tell: Callable[[str], object] | None = None,
    ) -> None:
        """Do some work now, whatever else is being done.

        Parameters
        ----------
        tell
            Gets what the work says it waits for.
        """
        self._run(work, done, threading.Event(), 0, tell)

    def start_latest[T](
        self,
        work: Callable[[], T],
        done: Callable[[T | GeozarrError], None],
        delay: float = SECONDS_BEFORE_WORK,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        """Do some work in place of all that was asked for in this way before.

        What has not begun never does, and what comes of the rest is dropped.

        Parameters
        ----------
        delay
            Seconds to wait for something newer, as when someone types.
        tell
            As for `start`.
        """
        self._run(work, done, self._renewed(), delay, tell)

    def drop(self) -> None:
        """Take back what `start_latest` was asked for; nothing of it is handed over any more."""
        self._renewed()

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether all work was done, and handed over, within some seconds."""
        with self._idle:
            return self._idle.wait_for(lambda: self._busy == 0, timeout)

    def _renewed(self) -> threading.Event:
        with SEEN:  # what is being handed over now is handed over wholly, before or never after
            self._outdated.set()
            self._outdated = threading.Event()
            return self._outdated

    def _run[T](
        self,
        work: Callable[[], T],
        done: Callable[[T | GeozarrError], None],
        outdated: threading.Event,
        delay: float,
        tell: Callable[[str], object] | None,
    ) -> None:
        def tell_if_newest(text: str) -> None:
            with SEEN:
                if tell is not None and not outdated.is_set():
                    attempt(lambda: tell(text))

        def run() -> None:
            try:
                if not outdated.wait(delay):
                    with _telling(tell and tell_if_newest):
                        answer = attempt(work)
                    with SEEN:
                        if not outdated.is_set():
                            attempt(lambda: done(answer))
            finally:
                with self._idle:
                    self._busy -= 1
                    self._idle.notify_all()

        with self._idle:
            self._busy += 1
        threading.Thread(target=run, name=f"geozarr-{self._name}", daemon=True).start()
