"""What somebody may have meant."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(given: Iterable[str], known: Iterable[str], prefix: str = "") -> str:
    """Return the question whether other names were meant; empty where no known name is like a given one.

    Parameters
    ----------
    prefix
        Text that stands before each name in the question.

    Examples
    --------
    >>> did_you_mean(["convrt"], ["convert", "inspect"])
    'did you mean convert?'
    """
    from difflib import get_close_matches  # which is loaded for a mistake only

    names = list(known)
    near = [prefix + match for name in given for match in get_close_matches(name, names, 1)]
    return f"did you mean {' and '.join(near)}?" if near else ""
