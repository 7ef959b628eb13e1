"""Keys of stored objects: the one place that says which of them may become a path on this machine.

A product's metadata, an object store's listing and an archive's table of contents are not trusted: what they name is
written, linked and read below one folder, and nowhere else.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from geozarr_runner.errors import ProductBroken
from geozarr_runner.text import printable

LONGEST_PART = 255  # bytes of one name, on every file system that we know
LONGEST_KEY = 4096


def flaw(key: str) -> str | None:
    """Return why a key cannot be a path below a folder; None where it can.

    Examples
    --------
    >>> flaw("measurements/r10m/b02/0.0")
    >>> flaw("b02/../../.bashrc")
    'it has the part ".."'
    """
    if not key:
        return "it is empty"
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return "it is no text"
    if any(unicodedata.category(letter) == "Cc" for letter in key):
        return "it has control characters"
    if len(encoded) > LONGEST_KEY:
        return "it is too long"
    if key.startswith("/"):
        return "it begins at the root"
    for part in key.split("/"):
        if part in ("", ".", ".."):
            return f'it has the part "{part}"'
        if len(part.encode()) > LONGEST_PART:
            return "a part of it is too long"
        if "\\" in part:
            return "it has a backslash"
    return None


def inside(folder: Path, key: str) -> Path:
    """Return the path of an object below a folder; the links on the way are not looked at.

    Raises
    ------
    ProductBroken
        It would lie elsewhere, or cannot be a path.
    """
    if (wrong := flaw(key)) is not None:
        raise ProductBroken(
            f"the name of a stored object cannot be a path: {wrong}",
            given=printable(key)[:200],
            remedy="nothing was written; tell whoever publishes it",
        )
    return folder / key
