"""What is asked of each kind of product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from geozarr_runner.kinds.layout import NO_OPTIONS, WEB_CHUNK, PlannedArray
from geozarr_runner.product.attributes import properties_of
from geozarr_runner.product.encoding import Encoding
from geozarr_runner.product.model import Array, Group, Product, Refusal

if TYPE_CHECKING:
    from geozarr_runner.kinds.warp import Warp
    from geozarr_runner.product.sampler import StoredPixels, Values

type Groups = Mapping[str, Group]
type Attributes = Mapping[str, Mapping[str, Any]]

XARRAY_EOPF = (
    "xarray reads it as it is: pip install xarray-eopf, and "
    'xarray.open_datatree(..., engine="eopf-zarr", op_mode="native")'
)
READ_BY = '`xarray.open_datatree(..., engine="eopf-zarr")` of xarray-eopf reads it'
LOOK = "look at what it holds: geozarr_nb.inspect(...)"
# Where the output has what lies in the root of a product.
PLACE_OF_ROOT = "/data"
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


@dataclass(frozen=True, slots=True)
class Made:
    """What the converter's input has besides the product's own arrays.

    Attributes
    ----------
    values
        Of each array, by its path.
    caution
        What a person should know of it; empty where nothing.
    """

    values: Mapping[str, Values]
    caution: str = ""


def chunk_flags(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what makes the converter store its output as it is asked for."""
    return ("--spatial-chunk", str(WEB_CHUNK), "--enable-sharding") if options.get("chunks") == "web" else ()


class Profile(Protocol):
    """The ways of one kind of product.

    Attributes
    ----------
    names
        What `recognise` can return.
    is_warped
        Its outputs lie on another grid than its arrays.
    is_swath
        Its outputs lie where their latitudes and longitudes say, and on no grid.
    not_copied
        How the paths of groups begin that the converter leaves out of a whole product.
    """

    names: tuple[str, ...]
    is_warped: bool
    is_swath: bool
    not_copied: tuple[str, ...]

    def recognise(self, attributes: Attributes, groups: Groups) -> str | None:
        """Return the name of a product's kind; None where it is of another kind.

        Parameters
        ----------
        attributes
            Those of every group, by its path, those without arrays included.
        groups
            Every group that holds arrays, by its path.
        """

    def outcome(self, kind: str, zarr_format: int) -> str:
        """Return what becomes of products of a kind in a format of Zarr, as a sentence of the documentation."""

    def refusal(self, product: Product) -> Refusal | None:
        """Return why nothing of a product can be converted; None where its groups decide."""

    def misplaced(self, product: Product, groups: Sequence[Group]) -> dict[str, Refusal]:
        """Return the paths of groups that are fit and whose pixels would lie elsewhere, and why.

        It reads what of the product says where the pixels lie, which takes a few requests. Nothing is returned of what
        cannot be read: staging says why.
        """

    def resolve(self, product: Product, group: str) -> tuple[str, ...]:
        """Return the groups that a normalised name stands for; none where the product has no such group."""

    def unfit(self, product: Product, group: Group) -> str | None:
        """Return why a group cannot become GeoZarr; None where it can."""

    def companions(self, product: Product, groups: Sequence[str]) -> tuple[str, ...]:
        """Return groups that have to lie beside the chosen ones in the converter's input, and not in the output."""

    def empty_groups(self, product: Product) -> tuple[str, ...]:
        """Return groups without arrays that the converter wants to see in its input."""

    def made_arrays(self, product: Product) -> tuple[Array, ...]:
        """Return arrays that the product lacks, and that the converter's input has besides."""

    def make(self, product: Product, source: StoredPixels) -> Made:
        """Return the values of these arrays.

        Parameters
        ----------
        source
            The converter's input, as far as it holds the product's own arrays.

        Raises
        ------
        ProductBroken
            The product's own arrays do not give them.
        """

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

    def means_no_data(self, array: Array) -> bool:
        """Return whether the fill value of a Zarr v3 array is no data, though its attributes do not say so."""

    def told(self, array: Array, encoding: Encoding, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return an array's attributes as the converter has to find them; the array's own where they will do.

        Raises
        ------
        ProductBroken
            They are no numbers where numbers have to be.
        """

    def output_group(self, group: str) -> str:
        """Return where the output holds a group's data at full size."""

    def output_crs(self, product: Product, group: Group) -> str | None:
        """Return the coordinate reference system that a group's output is in."""

    def warp(self, product: Product, source: StoredPixels) -> Warp | None:
        """Return what tells where pixels of the output came from; None where they lie where they lay."""


def product_type(attributes: Attributes) -> str:
    """Return the type that a product says it is of, in capital letters; empty where it does not."""
    return str(properties_of(attributes.get("/", {})).get("product:type", "")).upper()
