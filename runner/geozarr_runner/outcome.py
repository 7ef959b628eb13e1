"""How a run ended, left where an orchestrator picks it up when the run's own stream is gone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geozarr_runner.text.printable import printable

LONGEST_FIELD = 8000  # characters: Argo keeps it in an object of the cluster's, all of which have to be small
LONGEST_MESSAGE = 1000  # characters: Kubernetes cuts a container's last words off after 4096 bytes


def write_outcome(path: Path, event: Mapping[str, Any]) -> None:
    """Write a `result` or `error` event as one JSON document; a field that is too big is cut, or left out.

    Raises
    ------
    OSError
    """
    document = {name: _short(value) for name, value in event.items()}
    _write(path, json.dumps(document, default=str))


def write_last_words(path: Path, event: Mapping[str, Any]) -> None:
    """Write an `error` event as the one line `[code] message`; nothing for another event.

    Raises
    ------
    OSError
    """
    if event["type"] == "error":
        text = printable(" ".join(f"[{event['code']}] {event['message']}".split()))
        _write(path, text[:LONGEST_MESSAGE])


def _write(path: Path, text: str) -> None:
    # A run that has ended does not wait for whoever reads a FIFO: no signal would end it any more.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
        file.write(text)


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value[:LONGEST_FIELD]
    return value if len(json.dumps(value, default=str)) <= LONGEST_FIELD else None
