"""The client that fsspec reads web servers with: each request carries what its host may be told, answers are bounded.

It stands below fsspec, and so below zarr and whatever else reads through it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.request import getproxies

import aiohttp
from yarl import URL

from geozarr_runner.errors import ProductBroken
from geozarr_runner.stores.absence import GONE, code_in
from geozarr_runner.trust.addresses import check_number, check_redirect, redact
from geozarr_runner.trust.bounds import LARGEST_OBJECT, is_document, largest_document, too_large
from geozarr_runner.trust.credentials import Credentials, Origin, configured, harmless, origin, shown

SECONDS_TO_CONNECT = 15
OF_A_REFUSAL = 1 << 16  # bytes of an error's page that are read, so that its connection can be used again
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})|bytes=-(\d{1,18})")


MOST_LINKS = 1_000_000  # of one page
# Whatever stands around them: fsspec's own pattern takes for ever on tags that do not end.
_LINK = re.compile(r"""(?:href|HREF)=["']([^"'<>]{1,2000})|(https?://[-a-zA-Z0-9@:%_+.~#?&/=]{1,2000})""")


class Refused(aiohttp.ClientResponseError):
    """An error of a server whose page says what the server calls it."""

    refusal = ""


class CheckedResponse(aiohttp.ClientResponse):
    """An answer that is read into memory up to a bound."""

    _is_page = False

    def raise_for_status(self) -> None:
        """Raise for a status that is an error; what its page says goes with it where that was read.

        Raises
        ------
        Refused
        """
        try:
            super().raise_for_status()
        except aiohttp.ClientResponseError as error:
            told = Refused(
                error.request_info, error.history, status=error.status, message=error.message, headers=error.headers
            )
            told.refusal = code_in(self._body or b"", self.headers)
            raise told from None

    async def text(self, encoding: str | None = None, errors: str = "strict") -> str:
        """Return the links of a page, which is what fsspec wants a text for.

        The encoding that a server names is left alone: there are some that take for ever.

        Raises
        ------
        ProductBroken
            It is larger than a page can be.
        """
        self._is_page = True
        page = (await self.read()).decode("utf-8", errors="ignore")
        found = [link[1] or link[2] for link in islice(_LINK.finditer(page), MOST_LINKS + 1)]
        if len(found) > MOST_LINKS:
            raise ProductBroken(
                f"a page of it lists more than {MOST_LINKS:,} names",
                given=redact(str(self.url)),
                remedy="tell whoever publishes it",
            )
        return "\n".join(f'<a href="{link}">' for link in found)

    async def read(self) -> bytes:
        """Return the body.

        Raises
        ------
        ProductBroken
            It is larger than what it was asked for can be.
        """
        if self._body is None:
            refused = self.status >= 400
            most = OF_A_REFUSAL if refused else self._most()
            blocks, size = [], 0
            async for block in self.content.iter_any():
                blocks.append(block)
                size += len(block)
                if size > most:
                    self.close()
                    if refused:
                        return b""
                    raise too_large(redact(str(self.url)), most)
            self._body = b"".join(blocks)
        return await super().read()

    def _most(self) -> int:
        asked = _RANGE.fullmatch(self.request_info.headers.get("Range", ""))
        if asked is not None:
            start, end, suffix = asked.groups()
            return int(suffix) if suffix else int(end) - int(start) + 1
        # The page of a folder's content is no object.
        is_text = self._is_page or is_document(self.url.path) or self.content_type == "text/html"
        return largest_document() if is_text else LARGEST_OBJECT


class Resolver(aiohttp.DefaultResolver):  # type: ignore[misc, valid-type]
    """Finds the numbers of a name, and refuses those where a cloud tells its machines who they are.

    Parameters
    ----------
    own
        The origin that the person's own address names: it may be anywhere.
    """

    def __init__(self, own: Origin | None) -> None:
        super().__init__()
        self._may_be_anywhere = {own[1] if own else None, *(URL(proxy).host for proxy in getproxies().values())}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """Return where a host is.

        Raises
        ------
        InvalidRequest
            It is nowhere that a document may lead to.
        """
        found: list[aiohttp.abc.ResolveResult] = await super().resolve(host, port, family)
        if host not in self._may_be_anywhere:
            for place in found:
                check_number(host, place["host"])
        return found


@dataclass(frozen=True)
class Client:
    """Makes the session of one filesystem.

    Attributes
    ----------
    address
        The origin of an address that has a user and a password of its own; the session knows them from it.
    start
        The origin of the address that is read: where a redirect comes from.
    """

    credentials: Credentials
    address: Origin | None
    start: Origin | None = None

    async def __call__(self, **options: Any) -> aiohttp.ClientSession:
        """Return the session, as fsspec's `get_client` does."""
        options.setdefault("connector", aiohttp.TCPConnector(resolver=Resolver(self.credentials.own)))
        return aiohttp.ClientSession(
            **{**options, "middlewares": (self._introduce,), "response_class": CheckedResponse}
        )

    async def _introduce(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Give a request what its host may be told; each redirect passes here too."""
        if self.start is not None and request.url.host != self.start[1]:
            check_redirect(str(request.url), shown(self.start))
        has_user = self.address is not None and origin(request.url) == self.address
        if not has_user:
            request.headers.popall("Authorization", None)  # netrc's, which asks neither for http nor for the default
        for name, value in self.credentials.headers(request.url, user=not has_user).items():
            if name.lower() == "cookie" and name in request.headers:
                value = f"{request.headers[name]}; {value}"
            request.headers[name] = value
        return await send(request)


def options(root: str, credentials: Credentials, *, seconds_without_a_byte: float) -> dict[str, Any]:
    """Return what fsspec is to open the web servers of an address with."""
    given = configured()
    found = harmless(given)
    place = origin(root)
    if place is not None and place == credentials.own:
        found["params"] = given.get("params")
    # fsspec's five minutes for a whole object are too short for a large chunk on a slow link; silence is the sign.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=SECONDS_TO_CONNECT, sock_read=seconds_without_a_byte)
    found["client_kwargs"] = {"timeout": timeout, "trust_env": True, **found["client_kwargs"]}
    has_user = "@" in root.partition("://")[2].partition("/")[0]
    found["get_client"] = Client(credentials, place if has_user else None, place)
    return found


async def bounded(blocks: AsyncIterable[bytes], most: int, given: str, check: Callable[[bytes], None]) -> bytes:
    """Return what comes, up to a bound; `check` sees its beginning first.

    Raises
    ------
    ProductBroken
        More comes.
    """
    found: list[bytes] = []
    size = 0
    async for block in blocks:
        if not found:
            check(block)
        found.append(block)
        size += len(block)
        if size > most:
            raise too_large(given, most)
    return b"".join(found)


async def size_of(session: aiohttp.ClientSession, url: str, options: dict[str, Any]) -> tuple[bool, int | None]:
    """Return whether a server has an object, and how many bytes it has where the server tells that.

    A server that has no answer to HEAD is asked for the object's first byte.

    Raises
    ------
    Refused
        And its kinds: it says neither.
    """
    headers = {**options.get("headers", {}), "Accept-Encoding": "identity"}
    async with session.head(url, **{"allow_redirects": True, **options, "headers": headers}) as answer:
        size = _told_size(answer) if answer.status < 400 else None
    if size is not None:
        return True, size
    return await first_byte(session, url, options)


async def first_byte(session: aiohttp.ClientSession, url: str, options: dict[str, Any]) -> tuple[bool, int | None]:
    """Return the same, asked by GET for the first byte alone; what is sent beyond it is left unread."""
    headers = {**options.get("headers", {}), "Accept-Encoding": "identity", "Range": "bytes=0-0"}
    async with session.get(url, **{**options, "headers": headers}) as answer:
        if answer.status in GONE:
            return False, None
        if answer.status == 416:  # of an empty object
            return True, 0
        if answer.status >= 400:
            await answer.read()
            answer.raise_for_status()
        return True, _told_size(answer)


async def part_of(
    session: aiohttp.ClientSession, url: str, options: dict[str, Any], start: int, stop: int
) -> tuple[bytes, int | None] | None:
    """Return some bytes of an object, and how many the whole has where that is told; None where a server sends wholes.

    Raises
    ------
    FileNotFoundError
        There is no such object.
    Refused
        And its kinds.
    """
    headers = {**options.get("headers", {}), "Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
    async with session.get(url, **{**options, "headers": headers}) as answer:
        if answer.status in GONE:
            raise FileNotFoundError(url)
        if answer.status == 416:
            return b"", None
        if answer.status >= 400:
            await answer.read()
            answer.raise_for_status()
        if answer.status != 206:  # what is sent is left unread
            return None
        return await answer.read(), _told_size(answer)


def _told_size(answer: aiohttp.ClientResponse) -> int | None:
    """Return how many bytes an object has, as the headers of an answer say it."""
    if answer.status == 206:
        told = answer.headers.get("Content-Range", "").rpartition("/")[2]
    elif answer.headers.get("Content-Encoding", "") in ("", "identity"):
        told = answer.headers.get("Content-Length", "")
    else:
        return None
    return int(told) if re.fullmatch("[0-9]{1,18}", told) else None
