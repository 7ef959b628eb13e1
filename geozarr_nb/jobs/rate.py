"""How fast something goes: what was measured in the last seconds, and no guess."""

from __future__ import annotations

from collections import deque


class Rate:
    """A speed, from what was read of it in the last seconds.

    Parameters
    ----------
    window
        Seconds that readings count.
    evidence
        Seconds that they have to span before they tell anything.
    """

    def __init__(self, window: float, evidence: float) -> None:
        self._window, self._evidence = window, evidence
        self._readings: deque[tuple[float, int]] = deque()

    def begin(self) -> None:
        """Forget what was read: something else is measured from now on."""
        self._readings.clear()

    def take(self, moment: float, done: int) -> None:
        """Take in how much was done at a moment, in seconds of any clock that goes on."""
        self._readings.append((moment, done))
        while len(self._readings) > 2 and moment - self._readings[0][0] > self._window:
            self._readings.popleft()

    @property
    def last(self) -> tuple[float, int] | None:
        """The last reading: when, and how much was done."""
        return self._readings[-1] if self._readings else None

    @property
    def value(self) -> float | None:
        """Units a second, from the first to the last reading that counts; None with too little evidence."""
        if not self._readings:
            return None
        (begun, before), (ended, after) = self._readings[0], self._readings[-1]
        seconds, gained = ended - begun, after - before
        return gained / seconds if seconds >= self._evidence and gained > 0 else None
