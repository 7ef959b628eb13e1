"""The public calls that look at a product: `inspect`, `validate`, `estimate`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from geozarr_nb.request import open_source
from geozarr_nb.settings import Settings
from geozarr_runner.spec.options import RESULT, Groups, ResultOptions, refuse_unknown
from geozarr_runner.spec.signature import signed

if TYPE_CHECKING:
    import pystac

    from geozarr_runner.planning.estimate import Estimate
    from geozarr_runner.planning.groups import GroupReport
    from geozarr_runner.product.model import Product

    Source = str | os.PathLike[str] | Mapping[str, Any] | pystac.Item | Product


def inspect(source: Source | None = None) -> Product:
    """Read a product's structure: kind, groups, variables, shapes, chunks, attributes.

    Only metadata is read, no pixels.

    Parameters
    ----------
    source
        Address or path of a Zarr store, or a STAC item: its address, its file, its dict or a `pystac.Item`. None is
        the product that the settings name.

    Returns
    -------
    Product
        The structure, which a notebook shows as a table.

    Raises
    ------
    ProductNotFound
        There is no product at this address.
    ProductDenied
        The server refuses to show the product.
    ProductUnreachable
        The server does not answer.
    ProductBroken
        What lies there is no readable Zarr store.
    InvalidRequest
        `source` has another type, or is an address that may not be opened.
    """
    return open_source(source, Settings.load())


def validate(source: Source | None = None, groups: Groups | None = None) -> GroupReport:
    """Compare the groups of a request with those of a product.

    Parameters
    ----------
    source
        As for `inspect`.
    groups
        Paths of groups, as a list, which is taken as it is, or as a text: a JSON array, or paths with commas or blanks
        between them. None takes the groups that the settings name. An empty list, an empty text and "0" are the whole
        product, in the converter's own layout.

    Returns
    -------
    GroupReport
        The groups that are available and those that are missing, with similar names. A missing group raises no error.

    Raises
    ------
    ProductUnreachable, InvalidRequest
        As for `inspect`.
    """
    from geozarr_runner.planning.groups import report

    settings = Settings.load()
    return report(open_source(source, settings), settings.groups if groups is None else groups, reads=True)


@signed(ResultOptions)
def estimate(source: Source | None = None, groups: Groups | None = None, **options: Unpack[ResultOptions]) -> Estimate:
    """Estimate what a conversion costs: bytes to download and to write, requests, memory, scratch space.

    The store is asked for the size of each object that is needed. No pixels are read.

    Parameters
    ----------
    source, groups
        As for `validate`.
    **options
        The options that change the output.

    Returns
    -------
    Estimate
        The figures: `download_bytes`, `requests`, `output_bytes`, `memory_bytes` (peak memory of one converter) and
        `staging_bytes` (scratch space for what is downloaded). A notebook shows them as a table.

    Raises
    ------
    GroupsMissing
        None of the groups is in the product.
    InvalidRequest
        The options are refused for this product and these groups.
    ProductUnreachable
        As for `inspect`.
    """
    from geozarr_runner.planning.estimate import estimate as estimate_product

    refuse_unknown(options, RESULT, "geozarr_nb.estimate")
    settings = Settings.load()
    wanted = settings.groups if groups is None else groups
    return estimate_product(open_source(source, settings), wanted, **options)
