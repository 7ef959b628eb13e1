"""Keys of stored objects: the one place that says which of them may become a path on this machine.

A product's metadata, an object store's listing and an archive's table of contents are not trusted: what they name is
written, linked and read below one folder, and nowhere else.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from geozarr_runner.errors import ProductBroken
from geozarr_runner.text.printable import printable

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
    if not (key.isascii() and key.isprintable()) and any(unicodedata.category(letter) == "Cc" for letter in key):
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
    refuse(key)
    return folder / key


def refuse(key: str) -> None:
    """Refuse a key that cannot be a path below a folder.

    Raises
    ------
    ProductBroken
    """
    if (wrong := flaw(key)) is not None:
        raise ProductBroken(
            f"the name of a stored object cannot be a path: {wrong}",
            given=printable(key)[:200],
            remedy="nothing was written; tell whoever publishes it",
        )


def refuse_clashes(keys: Iterable[str], *, folded: bool = False) -> None:
    """Refuse keys that cannot all be files below one folder.

    Parameters
    ----------
    folded
        Whether the folder takes names for the same that differ in upper and lower case, or in how accents are written.

    Raises
    ------
    ProductBroken
        One of them cannot be a path, is a folder of another, or is the same as another there.
    """
    seen: dict[str, str] = {}
    for key in keys:
        refuse(key)
        name = unicodedata.normalize("NFC", unicodedata.normalize("NFKD", key).casefold()) if folded else key
        if (other := seen.setdefault(name, key)) is not key:
            raise _clash("two stored objects would be one file here", f"{other}, {key}")
    for name, key in seen.items():
        above = name.rpartition("/")[0]
        while above:
            if above in seen:
                raise _clash("a stored object would be a file and a folder", f"{seen[above]}, {key}")
            above = above.rpartition("/")[0]


def folds(folder: Path) -> bool:
    """Return whether a folder, whose name has letters, takes names for the same that differ in upper and lower case."""
    try:
        return folder.with_name(folder.name.swapcase()).samefile(folder)
    except OSError:
        return False


def _clash(message: str, given: str) -> ProductBroken:
    return ProductBroken(
        message, given=printable(given)[:200], remedy="nothing was written; fetch it as an archive: archive=True"
    )
