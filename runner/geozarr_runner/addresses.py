"""Addresses: which are paths of this machine, and what of them may be shown."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit


def local_path(url: str) -> Path | None:
    """Return the path behind a local address (`file://` or none), or None."""
    if url.startswith("file://"):
        url = url.removeprefix("file://")
    elif "://" in url or "::" in url:
        return None
    return Path(url).expanduser().absolute()


def redact(url: str) -> str:
    """Return an address without what may be secret in it: user, password and query."""
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # no address at all; what follows a question mark may be secret all the same
        return url.partition("?")[0]
    netloc = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, netloc, parts.path, "", ""))
