"""In which coordinate reference system a group of a product lies: every place where products say it, and one answer.

The nearest place decides: the arrays of the group, their grid mapping and the group itself; then the groups above it;
then what the product says of itself as a whole. What the whole product says may not contradict the group's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geozarr_runner.product.attributes import OF_A_GRID_MAPPING, grid_mappings, properties_of
from geozarr_runner.product.model import Array, Group, Product, parents_of
from geozarr_runner.text.printable import printable
from geozarr_runner.trust import crs

if TYPE_CHECKING:
    from pyproj import CRS

OF_EOPF = ("horizontal_CRS_code", "horizontal_crs_code")
_NOT_SAID = "neither it nor the product says in which coordinate reference system it lies"
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Statement:
    """One place where a reference system is said.

    Attributes
    ----------
    place
        The attribute, with what it is one of: `/dem/height: proj:epsg`.
    value
        What stands there.
    """

    place: str
    value: Any

    def __str__(self) -> str:
        return printable(f"{self.place} says {str(self.value)[:_SHOWN]!r}")


@dataclass(frozen=True, slots=True)
class ReferenceSystem:
    """The reference system that a group lies in.

    Attributes
    ----------
    crs
        As pyproj has it; None where it is not known.
    flaw
        Why it is not known, or cannot be that of a grid on the earth; empty where it can.
    """

    crs: CRS | None
    flaw: str = ""

    @property
    def text(self) -> str | None:
        """Its code, `EPSG:32632`, where it has one, else WKT; None where it is not known."""
        return None if self.crs is None else text_of(self.crs)


def text_of(system: CRS) -> str:
    """Return the code of a reference system, `EPSG:32632`, where it has one, else WKT."""
    code = system.to_epsg()
    return f"EPSG:{code}" if code is not None else str(system.to_wkt())


def reference_system(product: Product, group: Group) -> ReferenceSystem:
    """Return the reference system that a group's data are in.

    Whatever its spelling, it is read by pyproj. Values for nothing ("null", 0, an empty text) say nothing. One that
    cannot be read is passed over only where another one in the same place can.
    """
    whole = tuple(_of_the_whole(product))
    nothing: list[Statement] = []
    for statements in (*_by_nearness(product, group), whole):
        said = [statement for statement in statements if not crs.is_nothing(statement.value)]
        nothing += [statement for statement in statements if crs.is_nothing(statement.value)]
        read, unread = _read(said)
        if read:
            found = [*read, *([] if statements is whole else _read(whole)[0])]
            return _one_of(found)
        if unread:
            return ReferenceSystem(None, f"its reference system cannot be read: {unread[0]}")
    empty = next((f": {statement}" for statement in nothing if statement.value is not None), "")
    return ReferenceSystem(None, f"{_NOT_SAID}{empty}")


def _one_of(found: Sequence[tuple[Statement, CRS]]) -> ReferenceSystem:
    """Return the first of some systems, if all are one and it is on the earth."""
    (first, system), *others = found
    for other, another in others:
        if not crs.is_same(system, another):
            return ReferenceSystem(None, f"its reference system is said in two ways: {first}, and {other}")
    if not (system.is_projected or system.is_geographic):
        kind = f"{system.type_name} {printable(system.name)[:_SHOWN]!r}"
        return ReferenceSystem(None, f"it lies in the {kind}, which does not say where on the earth that is")
    return ReferenceSystem(system)


def _read(statements: Sequence[Statement]) -> tuple[list[tuple[Statement, CRS]], list[str]]:
    """Return what can be read of some statements, each system once, and why the others cannot."""
    read: dict[int, tuple[Statement, CRS]] = {}
    unread = []
    for statement in statements:
        if crs.is_nothing(statement.value):
            continue
        try:
            system = crs.parsed(statement.value)  # the same object for the same words, and to compare two takes long
            read.setdefault(id(system), (statement, system))
        except ValueError as error:
            unread.append(f"{printable(statement.place)}: {error}")
    return list(read.values()), unread


def _by_nearness(product: Product, group: Group) -> Iterator[list[Statement]]:
    """Yield what is said of a group's reference system, what is nearest to its data first."""
    near = [said for array in group.variables for said in _of_attributes(array.path, array.attributes)]
    near += [said for mapping in _grid_mappings(product, group) for said in _of_grid_mapping(mapping)]
    yield [*near, *_of_attributes(group.path, group.attributes)]
    for path in parents_of(group.path):
        yield list(_of_attributes(path, product.parents.get(path, {})))


def _of_attributes(path: str, attributes: Mapping[str, Any]) -> Iterator[Statement]:
    return (Statement(f"{path}: {name}", attributes[name]) for name in crs.ATTRIBUTES if name in attributes)


def _of_grid_mapping(array: Array) -> list[Statement]:
    """Return what a grid mapping says: its texts, or else its parameters as CF has them."""
    said = list(_of_attributes(array.path, array.attributes))
    if not any(not crs.is_nothing(statement.value) for statement in said) and "grid_mapping_name" in array.attributes:
        parameters = {name: value for name, value in array.attributes.items() if not name.startswith("_")}
        said.append(Statement(f"{array.path}: grid_mapping_name", parameters))
    return said


def _grid_mappings(product: Product, group: Group) -> Iterator[Array]:
    """Yield the variables with the reference system: those that arrays name, or else any that the group has."""
    named = dict.fromkeys(name for array in group.variables for name in grid_mappings(array.attributes))
    found = [array for name in named if (array := _variable(product, group, name)) is not None]
    scalars = (array for array in group.coordinates if not array.shape)
    yield from found or (array for array in scalars if not OF_A_GRID_MAPPING.isdisjoint(array.attributes))


def _variable(product: Product, group: Group, name: str) -> Array | None:
    """Return the variable of a name, in a group or the nearest of those above it."""
    for path in (group.path, *parents_of(group.path)):
        above = product.groups.get(path)
        for array in above.arrays if above is not None else ():
            if name in (array.name, array.path):
                return array
    return None


def _of_the_whole(product: Product) -> Iterator[Statement]:
    """Yield what the product says of itself as a whole, in the two ways of EOPF."""
    for name, value in properties_of(product.attributes).items():
        if name in crs.ATTRIBUTES:
            yield Statement(f"stac_discovery: {name}", value)
    other = product.attributes.get("other_metadata")
    for name in OF_EOPF:
        if isinstance(other, Mapping) and name in other:
            yield Statement(f"other_metadata: {name}", other[name])
