"""The items of outputs, and collections of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from geozarr_nb.errors import InvalidRequest
from geozarr_nb.outputs.location import location
from geozarr_nb.outputs.stac.documents import parsed, read_as_stac, read_document
from geozarr_runner.product.footprint import around
from geozarr_runner.publishing.stac_item import address_of
from geozarr_runner.trust.addresses import redact

if TYPE_CHECKING:
    import pystac


LICENCE = "other"  # the results' is that of the products, which they do not say


def read_item(output: str, source: str = "") -> pystac.Item:
    """Return the STAC item of an output that is there, with absolute hrefs.

    Parameters
    ----------
    output
        A path, an address, or `pvc://claim/path`.
    source
        The address of what it was made from, where that has another name here than where the job ran.

    Raises
    ------
    InvalidRequest
        There is none.
    ProductUnreachable, ProductDenied, ProductBroken, ClusterError
        It cannot be read.
    """
    import pystac

    from geozarr_nb.outputs.stac.objects import Item

    address = address_of(location(output))
    raw = read_document(address)
    if raw is None:
        raise InvalidRequest(
            "the output has no STAC item beside it",
            given=redact(address),
            remedy='convert it again, with if_exists="overwrite"; or bring back the file, if somebody removed it',
        )
    with read_as_stac(address):
        item = Item.of(parsed(raw, address), address)
        item.make_asset_hrefs_absolute()
        if source and [link.href for link in item.get_links(pystac.RelType.DERIVED_FROM)] != [source]:
            item.clear_links(pystac.RelType.DERIVED_FROM)
            item.add_link(pystac.Link(pystac.RelType.DERIVED_FROM, source))
        return item.dressed()


def collection_of(items: Sequence[pystac.Item], identifier: str, description: str) -> pystac.Collection:
    """Return a collection of items; of several with the same id, each but the first gets a number.

    Raises
    ------
    InvalidRequest
        There are no items.
    """
    import pystac

    from geozarr_nb.outputs.stac.objects import Collection

    if not items:
        raise InvalidRequest(
            "none of these jobs has succeeded, and a collection of nothing covers no place and no time",
            given=identifier,
            remedy="wait for them: jobs.wait(); then see jobs.failed",
        )
    seen: dict[str, int] = {}
    for item in items:
        number = seen[item.id] = seen.get(item.id, 0) + 1
        if number > 1:
            item.id = f"{item.id}-{number}"
    extent = pystac.Extent.from_items(items)
    box = around(item.bbox for item in items if item.bbox is not None)  # pystac knows of no antimeridian
    extent.spatial = pystac.SpatialExtent([list(box or (-180.0, -90.0, 180.0, 90.0))])
    collection = Collection(identifier, description, extent, license=LICENCE)
    collection.add_items(items)
    return collection
