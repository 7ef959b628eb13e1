"""How fast something goes, once there is evidence for it; never a guess."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from geozarr_runner.events import human_bytes

if TYPE_CHECKING:
    from geozarr_nb.backends.base import JobState

SECONDS_OF_RATE = 8.0
SHORTEST_EVIDENCE = 2.0
LONGEST_SILENCE = 10.0


class Pace:
    """The speed of a job's stage, from what was read of its progress in the last seconds."""

    def __init__(self) -> None:
        self._stage: tuple[int, str | None, str] | None = None
        self._readings: deque[tuple[float, int]] = deque()
        self._total: int | None = None
        self._unit = ""

    def take(self, state: JobState, now: float) -> None:
        """Take in a state as it was at a moment, in seconds of any clock that goes on."""
        progress = state.progress
        if progress is None or state.is_finished:
            self._stage = None
            self._readings.clear()
            return
        stage = (state.attempt, state.stage, progress.unit)
        if stage != self._stage:
            self._stage = stage
            self._readings.clear()
        self._total, self._unit = progress.total, progress.unit
        if not self._readings or self._readings[-1][1] != progress.done:
            self._readings.append((now, progress.done))
        while len(self._readings) > 2 and now - self._readings[0][0] > SECONDS_OF_RATE:
            self._readings.popleft()

    def rate(self, now: float) -> float | None:
        """Return units a second; None with too little evidence, or when nothing has come for a while."""
        if len(self._readings) < 2 or now - self._readings[-1][0] > LONGEST_SILENCE:
            return None
        seconds = self._readings[-1][0] - self._readings[0][0]
        gained = self._readings[-1][1] - self._readings[0][1]
        return gained / seconds if seconds >= SHORTEST_EVIDENCE and gained > 0 else None

    def text(self, now: float) -> str:
        """Return rate and time left in a few words; empty without evidence."""
        rate = self.rate(now)
        if rate is None:
            return ""
        shown = f"{human_bytes(rate)}/s" if self._unit == "bytes" else ""
        left = ""
        if self._total is not None and self._total > self._readings[-1][1]:
            left = f"{duration((self._total - self._readings[-1][1]) / rate)} left in this stage"
        return ", ".join(filter(None, [shown, left]))


def duration(seconds: float) -> str:
    """Return a time in the largest unit that suits: 45 s, 12 min, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
