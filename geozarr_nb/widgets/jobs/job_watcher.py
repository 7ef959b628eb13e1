"""What comes from jobs, as it comes: the states of all of them, and the log of one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar, NamedTuple

from geozarr_nb.api import jobs
from geozarr_nb.backends.base import JobState
from geozarr_nb.errors import GeozarrError
from geozarr_nb.settings import Settings
from geozarr_nb.widgets.blocks.background import attempt, sentence

SECONDS_BETWEEN_BEATS = 0.25
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
LINES = 200


class Subscriber(NamedTuple):
    """Who is told of jobs, in a thread.

    Attributes
    ----------
    take
        Is given the states that changed, by the jobs' names, and what keeps the backend from being seen, if anything
        does.
    fail
        Is given the error that ended `take`; neither is called again.
    """

    take: Callable[[Mapping[str, JobState], str], None]
    fail: Callable[[GeozarrError], None]


class JobWatcher:
    """Watches the jobs of one backend in one thread, and beats in another.

    At each beat every subscriber is given the states that changed since its last one (all of them at its first). A
    job that changed often meanwhile is there once, one that was deleted as it was last, with `is_gone`.
    """

    _feeds: ClassVar[dict[str, JobWatcher]] = {}
    _mutex: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._stop = threading.Event()
        self._known: dict[str, JobState] = {}
        self._changed: dict[Subscriber, dict[str, JobState]] = {}
        self._lock = threading.Lock()
        self._trouble = ""
        self._pause = SHORTEST_PAUSE

    @classmethod
    def subscribe(cls, backend: str | None, subscriber: Subscriber) -> Callable[[], None]:
        """Have a subscriber told of a backend's jobs; returns what ends that."""
        name = backend or Settings.load().backend
        with cls._mutex:
            feed = cls._feeds.get(name)
            is_new = feed is None
            feed = feed or cls._feeds.setdefault(name, cls(name))
            with feed._lock:
                feed._changed[subscriber] = dict(feed._known)
            if is_new:
                feed._start()
        return lambda: feed._leave(subscriber)

    def _leave(self, subscriber: Subscriber) -> None:
        with self._mutex:
            with self._lock:
                self._changed.pop(subscriber, None)
                if self._changed:
                    return
            self._stop.set()
            if self._feeds.get(self._backend) is self:
                del self._feeds[self._backend]

    def _start(self) -> None:
        for work in (self._watch, self._beat):
            threading.Thread(target=work, name=f"geozarr-feed{work.__name__}", daemon=True).start()

    def _watch(self) -> None:
        while not self._stop.is_set():
            error = attempt(self._follow)
            if error is not None:
                self._trouble = f"the jobs cannot be seen now: {sentence(error)}"
            self._stop.wait(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _follow(self) -> None:
        if self._trouble:
            # A watch says nothing as long as there are no jobs: that it would is seen by asking for them. What was
            # deleted meanwhile a new watch never knew.
            there = {job.name for job in jobs.list_jobs(self._backend).jobs}
            for state in [state for name, state in self._known.items() if name not in there]:
                self._take(replace(state, is_gone=True))
            self._trouble, self._pause = "", SHORTEST_PAUSE
        for state in jobs.watch_jobs(self._stop, self._backend):
            self._take(state)

    def _take(self, state: JobState) -> None:
        with self._lock:
            if state.is_gone:
                self._known.pop(state.name, None)
            else:
                self._known[state.name] = state
            for changed in self._changed.values():
                changed[state.name] = state

    def _beat(self) -> None:
        while not self._stop.wait(SECONDS_BETWEEN_BEATS):
            with self._lock:
                batches = dict(self._changed)
                self._changed = {subscriber: {} for subscriber in batches}
            for subscriber, batch in batches.items():
                self._tell(subscriber, batch)

    def _tell(self, subscriber: Subscriber, batch: Mapping[str, JobState]) -> None:
        error = attempt(lambda: subscriber.take(batch, self._trouble))
        if error is not None:
            # Others go on; this one would fail at every beat.
            self._leave(subscriber)
            attempt(lambda: subscriber.fail(error))


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
        with self._lock:
            self._stop.set()
            self._lines.clear()
            self.count += 1

    def _run(self, name: str, backend: str | None, stop: threading.Event) -> None:
        def read() -> None:
            for line in jobs.get_job(name, backend).logs(follow=True, tail=LINES, stop=stop):
                self._add(line, stop)

        error = attempt(read)
        if error is not None:
            self._add(f"the log cannot be read: {sentence(error)}", stop)

    def _add(self, line: str, stop: threading.Event) -> None:
        with self._lock:
            if not stop.is_set():
                self._lines.append(line)
                self.count += 1
