"""One file of the state folder: written whole or not at all, and read by its owner alone. Standard library only."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geozarr_nb.errors import LaterVersion, StateUnusable
from geozarr_nb.ownership import open_own, read_own

SCHEMA_VERSION = 1
_NOT_UNDERSTOOD = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


def is_there(path: Path) -> bool:
    """Return whether a path exists; False if this account may not look."""
    return os.path.exists(path)  # noqa: PTH110  never raises


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if there is no such file.

    Raises
    ------
    StateUnusable
        It is not this account's alone, or holds no object.
    LaterVersion
        It holds one in a form of a later version.
    """
    try:
        content = read_own(path, alone=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with understood(path):
        document = json.loads(content)
        later = document.get("v", SCHEMA_VERSION) > SCHEMA_VERSION
    if later:
        raise LaterVersion("the job", given=path)
    return dict(document)


def check_version(path: Path) -> None:
    """Check that this version can read a file.

    Raises
    ------
    StateUnusable, LaterVersion
    """
    read_json(path)


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Turn an error about the content of a file into a `StateUnusable`."""
    try:
        yield
    except (LaterVersion, StateUnusable):
        raise
    except _NOT_UNDERSTOOD as error:  # among them InvalidRequest, which is a ValueError: the file is no request
        raise StateUnusable(
            "a file of the job cannot be understood: it is damaged, or nothing of this package's",
            given=path,
            remedy=f"remove the job's folder, and submit again: {path.parent}",
        ) from error


@contextmanager
def written(documents: Mapping[Path, Mapping[str, Any]]) -> Iterator[None]:
    """Write files that only their owner may read: all of them, or none.

    The content is written under other names before the block runs; after the block the files get their names, in their
    order. So a reader sees a whole file or none. If the disk is full, the block does not run and no file appears.
    """
    drafts: dict[Path, Path] = {}
    try:
        for path, document in documents.items():
            drafts[path] = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
            descriptor = open_own(drafts[path], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=1)  # in ASCII: variables may hold bytes that are no text
        yield
        for path, draft in drafts.items():
            draft.replace(path)
    except BaseException:
        for draft in drafts.values():
            with suppress(OSError):
                draft.unlink()
        raise


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write one file in the way of `written`."""
    with written({path: document}):
        pass


def parse_time(text: str) -> datetime:
    """Return a time with its zone; a text without a zone is in UTC."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
