"""Speed of a stage, measured over the last seconds."""

from __future__ import annotations

from collections import deque


class Rate:
    """A speed, computed from the readings of the last seconds.

    Parameters
    ----------
    window
        Seconds after which a reading is dropped.
    evidence
        Seconds that the readings have to span before there is a speed.
    """

    def __init__(self, window: float, evidence: float) -> None:
        self._window, self._evidence = window, evidence
        self._readings: deque[tuple[float, int]] = deque()

    def begin(self) -> None:
        """Drop all readings, since another stage begins."""
        self._readings.clear()

    def take(self, moment: float, done: int) -> None:
        """Add a reading: the amount that was done at a moment, in seconds of any monotonic clock."""
        self._readings.append((moment, done))
        while len(self._readings) > 2 and moment - self._readings[0][0] > self._window:
            self._readings.popleft()

    @property
    def last(self) -> tuple[float, int] | None:
        """The last reading as (moment, done); None if there is none."""
        return self._readings[-1] if self._readings else None

    @property
    def value(self) -> float | None:
        """Units per second, from the first to the last reading; None if the readings span too little time."""
        if not self._readings:
            return None
        (begun, before), (ended, after) = self._readings[0], self._readings[-1]
        seconds, gained = ended - begun, after - before
        return gained / seconds if seconds >= self._evidence and gained > 0 else None
