"""Finds the stored object on which a run came to grief: the converter does not name it."""

from __future__ import annotations

from typing import Any

from geozarr_runner.errors import ProductBroken
from geozarr_runner.planning.estimate import needed
from geozarr_runner.planning.preflight import Plan
from geozarr_runner.product.windows import region
from geozarr_runner.stores.store import Store
from geozarr_runner.trust.addresses import redact


def diagnose(plan: Plan, source_url: str) -> ProductBroken | None:
    """Return which stored object cannot be decoded; None where all can, or where reading them all takes a download.

    Parameters
    ----------
    source_url
        What the converter read: the staged view, or the product itself.
    """
    import zarr

    store = Store(source_url)
    if store.local is None:
        return None
    from geozarr_runner.product.guard import MISREAD, guard

    root = zarr.open_group(
        store.for_zarr(is_view=not plan.is_product(source_url)),
        mode="r",
        zarr_format=3 if plan.product.zarr_format == 3 else 2,
    )
    for array in needed(plan.product, plan.groups):
        stored: Any = root[array.path.strip("/")]
        opened = guard(stored, redact(plan.product.url))
        for index, key in zip(array.indices(), array.object_keys(), strict=True):
            if not (store.local / key).exists():
                continue
            try:
                opened[region(array, index)]
            except (ProductBroken, OSError, *MISREAD) as error:
                return ProductBroken(
                    f"a stored chunk of {array.path} cannot be decoded, its pixels are lost: {_reason(error)}",
                    given=f"{redact(plan.product.url)}/{key}",
                    remedy="fetch the product again, or tell whoever publishes it; groups without it can be converted",
                )
    return None


def _reason(error: BaseException) -> str:
    """Return what is wrong: of our own error the decoder's words, which it was made of."""
    if isinstance(error, ProductBroken) and error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
