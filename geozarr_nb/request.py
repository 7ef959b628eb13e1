"""What to convert, checked before anything runs: as far as this process can see where the output will lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from geozarr_nb.errors import InvalidRequest, StorageFailed
from geozarr_nb.settings import Settings
from geozarr_runner.spec.options import OPTIONS, Arguments, Folder, Groups, Options
from geozarr_runner.spec.request import Request, normalise

if TYPE_CHECKING:
    from geozarr_runner.product.model import Product

__all__ = ["Request", "check", "check_groups", "check_output", "open_source", "request_for"]


def request_for(
    product: Product,
    output: Folder | None = None,
    *,
    settings: Settings,
    locate: Callable[[Folder], str] | None = None,
    origins: str = "",
    **arguments: Unpack[Arguments],
) -> Request:
    """Return the request for a product, with settings where an argument is left out.

    Parameters
    ----------
    locate
        Returns the full name of an output where the job will run; None for this machine.
    origins
        Where the settings came from, in one line.

    Raises
    ------
    InvalidRequest
        An argument cannot be used.
    """
    from geozarr_runner.publishing.archive import check_place
    from geozarr_runner.publishing.remote_output import is_address, output_place
    from geozarr_runner.trust.addresses import expanded, local_path, redact
    from geozarr_runner.trust.names import output_name

    given: dict[str, Any] = {name: value for name, value in arguments.items() if value is not None}
    if not isinstance(output, str | os.PathLike | None):
        raise InvalidRequest(
            "an output is named by its path or address", given=repr(output)[:200], remedy='output="out.zarr", say'
        )
    path = local_path(product.url)
    source = product.url if path is None else str(path)
    if not output and settings.output_zarr:
        output = settings.required("output_zarr")
    output = output or output_name(product.name)
    target = str(output_place(output)) if locate is None else locate(output)
    by_setting: dict[str, Any] = {
        "groups": settings.groups,
        "validate_groups": settings.validate_groups,
        "archive": settings.archive and not is_address(target),
        "scratch": settings.scratch,
    }
    used = by_setting | given
    groups = normalise(cast(Groups, used.pop("groups")))
    scratch = OPTIONS["scratch"].checked(used["scratch"])
    used["scratch"] = str(expanded(scratch)) if scratch else ""
    request = Request(
        source=source,
        shown=redact(source),
        product=product.name,
        output=target,
        groups=groups,
        options=cast(Options, used),
        item=redact(str(product.item.get("href") or "")),
        asked=None if product.asked is None else redact(product.asked),
        origins=origins,
    )
    if request.options["archive"]:
        check_place(target)
    return request.identified()


def check(request: Request, product: Product, *, path: Folder | None = None) -> bool:
    """Do what the run will do first, so that a request that cannot run is refused at once.

    Parameters
    ----------
    path
        Where this machine has the output; None for where the request says.

    Returns
    -------
    bool
        True when `if_exists` is "skip" and the output is there, made from the same request, with its archive if that
        is asked for.

    Raises
    ------
    GroupsMissing, OutputExists, InvalidRequest, StorageFailed
        And their kinds, as the run would.
    """
    from geozarr_runner.events import Reporter
    from geozarr_runner.planning.preflight import preflight
    from geozarr_runner.publishing.archive import existing
    from geozarr_runner.stores.access.failures import storage_errors
    from geozarr_runner.trust import folders

    output = os.fspath(path or request.output)
    plan = preflight(request.at(output), Reporter(StringIO()), product=product)
    if not isinstance(plan.output, Path):
        return plan.done
    parent = next(folder for folder in Path(output).parents if folder.exists())
    if not parent.is_dir():
        raise StorageFailed(
            f"no folder can be made below {parent}: it is a file", given=output, remedy="choose another output"
        )
    if not plan.done:
        with storage_errors(parent):
            folders.check_writable(parent)
    return plan.done and (not request.options["archive"] or existing(plan.output) is not None)


def check_output(request: Request, product: Product, root: bytes | None) -> bool:
    """Do the part of `check` that looks at an output that is there, from its root's document alone.

    Parameters
    ----------
    root
        The content of its `zarr.json`; None where there is none.

    Raises
    ------
    OutputExists
    """
    from geozarr_runner.planning.groups import report
    from geozarr_runner.planning.preflight import is_done
    from geozarr_runner.publishing.root_document import provenance_in

    if root is None:
        return False
    found = report(product, request.groups).found
    return is_done(request.output, provenance_in(root), product, found, request)


def check_groups(request: Request, product: Product) -> None:
    """Do the part of `check` that needs no look at the output.

    Raises
    ------
    GroupsMissing, InvalidRequest
    """
    from geozarr_runner.kinds.profiles import check_options
    from geozarr_runner.planning.groups import report

    found = report(product, request.groups, options=request.options)
    found.raise_for_missing(all_needed=bool(request.options["validate_groups"]))
    check_options(product, found.found, request.options)


def open_source(source: Any, settings: Settings) -> Product:
    """Open a product, or the one that the settings name where `source` is None."""
    from geozarr_runner.inspection.reader import open_product

    return open_product(settings.required("stac_url") if source is None else source)
