"""Which web server may be told which credentials: what belongs to one host reaches no other, whoever names it.

====================================  =====================================================================
where they are given                  who is told
====================================  =====================================================================
`GEOZARR_HTTP_CREDENTIALS`            the hosts that it names:
                                      `{"https://host": {"headers": {"Authorization": "Bearer ..."}}}`
netrc (`$NETRC`, else `~/.netrc`)     the hosts that it names, encrypted; its `default` is as without a host
`FSSPEC_HTTP`, `FSSPEC_HTTPS`,        the host that the person's own address names: they have none
fsspec's configuration files
====================================  =====================================================================

A request that is redirected is a new one: it carries what its own host may be told, and nothing else.
"""

from __future__ import annotations

import base64
import json
import netrc
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
from multidict import CIMultiDict
from yarl import URL

from geozarr_runner.errors import InvalidRequest
from geozarr_runner.trust.addresses import expanded

VARIABLE = "GEOZARR_HTTP_CREDENTIALS"
FORM = VARIABLE + '=\'{"https://host": {"headers": {"Authorization": "Bearer ..."}}}\''
WEB = ("http", "https")
SECRET = ("headers", "auth", "cookies", "params")  # options of fsspec and of its client that may hold credentials
_WEB_ADDRESS = re.compile(r"(?:^|::)(https?://.*)", re.DOTALL | re.IGNORECASE)
_OF_FSSPEC = re.compile(r"FSSPEC_HTTPS?(_.*)?", re.IGNORECASE)

type Origin = tuple[str, str, int | None]
type Headers = CIMultiDict[str]


def origin(address: str | URL) -> Origin | None:
    """Return scheme, host and port of a web address, the last one's of a chain; None for any other."""
    if isinstance(address, str):
        found = _WEB_ADDRESS.search(address)
        if found is None:
            return None
        try:
            address = URL(found[1])
        except ValueError:
            return None
    return (address.scheme, address.host, address.port) if address.host else None


def shown(place: Origin) -> str:
    """Return an origin as people write it."""
    scheme, host, port = place
    return str(URL.build(scheme=scheme, host=host, port=port))


@dataclass(frozen=True, repr=False)
class Credentials:
    """What each web server may be told by whoever reads what a person asked for.

    Attributes
    ----------
    own
        The origin that the person's own address names; None where it names no web server.
    nameless
        Headers from where credentials have no host, for `own` alone.
    named
        Headers by the origin that they belong to.
    users
        User and password by host, from netrc.
    """

    own: Origin | None
    nameless: Headers
    named: Mapping[Origin, Headers]
    users: Mapping[str, tuple[str, str]]

    @classmethod
    def of(cls, asked: str) -> Credentials:
        """Read them, for what is found from an address that a person gave.

        Raises
        ------
        InvalidRequest
            They are not given in their form.
        """
        return cls(origin(asked), _nameless(), _named(os.environ.get(VARIABLE, "")), _users())

    def __repr__(self) -> str:
        """Tell one from another, which fsspec remembers its filesystems by, and nothing of what is secret."""
        nameless, users = tuple(self.nameless.items()), tuple(self.users.items())
        named = tuple((place, tuple(headers.items())) for place, headers in self.named.items())
        return f"Credentials({hash((self.own, nameless, named, users)):x})"

    def headers(self, url: str | URL, *, user: bool = True) -> Headers:
        """Return what a request for an address may carry.

        Parameters
        ----------
        user
            False where the address has a user of its own.
        """
        place = origin(url)
        found: Headers = CIMultiDict()
        if place is None:
            return found
        is_own = place == self.own
        known = self.users.get(place[1]) if place[0] == "https" or is_own else None
        if is_own and known is None:
            known = self.users.get("default")
        if user and known is not None:
            found["Authorization"] = _basic(*known)
        if is_own:
            found.update(self.nameless)
        found.update(self.named.get(place, {}))
        return found

    def tell(self, url: str | URL) -> bool:
        """Return whether a request for an address carries any."""
        in_query = origin(url) == self.own and self.own is not None and bool(configured().get("params"))
        return in_query or bool(self.headers(url))

    def withheld(self, url: str | URL) -> bool:
        """Return whether there are credentials without a host, which this address is not told."""
        return bool(self.nameless) and origin(url) not in (None, self.own)


def configured() -> dict[str, Any]:
    """Return fsspec's own options for web servers, as it merges them."""
    return {name: value for protocol in WEB for name, value in fsspec.config.conf.get(protocol, {}).items()}


def harmless(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of fsspec for web servers, with nothing secret where its configuration has something."""
    client = options.get("client_kwargs") or {}
    client = {name: value for name, value in client.items() if name not in SECRET}
    kept = {name: value for name, value in options.items() if name not in (*SECRET, "get_client")}
    return {**kept, "client_kwargs": client, "headers": {}, "auth": None, "cookies": None, "params": None}


def without(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a command that may be led to any web server: no credentials for one are in it."""
    kept = {name: value for name, value in environ.items() if name != VARIABLE and not _OF_FSSPEC.fullmatch(name)}
    for protocol in WEB:
        if options := fsspec.config.conf.get(protocol):
            # Said in full, as its configuration files have them too.
            kept[f"FSSPEC_{protocol.upper()}"] = json.dumps(harmless(options), default=str)
    return kept


def _nameless() -> Headers:
    options = configured()
    client = options.get("client_kwargs") or {}
    found: Headers = CIMultiDict()
    for source in (client, options):
        try:
            found.update(_checked(source.get("headers") or {}))
            if source.get("cookies"):
                found["Cookie"] = "; ".join(f"{name}={value}" for name, value in dict(source["cookies"]).items())
            if (auth := source.get("auth")) is not None:
                user, password = (auth.login, auth.password) if hasattr(auth, "login") else auth
                found["Authorization"] = _basic(user, password)
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidRequest(
                f"fsspec's options for web servers cannot be used: {error}",
                given="FSSPEC_HTTP, FSSPEC_HTTPS, or fsspec's configuration files",
                remedy='FSSPEC_HTTPS=\'{"headers": {"Authorization": "Bearer ..."}}\', say',
            ) from error
    return found


def _named(text: str) -> dict[Origin, Headers]:
    if not text.strip():
        return {}
    found: dict[Origin, Headers] = {}
    try:
        hosts = json.loads(text)
        if not isinstance(hosts, dict):
            raise ValueError("it is no object of hosts")
        for address, given in hosts.items():
            place = origin(address)
            if place is None or URL(address) != URL(address).origin():
                raise ValueError("a host is named as https://host or https://host:port")
            if set(given) != {"headers"}:
                raise ValueError('a host has "headers", and nothing else')
            found[place] = _checked(given["headers"])
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        # What it holds is secret, and so not repeated.
        why = "it is no JSON" if isinstance(error, json.JSONDecodeError) else str(error)
        raise InvalidRequest(f"{VARIABLE} cannot be used: {why}", given=VARIABLE, remedy=FORM) from None
    return found


def _checked(headers: Any) -> Headers:
    found: Headers = CIMultiDict(headers)
    for name, value in found.items():
        if not isinstance(value, str):
            raise ValueError(f"the value of the header {name!r} is no text")
        if any(ord(letter) < 32 for letter in name + value):
            raise ValueError(f"the header {name!r} has a control character")
    return found


def _users() -> dict[str, tuple[str, str]]:
    file = expanded(os.environ.get("NETRC") or "~/.netrc")
    try:
        hosts = netrc.netrc(file).hosts
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):  # aiohttp warns of one that cannot be read
        return {}
    return {host: (user, password or "") for host, (user, _, password) in hosts.items()}


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
