"""A request: one conversion, as it was asked for."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from geozarr_runner.errors import InvalidRequest, LaterVersion
from geozarr_runner.spec.options import OPTIONS, Arguments, Folder, Groups, Options, in_words, of_result, resolved
from geozarr_runner.text.shell import SEPARATOR, listed
from geozarr_runner.trust.bounds import from_json

SCHEMA_VERSION = 1
WHOLE_PRODUCT = "0"
EXAMPLE = 'groups=["/measurements/reflectance/r20m"]'
_SLUG_LENGTH = 46  # with the identity's part still far below the 63 letters of a Kubernetes label
# Parts of a query that sign it, and differ each time the same object is asked for.
_VOLATILE = re.compile(
    r"x-(amz|goog|ms)-.*|awsaccesskeyid|googleaccessid|signature|expires|.*token|s[eiprtv]|spr|sig|sk(oid|tid|[tesv])"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One conversion, as it was asked for. Each of its options is an attribute too: `request.if_exists`.

    Attributes
    ----------
    source
        Address or path of the product's Zarr store, or of its STAC item, as it has to be opened: it may hold a password
        or a signature, and is therefore neither shown nor stored.
    shown
        The same address without user, password and query.
    product
        The product's name; empty where nobody has looked yet.
    output
        Where the GeoZarr is written: an absolute path of this machine, `pvc://claim/path` on a cluster, or an address
        in an object store. Empty, it is `<product>_geozarr.zarr` in the working directory of the run.
    groups
        Absolute paths; empty for the whole product in the converter's own layout.
    options
        All options by name; see `Options`.
    item
        The address of the STAC item that the product was opened from, without user, password and query; empty where
        it was opened by its own.
    asked
        The address that the person gave where the product was found from it, without user, password and query; empty
        where they gave none, as for an item in memory. None: they gave the product's own. Credentials that name no host
        are for this one's host.
    identity
        Hash of what determines the result: the address without what is volatile in it, the output, the groups and the
        options that change it.
    origins
        Where the settings that it was made with came from, in one line; empty where nobody said.
    """

    source: str = field(repr=False, compare=False)
    shown: str
    product: str
    output: str
    groups: tuple[str, ...] = ()
    options: Options = field(default_factory=Options, hash=False)
    item: str = field(default="", compare=False)
    asked: str | None = field(default=None, compare=False)
    identity: str = ""
    origins: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", resolved(self.options))

    if not TYPE_CHECKING:  # where `options` is typed

        def __getattr__(self, name: str) -> Any:
            if name in OPTIONS:
                return self.options[name]
            raise AttributeError(f"a request has no {name!r}", name=name, obj=self)

    @classmethod
    def of(
        cls,
        source: Folder,
        output: Folder = "",
        *,
        item: str = "",
        asked: str | None = None,
        identity: str = "",
        **arguments: Unpack[Arguments],
    ) -> Self:
        """Return the request for a source that nobody has looked at yet.

        Raises
        ------
        InvalidRequest
            An argument cannot be used.
        """
        from geozarr_runner.trust.addresses import redact

        given = dict(arguments)
        return cls(
            source=os.fspath(source),
            shown=redact(os.fspath(source)),
            product="",
            output=os.fspath(output),
            groups=normalise(cast(Groups | None, given.pop("groups", None))),
            options=cast(Options, given),
            item=item,
            asked=asked,
            identity=identity,
        )

    def with_options(self, **options: Unpack[Options]) -> Self:
        """Return the same with other options."""
        return replace(self, options=cast(Options, {**self.options, **options}))

    def at(self, output: str) -> Self:
        """Return the same with another output."""
        return replace(self, output=output)

    def identified(self) -> Self:
        """Return the same with the identity that it has to have."""
        return replace(self, identity=self.derived_identity)

    @property
    def name(self) -> str:
        """Name of the request's job: letters, digits and hyphens (DNS-1123), the same for equal requests."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.product.lower())[:_SLUG_LENGTH].strip("-")
        return f"{slug or 'product'}-{self.identity[:8]}"

    @property
    def derived_identity(self) -> str:
        """The identity that a request for the same result has."""
        asked = {"input": _lasting(self.source or self.shown), "output": self.output, "groups": sorted(self.groups)}
        text = json.dumps(asked | of_result(self.options), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def scratch_folder(self) -> Path | None:
        """Where a run keeps intermediate files; None where it chooses itself."""
        scratch = self.options["scratch"]
        return Path(scratch) if scratch else None

    @property
    def withheld(self) -> bool:
        """True when this was read back from storage, and the address held something that is not stored."""
        return not self.source

    def to_json(self, *, with_secrets: bool = False) -> dict[str, Any]:
        """Return the request as a document.

        Parameters
        ----------
        with_secrets
            False: what may be stored, which is everything but what is secret in the address.
        """
        document = {name: getattr(self, name) for name in _FIELDS} | dict(self.options)
        if not with_secrets and self.source != self.shown:
            document["source"] = None
        return {"v": SCHEMA_VERSION, **document}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; an earlier version knows fewer options, and a later one more.

        Raises
        ------
        LaterVersion
            A later version wrote it.
        InvalidRequest
            It is no request.
        """
        try:
            if document.get("v", SCHEMA_VERSION) > SCHEMA_VERSION:
                raise LaterVersion("the request", given=document.get("product"))
            later: dict[str, Any] = {"item": "", "asked": None, "origins": ""}
            values = {name: {**later, **document}[name] for name in _FIELDS}
        except (KeyError, TypeError, AttributeError) as error:
            raise _no_request(error) from error
        values["source"] = values["source"] or ""
        groups = values.pop("groups")
        if not isinstance(groups, list | tuple) or not all(map(_is_text, groups)):
            raise _no_request("groups")
        for name, value in values.items():
            if not (_is_text(value) or (name == "asked" and value is None)):
                raise _no_request(name)
        options = {name: document[name] for name in OPTIONS if name in document}
        for name, value in options.items():
            if value is None or (isinstance(value, str) and not _is_text(value)):
                raise _no_request(name)
        try:
            return cls(**values, groups=tuple(groups), options=cast(Options, options))
        except InvalidRequest as error:
            raise _no_request(error.message.rpartition(" ")[2]) from error


_FIELDS = ("source", "shown", "product", "output", "groups", "item", "asked", "identity", "origins")


def _is_text(value: object) -> bool:
    """Return whether a value is a text that the system takes as a path or an argument."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _no_request(what: object) -> InvalidRequest:
    return InvalidRequest("what is stored is no request", given=what, remedy="submit it again")


def _lasting(url: str) -> str:
    """Return an address without user and password, and without the parts of its query that sign it."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if not _VOLATILE.fullmatch(name.lower())]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), urlencode(query), ""))


class Words(list[str]):
    """Words of a command line that name groups: each of them is a text, as `normalise` reads one."""


def normalise(groups: Groups | None, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return absolute group paths in the order given, without duplicates; `()` is the whole product.

    A list is taken as it is: a name may have blanks and commas in it. A text is split on commas and blanks, unless it
    is a JSON array: that is a list. Empty, or `0`, is the whole product in the converter's own layout.

    Parameters
    ----------
    environ
        Where `$ARGO_GROUPS` counts for groups that were not given: on the runner's command line. An empty array counts
        as given.
    """
    texts = [groups] if isinstance(groups, str) else groups if isinstance(groups, Words) else None
    arrays = [_array(text) for text in texts or ()]
    if texts is None:
        found = _paths(groups)
    else:
        parts = (SEPARATOR.split(text) if array is None else array for text, array in zip(texts, arrays, strict=True))
        found = _paths([name for part in parts for name in part])
    if found or [] in arrays or environ is None:
        return found
    return normalise(environ.get("ARGO_GROUPS"))


def as_text(groups: Iterable[str]) -> str:
    """Return paths of groups as the one text that `normalise` reads them from.

    >>> as_text(["/a", "/b"]), as_text(["/a b"]), as_text([])
    ('/a,/b', '["/a b"]', '0')
    """
    return listed(groups) or WHOLE_PRODUCT


def _array(text: str) -> list[str] | None:
    """Return the list that a text holds; None where it is none."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found = from_json(text)
    except ValueError:
        found = None
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else None


def _paths(groups: Groups | None) -> tuple[str, ...]:
    if groups is None:
        return ()
    try:
        given = list(groups)
    except TypeError as error:
        raise InvalidRequest("groups are given by their paths", given=in_words(groups), remedy=EXAMPLE) from error
    names: dict[str, None] = {}
    for name in given:
        if not isinstance(name, str):
            raise InvalidRequest("a group is given by its path", given=in_words(name), remedy=EXAMPLE)
        if name not in ("", WHOLE_PRODUCT):
            names["/" + "/".join(step for step in name.split("/") if step)] = None
    return tuple(names)
