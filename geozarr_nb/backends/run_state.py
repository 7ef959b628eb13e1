"""The state of a run, computed from its events; each event is read once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from geozarr_nb.backends.base import Failure, Progress
from geozarr_nb.errors import LaterVersion
from geozarr_nb.ownership import open_own
from geozarr_runner.events import LATER, Event, parse_all


class RunState:
    """Stage, progress, result and failure of a run, from the events so far."""

    def __init__(self) -> None:
        self.stage: str | None = None
        self.progress: Progress | None = None
        self.result_event: Event | None = None
        self.failure: Failure | None = None

    @property
    def result(self) -> dict[str, Any] | None:
        """Fields of the `result` event; None before it has come."""
        return None if self.result_event is None else dict(self.result_event.fields)

    def feed(self, events: Iterable[Event]) -> None:
        """Add the next events."""
        for event in events:
            match event.type:
                case "run":
                    self.stage = self.progress = None  # an earlier run of the attempt is over
                case "stage" if event.get("state") == "started":
                    self.stage, self.progress = event.get("stage"), None
                case "progress":
                    self.progress = Progress(event["done"], event.get("total"), event.get("unit", ""))
                case "result":
                    self.result_event = event
                case "error":
                    self.failure = Failure.of(event)
                case kind if kind == LATER and self.failure is None:
                    self.failure = not_understood()


def not_understood() -> Failure:
    """Return the failure of a run whose events a later version wrote, so that they cannot be read here."""
    error = LaterVersion("what the run said")
    return Failure(error.code, error.message, remedy=error.remedy, exit_code=error.exit_code)


def read_events(path: Path, offset: int) -> tuple[list[Event], int]:
    """Return the events of a file from an offset on, and the next offset; a half-written last line is read later."""
    try:
        with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
            file.seek(offset)
            content = file.read()
    except FileNotFoundError:
        return [], offset
    whole = content[: content.rfind(b"\n") + 1]
    return list(parse_all(whole.decode("utf-8", errors="replace").split("\n"))), offset + len(whole)
