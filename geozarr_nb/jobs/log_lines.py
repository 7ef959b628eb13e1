"""The log of a job as lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from geozarr_runner.events import Event, describe


class Lines(list[str]):
    """Lines of a log, which a notebook shows as text."""

    def __repr__(self) -> str:
        return "\n".join(self)


def lines_of(events: Iterable[Event]) -> Iterator[str]:
    """Yield the lines of a log, as its events come."""
    for event in events:
        if text := describe(event):
            yield from text.splitlines()


def last(lines: list[str], count: int | None) -> list[str]:
    """Return the last lines, as many as were asked for; None is all of them."""
    if count is None:
        return lines
    return lines[-count:] if count > 0 else []
