"""Sentinel-3 OLCI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geozarr_runner.kinds.base import ConverterCall
from geozarr_runner.kinds.generic import Generic
from geozarr_runner.kinds.layout import NO_OPTIONS, PlannedArray
from geozarr_runner.product.model import Array, Group, Product


class Olci(Generic):
    """Sentinel-3 OLCI: swath radiances, which only the converter's own OLCI layout can hold."""

    is_swath = True

    def unfit(self, product: Product, group: Group) -> str | None:
        """Return why a group cannot become GeoZarr: only the measurements can."""
        return None if group.path == "/measurements" else "of an OLCI product only /measurements becomes GeoZarr"

    def refuses(self, option: str, groups: Sequence[str]) -> str | None:
        """Refuse `packed`, which needs no asking, and `chunks`."""
        return {
            "packed": "of Sentinel-3 OLCI the converter keeps packed integers anyway",
            "chunks": "the converter has chunks of its own for Sentinel-3 OLCI, and none for the web",
        }.get(option)

    def call(self, product: Product, groups: Sequence[str], options: Mapping[str, Any] = NO_OPTIONS) -> ConverterCall:
        """Let the converter recognise it."""
        return ConverterCall((), lacks=("--max-retries",))

    def planned_arrays(
        self, product: Product, groups: Sequence[str], options: Mapping[str, Any]
    ) -> list[PlannedArray] | None:
        """Return None: the converter chooses."""
        return None

    def means_no_data(self, array: Array) -> bool:
        """Return True for the largest count of a radiance, as the format defines it."""
        return array.name.endswith("_radiance") and array.metadata.get("fill_value") == 65535

    def output_group(self, group: str) -> str:
        """Return its finest level."""
        return "/measurements/r0" if group == "/measurements" else group
