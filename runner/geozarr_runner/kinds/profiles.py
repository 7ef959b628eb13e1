"""What the converter needs to be told for each kind of product.

`eopf-geozarr convert` detects Sentinel-2 and Sentinel-3 OLCI by itself and then passes over `--groups`; for other
inputs it copies everything and makes GeoZarr of the groups that are named exactly. A `Profile` knows which of these
ways to take, what has to lie beside a chosen group, and which groups cannot become GeoZarr at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geozarr_runner.errors import InvalidRequest
from geozarr_runner.kinds.base import Attributes, Groups, Profile
from geozarr_runner.kinds.generic import Generic
from geozarr_runner.kinds.geozarr import GeoZarr
from geozarr_runner.kinds.layout import NO_OPTIONS, PlannedArray
from geozarr_runner.kinds.olci import Olci, OlciLevel2
from geozarr_runner.kinds.sentinel1 import Sentinel1Grd
from geozarr_runner.kinds.sentinel1_other import Sentinel1Other
from geozarr_runner.kinds.sentinel2 import Sentinel2
from geozarr_runner.kinds.sentinel3_other import Sentinel3Other
from geozarr_runner.product.encoding import Encoding
from geozarr_runner.product.model import Array, Product
from geozarr_runner.spec.options import of_result

FORMATS = (2, 3)
# The first that recognises a product has it, and the last one recognises every product.
KINDS: tuple[Profile, ...] = (
    GeoZarr(),
    Sentinel1Grd(),
    Sentinel1Other(),
    Sentinel2(),
    Olci(),
    OlciLevel2(),
    Sentinel3Other(),
    Generic(),
)
_BY_NAME: Mapping[str, Profile] = {name: profile for profile in KINDS for name in profile.names}


def recognise(attributes: Attributes, groups: Groups) -> str:
    """Return the name of a product's kind: see `Profile.recognise`."""
    found = (profile.recognise(attributes, groups) for profile in KINDS)
    return next(name for name in found if name is not None)


def outcomes() -> list[tuple[str, ...]]:
    """Return each kind with what becomes of its products in Zarr v2, and in v3."""
    names = ((profile, name) for profile in KINDS for name in profile.names)
    return [(name, *(profile.outcome(name, version) for version in FORMATS)) for profile, name in names]


def profile_of(product: Product) -> Profile:
    """Return the profile for a product's kind."""
    return _BY_NAME[product.kind]


def encoding_of(product: Product, array: Array, address: str = "") -> Encoding:
    """Return what the stored values of one of a product's arrays mean.

    Parameters
    ----------
    address
        What an error calls the store.

    Raises
    ------
    ProductBroken
        Its type or its fill value cannot be read.
    """
    return Encoding.of(array, address, is_by_kind=profile_of(product).means_no_data(array))


def planned_arrays(
    product: Product, groups: Sequence[str], options: Mapping[str, Any] = NO_OPTIONS
) -> list[PlannedArray] | None:
    """Return the data arrays of the output; None where only the converter knows (warped, or chunked by a library).

    Parameters
    ----------
    groups
        The chosen ones; empty for the whole product.
    options
        Those of the request that determine the result.
    """
    return profile_of(product).planned_arrays(product, groups, options)


def check_options(product: Product, groups: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuse options of the result that the converter does not have for this product.

    Raises
    ------
    InvalidRequest
    """
    profile = profile_of(product)
    for name, value in of_result(options).items():
        if (why := profile.refuses(name, groups)) is not None:
            choice = "; or give groups=[] for the whole product" if profile.refuses(name, ()) is None else ""
            raise InvalidRequest(
                why, given=f"{name}={value!r} for {product.kind}: {product.name}", remedy=f"leave {name} out{choice}"
            )
