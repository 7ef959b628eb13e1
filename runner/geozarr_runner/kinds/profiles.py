"""What the converter needs to be told for each kind of product.

`eopf-geozarr convert` detects Sentinel-2 and Sentinel-3 OLCI by itself and then passes over `--groups`; for other
inputs it copies everything and makes GeoZarr of the groups that are named exactly. A `Profile` knows which of these
ways to take, what has to lie beside a chosen group, and which groups cannot become GeoZarr at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geozarr_runner.errors import InvalidRequest
from geozarr_runner.kinds.base import Profile
from geozarr_runner.kinds.generic import Generic
from geozarr_runner.kinds.layout import NO_OPTIONS, PlannedArray
from geozarr_runner.kinds.olci import Olci
from geozarr_runner.kinds.sentinel1 import Sentinel1Grd
from geozarr_runner.kinds.sentinel2 import Sentinel2
from geozarr_runner.product.encoding import Encoding
from geozarr_runner.product.model import Array, Product
from geozarr_runner.spec.options import of_result

_KINDS: Mapping[str, Profile] = {
    "Sentinel-1 GRD": Sentinel1Grd(),
    "Sentinel-2 L1C": Sentinel2(),
    "Sentinel-2 L2A": Sentinel2(),
    "Sentinel-3 OLCI": Olci(),
}
_ANY_OTHER = Generic()


def profile_of(product: Product) -> Profile:
    """Return the profile for a product's kind."""
    return _KINDS.get(product.kind, _ANY_OTHER)


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
