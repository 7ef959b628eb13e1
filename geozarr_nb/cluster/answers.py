"""Answers: what an API server sends, told apart from what proxies, login pages and broken lines send in its place."""

from __future__ import annotations

import json
from typing import Any

from geozarr_nb.cluster.kubeconfig import words
from geozarr_nb.errors import ClusterRefused

Object = dict[str, Any]
LOOK_IN_BETWEEN = (
    "see what answers there: kubectl get --raw /readyz; a proxy (HTTPS_PROXY) or a login page may be in between"
)


def document(content: bytes, server: str) -> Object:
    """Return the document of an answer.

    Raises
    ------
    ClusterRefused
        It is none; `server`, which is named with its context, may be another one.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise no_answer(content, server) from error
    if not isinstance(found, dict):
        raise no_answer(content, server)
    return found


def page(found: Object, server: str) -> tuple[list[Object], str, str]:
    """Return the objects of a page of a list, the version of the list, and where it goes on.

    Raises
    ------
    ClusterRefused
        It is no list.
    """
    items, metadata = found.get("items", ()), found.get("metadata") or {}
    if "items" not in found or not isinstance(items, list | None) or not isinstance(metadata, dict):
        raise no_answer(json.dumps(found).encode(), server)
    things = [each for each in objects(items) if _is_object(each)]
    return things, str(metadata.get("resourceVersion") or ""), str(metadata.get("continue") or "")


def change(line: bytes, server: str) -> Object:
    """Return the change that a line of a watch tells: its `type`, and an `object` that has a name or is an error.

    Raises
    ------
    ClusterRefused
        It tells none.
    """
    found = document(line, server)
    kind, thing = found.get("type"), found.get("object")
    is_bookmark = kind == "BOOKMARK" and isinstance(thing, dict) and isinstance(thing.get("metadata"), dict)
    is_error = kind == "ERROR" and isinstance(thing, dict)
    # A bookmark has a version only.
    if isinstance(kind, str) and (is_error or is_bookmark or _is_object(thing)):
        return found
    raise no_answer(line, server)


def no_answer(content: bytes, server: str, status: int = 200) -> ClusterRefused:
    """Return the error for what no API server sends; what is in between may be gone at the next try."""
    said = words(content[:200].decode(errors="replace")) if content.strip() else "nothing"
    failure = ClusterRefused(
        f"what answers (HTTP {status}) is no API server: {said}", given=server, remedy=LOOK_IN_BETWEEN
    )
    failure.retryable = True  # type: ignore[misc]
    return failure


def objects(entries: object) -> list[Object]:
    """Return the documents among the entries of a list; none of what is no list."""
    return [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []


def code_of(error: object) -> int:
    """Return the code that an error of a watch has; 500 where it has none."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 500


def _is_object(thing: object) -> bool:
    """Return whether something is an object of a cluster: it has a name."""
    metadata = thing.get("metadata") if isinstance(thing, dict) else None
    return isinstance(metadata, dict) and isinstance(metadata.get("name"), str)
