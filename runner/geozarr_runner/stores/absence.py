"""What a store has to answer before something of it counts as absent.

Absent is what a store says it does not have, as long as its root's document can be read. Servers where nobody may list
answer 403 for what is not there, and for what they refuse: such an answer counts as absence only where the root's
document is read with success after it, and where it is no complaint about credentials or clocks.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping

from geozarr_runner.stores.refusals import FORBIDDEN, answer_of

# The document of a product's root, whatever its format: one of them is there as long as the product is.
ROOTS = ("zarr.json", ".zmetadata", ".zgroup")
GONE = frozenset({404, 410})
# What a refusal may be called that says nothing of why; every other code is a complaint, an expired token say.
_SAYS_NOTHING = frozenset({"", "403", "accessdenied", "forbidden"})
_CODE = re.compile(rb'<Code>\s*([^<]{1,100}?)\s*</Code>|"(?:code|Code|error)"\s*:\s*"([^"]{1,100})"')
_CHALLENGE = re.compile(r'error="([^"]{1,100})"')


def code_in(body: bytes, headers: Mapping[str, str]) -> str:
    """Return what a web server calls its refusal; empty where it gives it no name."""
    found = _CODE.search(body)
    if found is not None:
        return (found[1] or found[2]).decode("utf-8", errors="replace")
    challenge = _CHALLENGE.search(headers.get("WWW-Authenticate", ""))
    return headers.get("x-ms-error-code", "") or (challenge[1] if challenge is not None else "")


def refusal_code(error: BaseException | None) -> str | None:
    """Return what a store calls its refusal, empty where it gives it no name; None where the error is none."""
    answer = answer_of(error)
    return answer.code if answer is not None and answer.status == FORBIDDEN else None


def may_be_absent(error: BaseException | None) -> bool:
    """Return whether a refusal may be a server's word for what is not there."""
    code = refusal_code(error)
    return code is not None and re.sub("[ _-]", "", code).lower() in _SAYS_NOTHING


def is_absent(error: FileNotFoundError) -> bool:
    """Return whether a filesystem's "not found" is its server's too: fsspec says so of every failure over http."""
    answer = answer_of(error)
    return answer is None or answer.status in GONE


class Confirmation:
    """Asks a question again for each who waits for an answer to it, and once for all who wait at the same time.

    Parameters
    ----------
    ask
        Asks it.
    """

    def __init__(self, ask: Callable[[], Awaitable[bool]]) -> None:
        self._ask = ask
        self._lock = asyncio.Lock()
        self._begun = 0
        self._ended = 0
        self._answer = False

    async def now(self) -> bool:
        """Return an answer to a question that was asked after this call."""
        before = self._begun
        async with self._lock:
            if self._ended <= before:
                self._begun += 1
                self._answer = await self._ask()
                self._ended = self._begun
            return self._answer
