"""Signals that end a run.

A signal interrupts a run at any moment but one: from the step that gives an output its name until the run has told its
result. Interrupted in between, the run would leave a whole output and say that there is none.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from geozarr_runner.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_is_held = False
_came: list[int] = []


def listen() -> None:
    """Let the first signal raise `Interrupted` in the main thread; the cleaning that follows is not interrupted."""
    for number in SIGNALS:
        signal.signal(number, _hear)


def ignore() -> None:
    """Pass over signals: how the run ended is decided."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def naming() -> Iterator[None]:
    """Hold signals back while an output gets its name, and after that until `release`.

    Where the naming fails, a signal that came meanwhile changes nothing: the run ends for its own reason.
    """
    global _is_held
    _is_held = True
    try:
        yield
    except BaseException:
        _is_held = False
        _came.clear()
        raise


def release() -> None:
    """Hear signals again, first of all one that was held back.

    Raises
    ------
    Interrupted
    """
    global _is_held
    _is_held = False
    if _came:
        _interrupt(_came.pop())


def _hear(number: int, frame: FrameType | None) -> None:
    if _is_held:
        _came.append(number)
    else:
        _interrupt(number)


def _interrupt(number: int) -> None:
    ignore()
    name = signal.Signals(number).name
    raise Interrupted("the run was interrupted; nothing half-written is left", given=name, remedy="run it again")
