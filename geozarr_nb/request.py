"""What to convert: checked before anything runs, and recognised when it is asked for again."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from geozarr_nb.errors import InvalidRequest, LaterVersion, StorageDenied, StorageFailed
from geozarr_nb.settings import Settings

if TYPE_CHECKING:
    from geozarr_runner.product import Product

IfExists = Literal["error", "skip", "overwrite"]
IF_EXISTS: tuple[IfExists, ...] = ("error", "skip", "overwrite")
SCHEMA_VERSION = 1
_TRUTHS = frozenset({"validate_groups", "dask_cluster", "verbose", "archive", "packed"})
_SLUG_LENGTH = 46  # with the identity's part still far below the 63 letters of a Kubernetes label
# Parts of a query that sign it, and differ each time the same object is asked for.
_VOLATILE = re.compile(
    r"x-(amz|goog|ms)-.*|awsaccesskeyid|googleaccessid|signature|expires|.*token|s[eiprtv]|spr|sig|sk(oid|tid|[tesv])"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One conversion, as it was asked for.

    Attributes
    ----------
    source
        Address or path of the product's Zarr store, as it has to be opened: it may hold a password or a signature,
        and is therefore neither shown nor stored.
    shown
        The same address without user, password and query.
    product
        The product's name.
    output
        Where the GeoZarr is written: an absolute path of this machine, `pvc://claim/path` on a cluster, or an address
        in an object store.
    groups
        Absolute paths; empty for the whole product in the converter's own layout.
    validate_groups
        True: a missing group ends the run. False: it is left out.
    if_exists
        What to do when the output is there: "error", "skip" (when it was made from the same request), "overwrite".
    scratch
        Folder for intermediate files; empty for beside the output.
    archive
        True: the finished output is packed as one file beside it too.
    packed
        True: numbers that are stored as integers with a scale stay so.
    item
        The address of the STAC item that the product was opened from, without user, password and query; empty where
        it was opened by its own.
    asked
        The address that the person gave where the product was found from it, without user, password and query; empty
        where they gave none, as for an item in memory. None: they gave the product's own. Credentials that name no host
        are for this one's host.
    identity
        Hash of what determines the result: the address without what is volatile in it, the output, the groups and
        whether it is packed.
    origins
        Where the settings that it was made with came from, in one line; empty where nobody said.
    """

    source: str = field(repr=False, compare=False)
    shown: str
    product: str
    output: str
    groups: tuple[str, ...] = ()
    validate_groups: bool = False
    if_exists: IfExists = "error"
    dask_cluster: bool = False
    verbose: bool = False
    scratch: str = ""
    archive: bool = False
    packed: bool = False
    item: str = field(default="", compare=False)
    asked: str | None = field(default=None, compare=False)
    identity: str = ""
    origins: str = field(default="", repr=False, compare=False)

    @classmethod
    def of(
        cls,
        product: Product,
        output: str | os.PathLike[str] | None = None,
        *,
        groups: str | Iterable[str] | None = None,
        validate_groups: bool | None = None,
        if_exists: IfExists = "error",
        dask_cluster: bool = False,
        verbose: bool = False,
        scratch: str | os.PathLike[str] | None = None,
        archive: bool | None = None,
        packed: bool = False,
        settings: Settings,
        locate: Callable[[str | os.PathLike[str]], str] | None = None,
        origins: str = "",
    ) -> Request:
        """Return the request for a product, with settings where an argument is left out.

        Parameters
        ----------
        groups
            None: those of the settings. Empty, or "0": the whole product.
        locate
            Returns the full name of an output where the job will run; None for this machine.

        Raises
        ------
        InvalidRequest
            An argument cannot be used.
        """
        from geozarr_runner.addresses import local_path, redact
        from geozarr_runner.archive import check_place
        from geozarr_runner.groups import normalise
        from geozarr_runner.names import output_name
        from geozarr_runner.upload import is_address, output_place

        if if_exists not in IF_EXISTS:
            raise InvalidRequest("this is no value of if_exists", given=if_exists, remedy=f"choose of {IF_EXISTS}")
        path = local_path(product.url)
        source = product.url if path is None else str(path)
        if not output and settings.output_zarr:
            output = settings.required("output_zarr")
        output = output or output_name(product.name)
        target = str(output_place(output)) if locate is None else locate(output)
        chosen = normalise(settings.groups if groups is None else groups)
        if archive is None:
            archive = settings.archive and not is_address(target)
        if archive:
            check_place(target)
        return cls(
            source=source,
            shown=redact(source),
            product=product.name,
            output=target,
            groups=chosen,
            validate_groups=settings.validate_groups if validate_groups is None else validate_groups,
            if_exists=if_exists,
            dask_cluster=dask_cluster,
            verbose=verbose,
            scratch=_scratch(scratch, settings),
            archive=archive,
            packed=packed,
            item=redact(str(product.item.get("href") or "")),
            asked=None if product.asked is None else redact(product.asked),
            identity=_identity(source, target, chosen, packed=packed),
            origins=origins,
        )

    @property
    def name(self) -> str:
        """Name of the request's job: letters, digits and hyphens (DNS-1123), the same for equal requests."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.product.lower())[:_SLUG_LENGTH].strip("-")
        return f"{slug or 'product'}-{self.identity[:8]}"

    @property
    def derived_identity(self) -> str:
        """The identity that a request for the same result has."""
        return _identity(self.source or self.shown, self.output, self.groups, packed=self.packed)

    @property
    def withheld(self) -> bool:
        """True when this was read back from storage, and the address held something that is not stored."""
        return not self.source

    def to_json(self) -> dict[str, Any]:
        """Return what may be stored: everything but what is secret in the address."""
        document = asdict(self)
        document["source"] = self.source if self.source == self.shown else None
        return {"v": SCHEMA_VERSION, **document}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Request:
        """Read what `to_json` wrote.

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
            # One that was stored by an earlier version knows less.
            later: dict[str, Any] = {"archive": False, "packed": False, "item": "", "asked": None, "origins": ""}
            values = {name: {**later, **document}[name] for name in cls.__dataclass_fields__}
        except (KeyError, TypeError, AttributeError) as error:
            raise _no_request(error) from error
        values["source"] = values["source"] or ""
        groups = values.pop("groups")
        if not isinstance(groups, list | tuple) or not all(map(_is_text, groups)):
            raise _no_request("groups")
        for name, value in values.items():
            if name == "asked" and value is None:
                continue
            if not (isinstance(value, bool) if name in _TRUTHS else _is_text(value)):
                raise _no_request(name)
        if values["if_exists"] not in IF_EXISTS:
            raise _no_request("if_exists")
        return cls(**values, groups=tuple(groups))

    def check(self, product: Product, *, path: str | os.PathLike[str] | None = None) -> bool:
        """Do what the run will do first, so that a request that cannot run is refused at once.

        Parameters
        ----------
        path
            Where this machine has the output; None for where the request says.

        Returns
        -------
        bool
            True when `if_exists` is "skip" and the output is there, made from the same request, with its archive if
            that is asked for.

        Raises
        ------
        GroupsMissing, OutputExists, InvalidRequest, StorageFailed
            And their kinds, as the run would.
        """
        from geozarr_runner import preflight
        from geozarr_runner.archive import existing
        from geozarr_runner.events import Reporter

        output = os.fspath(path or self.output)
        plan = preflight.preflight(
            preflight.Request(
                product,
                output,
                groups=self.groups,
                validate_groups=self.validate_groups,
                if_exists=self.if_exists,
                scratch=Path(self.scratch) if self.scratch else None,
                archive=self.archive,
                packed=self.packed,
            ),
            Reporter(StringIO()),
        )
        if not isinstance(plan.output, Path):
            return plan.done
        parent = next(folder for folder in Path(output).parents if folder.exists())
        if not parent.is_dir():
            raise StorageFailed(
                f"no folder can be made below {parent}: it is a file", given=output, remedy="choose another output"
            )
        if not plan.done and not os.access(parent, os.W_OK | os.X_OK):
            raise StorageDenied(
                f"no permission to write in {parent}",
                given=output,
                remedy="choose a folder that you may write to, or have the permission given",
            )
        return plan.done and (not self.archive or existing(plan.output) is not None)

    def check_output(self, product: Product, root: bytes | None) -> bool:
        """Do the part of `check` that looks at an output that is there, from its root's document alone.

        Parameters
        ----------
        root
            The content of its `zarr.json`; None where there is none.

        Raises
        ------
        OutputExists
        """
        from geozarr_runner.groups import report
        from geozarr_runner.preflight import is_done
        from geozarr_runner.publish import provenance_in

        if root is None:
            return False
        found = report(product, self.groups).found
        return is_done(self.output, provenance_in(root), product, found, self.if_exists, packed=self.packed)

    def check_groups(self, product: Product) -> None:
        """Do the part of `check` that needs no look at the output.

        Raises
        ------
        GroupsMissing, InvalidRequest
        """
        from geozarr_runner.groups import report
        from geozarr_runner.profiles import check_packed

        found = report(product, self.groups, options={"validate_groups": self.validate_groups})
        found.raise_for_missing(all_needed=self.validate_groups)
        if self.packed:
            check_packed(product, found.found)


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


def open_source(source: Any, settings: Settings) -> Product:
    """Open a product, or the one that the settings name where `source` is None."""
    from geozarr_runner.product import open_product

    return open_product(settings.required("stac_url") if source is None else source)


def _scratch(scratch: str | os.PathLike[str] | None, settings: Settings) -> str:
    from geozarr_runner.addresses import expanded

    given = os.fspath(scratch) if scratch is not None else settings.scratch
    return str(expanded(given)) if given else ""


def _identity(source: str, output: str, groups: tuple[str, ...], *, packed: bool) -> str:
    asked = {"input": _lasting(source), "output": output, "groups": sorted(groups)}
    text = json.dumps(asked | ({"packed": True} if packed else {}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _lasting(url: str) -> str:
    """Return an address without user and password, and without the parts of its query that sign it."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if not _VOLATILE.fullmatch(name.lower())]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), urlencode(query), ""))
