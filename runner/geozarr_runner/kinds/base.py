"""What is asked of each kind of product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from geozarr_runner.kinds.layout import NO_OPTIONS, WEB_CHUNK, PlannedArray
from geozarr_runner.product.model import Group, Product

if TYPE_CHECKING:
    from geozarr_runner.kinds.warp import Warp
    from geozarr_runner.product.sampler import StoredPixels

GENERIC_LAYOUT = ("--no-s2-optimized", "--no-s3-olci-optimized")


@dataclass(frozen=True, slots=True)
class ConverterCall:
    """What the converter is told beyond input and output.

    Attributes
    ----------
    groups
        Values of its one `--groups`; none leaves it away.
    flags
        Further options, as they are typed.
    command
        The one of its commands that does it.
    lacks
        Options of the converter that have no effect there.
    """

    groups: tuple[str, ...]
    flags: tuple[str, ...] = ()
    command: str = "convert"
    lacks: tuple[str, ...] = ()


def chunk_flags(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what makes the converter store its output as it is asked for."""
    return ("--spatial-chunk", str(WEB_CHUNK), "--enable-sharding") if options.get("chunks") == "web" else ()


class Profile(Protocol):
    """The ways of one kind of product.

    Attributes
    ----------
    is_warped
        Its outputs lie on another grid than its arrays.
    is_swath
        Its outputs lie where their latitudes and longitudes say, and on no grid.
    not_copied
        How the paths of groups begin that the converter leaves out of a whole product.
    """

    is_warped: bool
    is_swath: bool
    not_copied: tuple[str, ...]

    def resolve(self, product: Product, group: str) -> tuple[str, ...]:
        """Return the groups that a normalised name stands for; none where the product has no such group."""

    def unfit(self, product: Product, group: Group) -> str | None:
        """Return why a group cannot become GeoZarr; None where it can."""

    def companions(self, product: Product, groups: Sequence[str]) -> tuple[str, ...]:
        """Return groups that have to lie beside the chosen ones in the converter's input, and not in the output."""

    def empty_groups(self, product: Product) -> tuple[str, ...]:
        """Return groups without arrays that the converter wants to see in its input."""

    def call(self, product: Product, groups: Sequence[str], options: Mapping[str, Any] = NO_OPTIONS) -> ConverterCall:
        """Return what to tell the converter; `groups` is empty for the whole product."""

    def refuses(self, option: str, groups: Sequence[str]) -> str | None:
        """Return why an option of the result cannot be other than it is without being named; None where it can."""

    def without_effect(self, groups: Sequence[str], options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return a sentence for each option that will not do what its name says."""

    def planned_arrays(
        self, product: Product, groups: Sequence[str], options: Mapping[str, Any]
    ) -> list[PlannedArray] | None:
        """Return the data arrays of the output; None where only the converter knows."""

    def output_group(self, group: str) -> str:
        """Return where the output holds a group's data at full size."""

    def output_crs(self, product: Product, group: Group) -> str | None:
        """Return the coordinate reference system that a group's output is in."""

    def warp(self, product: Product, source: StoredPixels) -> Warp | None:
        """Return what tells where pixels of the output came from; None where they lie where they lay."""
