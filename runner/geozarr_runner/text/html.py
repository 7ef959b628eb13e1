"""HTML for notebooks: a few escaped building blocks, without scripts and without state."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape as escape_markup
from typing import Any, Protocol

from geozarr_runner.text.printable import printable_lines

_TABLE = "border-collapse:collapse;font-size:90%"
_ON_THE_WEB = re.compile(r"https?://[^\s/][^\s]*")
_CELL = "text-align:left;padding:1px 10px 1px 0;vertical-align:top"


class Html(str):
    """A text that is HTML already; every other is escaped."""

    __slots__ = ()


class Shown(Protocol):
    """Something that a notebook shows as text and as HTML."""

    def _repr_html_(self) -> str: ...


class Views:
    """What a front end shows of a thing in place of its HTML, where somebody above makes that: a widget, say.

    Attributes
    ----------
    make
        Returns the view of a thing; None where there is none.
    """

    make: Callable[[object], Any] = staticmethod(lambda _: None)


def escape(text: str) -> str:
    """Return a text for HTML: no markup, and nothing that turns the order of what follows."""
    return escape_markup(printable_lines(text))


def bundle(thing: Shown) -> dict[str, Any]:
    """Return all forms of a thing by their media type: text, HTML, and that of its view where it has one."""
    view = Views.make(thing)
    shown: dict[str, Any] = {} if view is None else view._repr_mimebundle_()
    return {**shown, "text/html": thing._repr_html_(), "text/plain": repr(thing)}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; every cell that is no `Html` is escaped."""
    first = "".join(f'<th style="{_CELL}">{escape(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{markup(cell)}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f'<table style="{_TABLE}"><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table>'


def facts(values: Mapping[str, str]) -> str:
    """Return names and values in one line each, leaving out what is empty."""
    return "".join(
        f"<div>{escape(name)}: <code>{markup(value)}</code></div>" for name, value in values.items() if value
    )


def markup(text: str) -> str:
    """Return a text as HTML."""
    return text if isinstance(text, Html) else escape(str(text))


def link(address: str) -> Html:
    """Return an address as HTML, to be clicked where it is a page on the web: no other kind runs or opens anything."""
    if not _ON_THE_WEB.fullmatch(address):
        return Html(escape(address))
    return Html(f'<a href="{escape(address)}" rel="noopener noreferrer">{escape(address)}</a>')


def block(title: str, *parts: str) -> str:
    """Return a titled block of parts that are HTML already."""
    return f"<div><strong>{escape(title)}</strong>{''.join(parts)}</div>"
