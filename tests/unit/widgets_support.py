"""What the tests of widgets share: a look into them, in place of a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comm
import ipywidgets
import pytest

REFLECTANCE = "/measurements/reflectance"
R20M, R60M = f"{REFLECTANCE}/r20m", f"{REFLECTANCE}/r60m"
SECONDS = 600.0  # what is waited for takes a few at most, where nothing else runs


def sent_messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the type of every message that would go to a front end from now on."""
    sent: list[str] = []

    def publish(self: Any, msg_type: str, *_: Any, **__: Any) -> None:
        sent.append(msg_type)

    monkeypatch.setattr(comm.DummyComm, "publish_msg", publish)
    return sent


def inside(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    """Yield a widget, and all that can be seen in it."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from inside(child)


def button(widget: ipywidgets.Widget, text: str) -> ipywidgets.Button:
    """Return the button that has this text."""
    return next(each for each in inside(widget) if isinstance(each, ipywidgets.Button) and text in each.description)


def field(widget: ipywidgets.Widget, label: str) -> Any:
    """Return the field that has this label."""
    return next(
        each
        for each in inside(widget)
        if not isinstance(each, ipywidgets.Button) and getattr(each, "description", "") == label
    )


def shown(widget: ipywidgets.Widget) -> str:
    """Return all HTML that can be seen."""
    return "\n".join(each.value for each in inside(widget) if isinstance(each, ipywidgets.HTML))
