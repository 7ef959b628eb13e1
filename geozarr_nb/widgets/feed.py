"""The states of a backend's jobs, brought to every widget that shows them: one watch, however many look."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import geozarr_nb as gz
from geozarr_nb.widgets.choice import sentence

if TYPE_CHECKING:
    from geozarr_nb.backends.base import JobState

SECONDS_BETWEEN_BEATS = 0.25
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 30.0

Take = Callable[[Mapping[str, "JobState"], str], None]


class Feed:
    """Watches the jobs of one backend in one thread, and beats in another.

    At each beat every subscriber is given the states that changed since its last one (all of them at its first), by
    the jobs' names, and what keeps the backend from being seen, if anything does. A job that changed often meanwhile
    is there once.
    """

    _feeds: ClassVar[dict[str | None, Feed]] = {}
    _mutex: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, backend: str | None) -> None:
        self._backend = backend
        self._stop = threading.Event()
        self._known: dict[str, JobState] = {}
        self._changed: dict[Take, dict[str, JobState]] = {}
        self._lock = threading.Lock()
        self._trouble = ""

    @classmethod
    def subscribe(cls, backend: str | None, take: Take) -> Callable[[], None]:
        """Have a backend's jobs brought to `take`, in a thread; returns what ends that."""
        with cls._mutex:
            feed = cls._feeds.get(backend)
            is_new = feed is None
            feed = feed or cls._feeds.setdefault(backend, cls(backend))
            with feed._lock:
                feed._changed[take] = dict(feed._known)
            if is_new:
                feed._start()
        return lambda: feed._leave(take)

    def _leave(self, take: Take) -> None:
        with self._mutex:
            with self._lock:
                self._changed.pop(take, None)
                if self._changed:
                    return
            self._stop.set()
            if self._feeds.get(self._backend) is self:
                del self._feeds[self._backend]

    def _start(self) -> None:
        for work in (self._watch, self._beat):
            threading.Thread(target=work, name=f"geozarr-feed{work.__name__}", daemon=True).start()

    def _watch(self) -> None:
        pause = SHORTEST_PAUSE
        while not self._stop.is_set():
            try:
                for state in gz.watch_jobs(self._stop, self._backend):
                    self._keep(state)
                    pause = SHORTEST_PAUSE
            except gz.GeozarrError as error:
                self._trouble = f"the jobs cannot be seen now: {sentence(error)}"
                self._stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _keep(self, state: JobState) -> None:
        with self._lock:
            self._trouble = ""
            self._known[state.name] = state
            for changed in self._changed.values():
                changed[state.name] = state

    def _beat(self) -> None:
        while not self._stop.wait(SECONDS_BETWEEN_BEATS):
            with self._lock:
                batches = dict(self._changed)
                self._changed = {take: {} for take in batches}
            for take, batch in batches.items():
                take(batch, self._trouble)
