"""Text from elsewhere, made fit to be shown: a name or message never moves a cursor, ends a line or turns its order."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

CONVERTERS_LINE = "  | "  # stands before what the converter said
# Controls, formats (bidirectional marks among them), lone surrogates, private use, line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""Return a text in one line, in which what cannot be seen is written as an escape.

    Examples
    --------
    >>> printable("tile\x1b[2J\u202e.zarr")
    'tile\\x1b[2J\\u202e.zarr'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in _HIDDEN else letter
        for letter in text
    )


def printable_lines(text: str) -> str:
    """Return a text whose lines are ours, each of them printable; a tab becomes blanks."""
    return "\n".join(printable(line.expandtabs()) for line in text.split("\n"))


def printable_json(document: Any) -> str:
    r"""Return a document as JSON for a terminal: exactly what it says, with what cannot be seen in JSON's own escapes.

    Examples
    --------
    >>> printable_json({"name": "caf\u00e9\u202e"})
    '{\n  "name": "caf\u00e9\\u202e"\n}'
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str)
    return "".join(
        json.dumps(letter)[1:-1] if letter != "\n" and unicodedata.category(letter) in _HIDDEN else letter
        for letter in text
    )
