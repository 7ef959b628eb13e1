"""Text from elsewhere, made fit to be shown: a name or message never moves a cursor, ends a line or turns its order."""

from __future__ import annotations

import unicodedata

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
