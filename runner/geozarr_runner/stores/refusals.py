"""What a server answered, as each library's error tells it: one table for http, S3, Google, Azure and the others.

A library says the status of an answer in a place of its own, and what the server calls its refusal in another one, or
in words only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

UNAUTHENTICATED, FORBIDDEN, NOT_SATISFIABLE = 401, 403, 416
# Packages whose errors are about a server, whatever they are called.
_OF_CLIENTS = frozenset(
    {"aiohttp", "botocore", "aiobotocore", "gcsfs", "adlfs", "azure", "google", "requests", "urllib3", "httpx"}
)
# gcsfs keeps no status of a refusal, only its name in front of the address, and the server's words behind it.
_GCSFS_REFUSAL = re.compile(r"Forbidden: \S*\s*(?P<words>.*)", re.DOTALL)
# Google's words for who lacks the right to read an object; it does not tell those whether there is one.
_GOOGLE_LACKS_RIGHT = re.compile(r"does not have storage\.objects\.\w+ access|\(or it may not exist\)")


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer that was an error.

    Attributes
    ----------
    status
        As HTTP counts.
    code
        What the server calls its error; empty where it gives it no name.
    """

    status: int
    code: str = ""

    @property
    def is_refusal(self) -> bool:
        """Return whether access was refused, to everyone or to those without credentials."""
        return self.status in (UNAUTHENTICATED, FORBIDDEN)

    @property
    def is_passing(self) -> bool:
        """Return whether the same request may get another answer a moment later."""
        return self.status == 429 or self.status >= 500


def answer_of(error: BaseException | None) -> Answer | None:
    """Return what the server answered; None where an error is about no answer."""
    for link in chain(error):
        for read in _TABLE:
            if (found := read(link)) is not None:
                return found
    is_of_disk = isinstance(error, OSError) and error.errno is not None
    return Answer(FORBIDDEN) if isinstance(error, PermissionError) and not is_of_disk else None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def is_of_client(error: BaseException) -> bool:
    """Return whether an error is one of a library that speaks with servers."""
    return _package(error) in _OF_CLIENTS


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _of_botocore(error: BaseException) -> Answer | None:
    response = getattr(error, "response", None)
    if not isinstance(response, Mapping):
        return None
    status = _number(_at(response, "ResponseMetadata", "HTTPStatusCode"))
    return None if status is None else Answer(status, str(_at(response, "Error", "Code") or ""))


def _of_aiohttp(error: BaseException) -> Answer | None:
    status = _number(getattr(error, "status", None))
    return None if status is None else Answer(status, str(getattr(error, "refusal", "")))


def _of_azure(error: BaseException) -> Answer | None:
    """Read the errors of azure-core, which adlfs passes on."""
    status = _number(getattr(error, "status_code", None))
    if status is None:
        return None
    code = getattr(error, "error_code", None)
    return Answer(status, str(code.value if isinstance(code, Enum) else code or ""))


def _of_response(error: BaseException) -> Answer | None:
    """Read the errors of requests and httpx, which have the answer itself."""
    status = _number(getattr(getattr(error, "response", None), "status_code", None))
    return None if status is None else Answer(status)


def _of_google(error: BaseException) -> Answer | None:
    """Read the errors of gcsfs and of Google's own libraries."""
    # Others have a code that no server answered: aiohttp gives what it cannot parse the 400 that a server would answer.
    status = _number(getattr(error, "code", None)) if _package(error) in ("gcsfs", "google") else None
    if status is not None:
        return _told_by_google(status, str(getattr(error, "message", "")))
    told = _GCSFS_REFUSAL.match(str(error)) if isinstance(error, OSError) and error.errno is None else None
    return None if told is None else _told_by_google(FORBIDDEN, told["words"])


def _told_by_google(status: int, words: str) -> Answer:
    if status not in (UNAUTHENTICATED, FORBIDDEN):
        return Answer(status)
    if _GOOGLE_LACKS_RIGHT.search(words):  # without an account it is refused with 401, and means the same
        return Answer(FORBIDDEN)
    return Answer(status, " ".join(words.split()) if status == FORBIDDEN else "")


_TABLE: tuple[Callable[[BaseException], Answer | None], ...] = (
    _of_botocore,
    _of_aiohttp,
    _of_azure,
    _of_response,
    _of_google,
)


def _at(document: Mapping[str, Any], *keys: str) -> Any:
    found: Any = document
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _number(said: Any) -> int | None:
    """Return a status; None for what is none, such as the code of a process."""
    if isinstance(said, bool) or not isinstance(said, int | str):
        return None
    text = str(int(said)) if isinstance(said, int) else said
    return int(text) if re.fullmatch("[1-5][0-9]{2}", text) else None
