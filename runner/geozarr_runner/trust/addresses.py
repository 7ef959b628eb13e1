"""Addresses: who may name which of them, which are paths of this machine, and what of them may be shown.

What a person types may lead anywhere that reads. What a STAC item or a catalogue names was written by somebody else: an
item on the web names the web, and no item names a chain or a protocol that is not on the list.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote, urljoin

from geozarr_runner.errors import InvalidRequest
from geozarr_runner.text.printable import printable
from geozarr_runner.trust.hosts import host_of, unfit

WEB = frozenset({"http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
LOCAL = frozenset({"file", "local"})
CACHES = ("blockcache", "filecache", "simplecache")
MEDIATORS = (*CACHES, "zip")  # what a chain may go through
# They run code, or open what their own content names.
NEVER = frozenset(
    {"async_wrapper", "asynclocal", "asyncwrapper", "cached", "dask", "data", "dir", "generic", "gist", "git", "github"}
    | {"jlab", "jupyter", "libarchive", "pyscript", "reference", "tar"}
)
VARIABLE = "GEOZARR_PROTOCOLS"
_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]*")
_IPV6 = re.compile(r"(?<=://)(?:[^/?#@]*@)?\[[^\]/?#]*(?:\]|$)")
_S3 = ("s3://", "s3a://")
_BUCKET = re.compile(r"(?:[A-Za-z0-9_-]+:)?[A-Za-z0-9._-]{1,255}|arn:[^?#]+")  # as botocore and Ceph have it
_TENANT = re.compile(r"s3a?://(?!arn:)[A-Za-z0-9_-]+:[A-Za-z0-9._-]+(?=[/?#]|$)", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
SHORTEST_SECRET = 6
# What marks the parts of an address, and what stands for it once or several times encoded.
_AT, _EQUALS = r"(?:@|%(?:25)*40)", r"(?:=|%(?:25)*3D)"
_LOGIN = re.compile(rf".*{_AT}", re.IGNORECASE | re.DOTALL)
_WITHOUT_PROTOCOL = re.compile(r"(?://)?(?![./~])[^/@:\s]+:(?!:)[^@\s]*@")  # user:password@host
_TAIL = re.compile(rf"[?#].*|%(?:25)*(?:3F|23)[^/]*?{_EQUALS}.*", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(rf"(?:;|%(?:25)*3B)[^/;]*?{_EQUALS}[^/]*", re.IGNORECASE)
_IN_TEXT = re.compile(r"""[A-Za-z][\w+.-]*(?:::|://)[^\s'"<>]+""")
_NAMES_A_SECRET = re.compile(r"sig|token|secret|passw|credential|key", re.IGNORECASE)


def local_path(url: str) -> Path | None:
    """Return the path behind a local address (`file://` or none), or None.

    Raises
    ------
    InvalidRequest
        As `expanded`.
    """
    if url.startswith("file://"):
        url = url.removeprefix("file://")
    elif "://" in url or "::" in url:
        return None
    return expanded(url)


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a person's path as an absolute one; a home that nobody knows is a name like others, as in a shell.

    Raises
    ------
    InvalidRequest
        It has a NUL or is no text, or is below a working directory that was removed.
    """
    if "\0" in os.fspath(path):
        raise InvalidRequest(
            "no path has a NUL in it", given=printable(os.fspath(path))[:200], remedy="correct the path"
        )
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            "a file cannot have this name: it is no text",
            given=printable(os.fspath(path))[:200],
            remedy="correct the path",
        ) from error
    found = Path(os.path.expanduser(path))  # noqa: PTH111  pathlib's raises where an account has no home
    try:
        return found.absolute()
    except FileNotFoundError as error:
        raise InvalidRequest(
            "the folder that this runs in was removed, so a path that begins there leads nowhere",
            given=printable(str(found)),
            remedy="change to a folder that is there, or give a path that begins with /",
        ) from error


# --- who may name what -----------------------------------------------------------------------------------------------


def protocols(text: str) -> frozenset[str]:
    """Return the protocols that a setting adds to those that items may name.

    Raises
    ------
    InvalidRequest
        One of them can be none, or opens what nobody named.
    """
    found = frozenset(filter(None, re.split(r"[\s,]+", text.strip())))
    for name in sorted(found):
        if not _PROTOCOL.fullmatch(name) or name in LOCAL | NEVER or name in MEDIATORS:
            raise InvalidRequest(
                f"{VARIABLE} cannot add this protocol",
                given=printable(name)[:200],
                remedy=f"name protocols that lead to another machine: {VARIABLE}=ftp,webdav, say",
            )
    return found


def check(url: str) -> None:
    """Refuse an address that runs code or opens what its content names, whoever gives it.

    Raises
    ------
    InvalidRequest
    """
    *before, last = _links(url)
    steps = [link.partition("://")[0] for link in before]
    end = last.partition("://")[0] if "://" in last else last if re.fullmatch(r"[a-z0-9_]+", last) and before else ""
    wrong = [step for step in steps if step not in MEDIATORS] + ([end] if end.lower() in NEVER else [])
    if wrong:
        raise InvalidRequest(
            f"an address may not go through {printable(wrong[0])[:60]!r}",
            given=printable(redact(url)),
            remedy=f"give the address of the store itself; before it may stand {', '.join(MEDIATORS)} with '::'",
        )
    for link in (link for link in (*before, last) if link.lower().startswith(_S3)):
        bucket = re.split("[/?#]", link.partition("://")[2], maxsplit=1)[0]
        if "@" not in bucket and not _BUCKET.fullmatch(bucket):
            raise InvalidRequest(
                f"this cannot be the name of a bucket: {printable(bucket)[:100] or 'there is none'}",
                given=printable(redact(url)),
                remedy="give it as s3://bucket/path, or s3://tenant:bucket/path where the server has tenants",
            )


def has_tenant(url: str) -> bool:
    """Return whether an address names the bucket of a tenant: `s3://tenant:bucket/path`."""
    return any(_TENANT.match(link) for link in _links(url))


def named(href: str, base: str | None) -> str:
    """Return the address that a STAC document names.

    Parameters
    ----------
    href
        As it stands in the document.
    base
        Where the document was read; None for one in memory that does not say.

    Raises
    ------
    InvalidRequest
        A document from there may not name this.
    """
    here = base is None or local_path(_plain(base)) is not None
    allowed = WEB | protocols(os.environ.get(VARIABLE, ""))
    scheme = _SCHEME.match(href)
    kind = scheme[1].lower() if scheme and href.startswith("//", scheme.end()) else ""
    if href != href.strip() or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in href):
        raise _refused("it has letters that no address has", href, base)
    if len(_links(href)) > 1:
        raise _refused("it is a chain", href, base)
    if kind in LOCAL:
        if not here:
            raise _refused("it is a path, and the item is not on this machine", href, base)
        return href.replace("local://", "file://", 1) if kind == "local" else href
    if kind:
        # A person who gave an item of another place has chosen that place, for what lies there.
        beside = base is not None and href.startswith(f"{_root(_plain(base))}/")
        if kind not in allowed and not beside and not (base is None and kind in ("memory", "pvc")):
            raise _refused(f"items do not name {kind}://", href, base)
        address = href
    elif here:
        path = None if base is None else local_path(_plain(base))
        return href if path is None or href.startswith("/") else os.path.normpath(path.parent / href)
    else:
        plain = _plain(str(base))
        protocol = plain.partition("://")[0]
        if href.startswith("//") and protocol.lower() in WEB:
            return named(f"{protocol}:{href}", base)
        # Below the root of the same host or bucket. What lies on a claim has another root in a pod than on the claim.
        if scheme or (href.startswith("/") and protocol.lower() not in WEB):
            raise _refused("it is a path, and the item is not on this machine", href, base)
        try:
            address = str(base).replace(plain, _joined(plain, href), 1)
        except ValueError as error:
            raise _refused(f"its place is no address: {error}", href, base) from error
    if _root(_plain(address)).endswith("://"):
        raise _refused("it names no host", href, base)
    if (wrong := _unfit_host(address, base)) is not None:
        raise _refused(wrong, href, base)
    return address


def check_redirect(address: str, start: str) -> None:
    """Refuse what a server redirects to, where no document from there may name it.

    Raises
    ------
    InvalidRequest
    """
    if (wrong := _unfit_host(address, start)) is not None:
        raise _led_astray(wrong, address, start)


def check_number(host: str, number: str) -> None:
    """Refuse a name that stands for the number where a cloud tells its machines who they are.

    Raises
    ------
    InvalidRequest
    """
    if (wrong := _unfit_host(f"https://[{number}]" if ":" in number else f"https://{number}", None)) is not None:
        raise _led_astray(wrong, number, host)


def _led_astray(why: str, where: str, start: str) -> InvalidRequest:
    return InvalidRequest(
        f"it leads to where nothing is read: {why}",
        given=f"{printable(redact(where))[:300]} (from {printable(redact(start))[:300]})",
        remedy="tell whoever publishes it; if you trust it, give that address yourself",
    )


def said_place(href: str | None) -> str | None:
    """Return where a document in memory says that it lies; None where it does not say.

    Raises
    ------
    InvalidRequest
        Nothing that a document may name lies there.
    """
    if not href:
        return None
    address = named(href, None)
    scheme = _SCHEME.match(address)
    return None if scheme and not address.startswith("//", scheme.end()) else address


def _refused(why: str, href: str, base: str | None) -> InvalidRequest:
    origin = "in memory" if base is None else f"at {printable(redact(base))}"
    return InvalidRequest(
        f"a STAC document names what it may not: {why}",
        given=f"{printable(redact(href))[:300]} ({origin})",
        remedy="look at what it names; what you trust give by its own address, in place of the document. Documents on "
        f"the web name {', '.join(sorted(WEB))} and the protocols of {VARIABLE}",
    )


def _links(url: str) -> list[str]:
    """Return the members of a chain, the outermost first; of an address on the web the query is none."""
    path = url
    if url.lower().startswith(("http://", "https://")):
        path = _IPV6.sub("", url.partition("?")[0])
    return url.split("::") if "::" in path else [url]


def _plain(url: str) -> str:
    """Return the member of a chain whose path it is: that of a cache is what it caches."""
    links = _links(url)
    return next((link for link in links if "://" in link), links[-1])


def protocol_of(url: str) -> str:
    """Return the protocol of the store that an address leads to, whatever caches it on the way; "" for a path.

    Examples
    --------
    >>> protocol_of("simplecache::https://host/p.zarr")
    'https'
    """
    steps = (link.partition("://")[0] if "://" in link else "" for link in _links(url))
    return next((step.lower() for step in steps if step and step not in CACHES), "")


def _root(url: str) -> str:
    protocol, mark, rest = url.partition("://")
    return f"{protocol.lower()}{mark}{re.split('[/?#]', rest, maxsplit=1)[0]}" if mark else ""


def _joined(base: str, href: str) -> str:
    """Return the address of what a relative reference names, for every protocol."""
    protocol, _, rest = base.partition("://")
    if protocol.lower() in ("http", "https"):
        return urljoin(base, href)
    root, slash, path = ("", "", rest) if protocol == "zip" else rest.partition("/")
    # As on the web, which urllib knows: nothing is above the root, and `..` ends there.
    below = urljoin(f"/{path}", href).removeprefix("/")
    return f"{protocol}://{root}{slash or ('' if protocol == 'zip' else '/')}{below}"


def _unfit_host(address: str, base: str | None) -> str | None:
    """Return why what a document names may not be asked: this machine's own services, and a cloud's for its machines.

    Only what is written is looked at, and not what a name resolves to.
    """
    on_web = base is not None and local_path(_plain(base)) is None
    return unfit(host_of(address), host_of(_plain(str(base))) if on_web else None)


# --- what may be shown -----------------------------------------------------------------------------------------------


def redact(url: str) -> str:
    """Return an address without what may be secret in it: user, password, query, fragment and parameters.

    Examples
    --------
    >>> redact("simplecache::https://me:word@host/p.zarr;sig=1?token=2#3")
    'simplecache::https://host/p.zarr'
    """
    # What is shown is shown as it is: each step only takes something away.
    while (shown := _redacted(url)) != url:
        url = shown
    return url


def _redacted(url: str) -> str:
    if "://" not in url and _WITHOUT_PROTOCOL.match(url):
        return re.match("/*", url)[0] + _shown(url.lstrip("/"))  # type: ignore[index]
    if "://" not in url and "::" not in url:
        return url
    shown: list[str] = []
    for link in url.split("::"):
        protocol, mark, rest = link.partition("://")
        if not mark and not shown and "://" not in url:
            shown.append(_TAIL.sub("", link))
        elif not mark:
            shown.append(_shown(link) if shown and not link.startswith("/") else link)
        else:
            # A bucket's tenant looks like a user with a password, which have a host behind them.
            tenant = rest.partition(":")[0] if _TENANT.match(link) and "@" not in link else ""
            shown.append(f"{protocol}{mark}{tenant}{tenant and ':'}{_shown(rest[len(tenant) + bool(tenant) :])}")
        if "?" in link or "#" in link:
            break  # what follows belongs to the query
    return "::".join(shown)


def _shown(rest: str) -> str:
    """Return what may be shown of an address after `://`."""
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    path = rest[len(authority) :]
    host = _LOGIN.sub("", authority)
    name, colon, port = host.partition(":")
    if colon and host == authority and not host.startswith("[") and not port.isdigit() and port:
        # A password that is not encoded as it should be, with a slash or a question mark in it.
        return _shown(path.partition("@")[2]) if "@" in path else name
    return _PARAMETER.sub("", host + _TAIL.sub("", path))


def redact_text(text: str) -> str:
    """Return a text in which every address is one that may be shown."""
    return _IN_TEXT.sub(lambda found: redact(found[0]), text)


def secrets(url: str) -> list[str]:
    """Return the parts of an address that must not be left in a file, in every spelling, the longest first.

    What is too short to be a secret stays: every "v=1" of a log is not to be crossed out.
    """
    if redact(url) == url:
        return []
    found: list[str] = []
    for link in url.split("::"):
        protocol, mark, rest = link.partition("://")
        if not mark:
            rest = link.lstrip("/")
        for login in re.findall(rf"^[^/]*(?={_AT})", rest, re.IGNORECASE) or re.findall(r"^[^@]*:[^@]*(?=@)", rest):
            _, colon, password = re.sub("%3A", ":", login, count=1, flags=re.IGNORECASE).partition(":")
            # What stands alone is a token on the web, and the name of a container in an object store.
            found += [f"{login}@", password] if colon else [login] if protocol in ("http", "https") else []
        found += _valued(match[0] for match in _PARAMETER.finditer(rest))
    found += _valued(match[0] for match in [_TAIL.search(url)] if match)
    return _spellings(found)


def _valued(parts: Iterable[str]) -> list[str]:
    """Return queries and parameters, and the values in them whose names say that they are secret."""
    found = []
    for part in parts:
        found.append(re.sub(r"^(?:[?#;]|%(?:25)*(?:3F|23|3B))", "", part, flags=re.IGNORECASE))
        for pair in re.split(r"[&;#?]", unquote(part)):
            name, _, value = pair.partition("=")
            found += [value] if _NAMES_A_SECRET.search(name) else []
    return found


def _spellings(parts: Iterable[str]) -> list[str]:
    spelled = {
        spelling for part in parts for spelling in (part, unquote(part), quote(part, safe="", errors="surrogatepass"))
    }
    return sorted((each for each in spelled if len(each) >= SHORTEST_SECRET), key=lambda each: (-len(each), each))
