"""HTML for notebooks: a few escaped building blocks, without scripts and without state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

_TABLE = "border-collapse:collapse;font-size:90%"
_CELL = "text-align:left;padding:1px 10px 1px 0;vertical-align:top"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; every cell is escaped."""
    first = "".join(f'<th style="{_CELL}">{escape(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(str(cell))}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f'<table style="{_TABLE}"><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table>'


def facts(values: Mapping[str, str]) -> str:
    """Return names and values in one line each, leaving out what is empty."""
    return "".join(
        f"<div>{escape(name)}: <code>{escape(value)}</code></div>" for name, value in values.items() if value
    )


def block(title: str, *parts: str) -> str:
    """Return a titled block of parts that are HTML already."""
    return f"<div><strong>{escape(title)}</strong>{''.join(parts)}</div>"
