"""What is GeoZarr already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geozarr_runner.kinds.base import Attributes, Groups
from geozarr_runner.kinds.generic import Generic
from geozarr_runner.product.model import Group, Product, Refusal

CONVENTION = "spatial"


class GeoZarr(Generic):
    """An output of a converter: it is opened, and not converted again."""

    names: tuple[str, ...] = ("GeoZarr",)

    def recognise(self, attributes: Attributes, groups: Groups) -> str | None:
        """Recognise it by a group that declares the convention of where its pixels lie."""
        return self.names[0] if any(map(_is_declared, attributes.values())) else None

    def outcome(self, kind: str, zarr_format: int) -> str:
        """Return that there is nothing to do."""
        return "refused, as it is GeoZarr already: `geozarr_nb.open` opens it"

    def refusal(self, product: Product) -> Refusal:
        """Say that there is nothing to do."""
        return Refusal("it is GeoZarr already", "open it as it is: geozarr_nb.open(...)")

    def unfit(self, product: Product, group: Group) -> str | None:
        """Return the same of each group."""
        return "it is GeoZarr already"


def _is_declared(attributes: Mapping[str, Any]) -> bool:
    declared = attributes.get("zarr_conventions")
    conventions = declared if isinstance(declared, list) else ()
    names = (one.get("name") for one in conventions if isinstance(one, Mapping))
    return any(str(name).rstrip(":") == CONVENTION for name in names)
