"""A long list in pages, so that a notebook never holds more of it than is looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import ipywidgets

from geozarr_nb.widgets.blocks.panel import button, change, lines, status


class Pages:
    """Which part of a list is seen, with buttons for the others; they are there only where there are others.

    Parameters
    ----------
    size
        Things on a page.
    name
        What they are called.
    back, on
        Text of the buttons that lead to the first things of the list and to the last.
    turned
        Is called when a button was pressed.

    Attributes
    ----------
    number
        The page that is seen, from 0; may be set.
    parts
        The widgets, in their order.
    """

    def __init__(self, size: int, name: str, back: str, on: str, turned: Callable[[], None]) -> None:
        self.number = 0
        self._size, self._name, self._turned = size, name, turned
        self._back, self._on = button(back, "Shows the page before"), button(on, "Shows the next page")
        self._place = ipywidgets.HTML()
        self._back.on_click(lambda _: self._turn(-1))
        self._on.on_click(lambda _: self._turn(1))
        self.parts = (self._back, self._place, self._on)

    def of[T](self, things: Sequence[T], empty: str = "") -> Sequence[T]:
        """Return what of a list is on the page; `empty` is said where there is nothing in it."""
        pages = max(ceil(len(things) / self._size), 1)
        self.number = min(max(self.number, 0), pages - 1)
        first = self.number * self._size
        seen = things[first : first + self._size]
        place = f"{self._name} {first + 1:,} to {first + len(seen):,} of {len(things):,}" if seen else empty
        change(self._place, value=status(lines([place] if place else [])))
        for each, is_last in ((self._back, self.number == 0), (self._on, self.number == pages - 1)):
            change(each, disabled=is_last)
            change(each.layout, display="none" if pages == 1 else None)
        return seen

    def _turn(self, step: int) -> None:
        self.number += step
        self._turned()
