"""Opens what a conversion wrote: one tree of lazy datasets, at full resolution or at an overview.

The converter writes overviews in two ways, and says which in a group's `multiscales` attribute:

- chosen groups: the group holds the native arrays, its children `r2`, `r4`, ... the overviews (asset "." is native);
- whole Sentinel-2 or OLCI product: the group holds no arrays, its children `r10m`, `r20m`, ... are the levels.

In the first one a child has the coordinates of its parent in another length, which `xarray.open_datatree` refuses.
Here every group is opened for itself, and overviews take the place of the native arrays instead of standing below them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from geozarr_nb.outputs.groups import (
    CONVERT_AGAIN,
    check_array,
    check_names,
    dimensions,
    read_groups,
    trusted_no_further,
)
from geozarr_nb.outputs.location import FinishedJob, location
from geozarr_runner.errors import InvalidRequest, ProductBroken
from geozarr_runner.text.shell import literal
from geozarr_runner.trust import crs
from geozarr_runner.trust.addresses import redact

if TYPE_CHECKING:
    import xarray as xr
    import zarr

    from geozarr_runner.product.encoding import Encoding

CONVENTIONS = frozenset({"multiscales", "spatial", "proj"})
NATIVE = "."
RASTER_DIMENSIONS = 2


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a multiscale group.

    Attributes
    ----------
    number
        0 is the native resolution, 1 the finest overview, and so on.
    path
        The group that holds the arrays of this level.
    shape
        Rows and columns; None where the level holds no raster.
    variables
        The rasters, in stored order.
    """

    number: int
    path: str
    shape: tuple[int, int] | None
    variables: tuple[str, ...]


class Output:
    """An opened store: what is in it, read from its metadata alone.

    Parameters
    ----------
    output
        A path, an address of any protocol that fsspec knows, `pvc://claim/path` for a cluster's claim, or a job that
        succeeded.
    strict
        Refuse a store that has none of the GeoZarr conventions (multiscales, spatial, proj).

    Attributes
    ----------
    address
        Where the store is, without what may be secret in it.
    groups
        The names of the arrays of every group by its absolute path, the root's included.
    pyramids
        The levels of every multiscale group by its absolute path, native first.

    Raises
    ------
    InvalidRequest
        Nothing is there (yet), or what is there is no GeoZarr.
    ProductUnreachable, ProductDenied, ProductBroken
        A remote store does not answer, or refuses; or its metadata cannot be read.
    """

    def __init__(self, output: str | os.PathLike[str] | FinishedJob, *, strict: bool = True) -> None:
        url = location(output)
        self.address = redact(url)
        self._groups = read_groups(url)
        self._datasets: dict[tuple[str, bool], xr.Dataset] = {}
        with trusted_no_further(self.address):
            self._arrays = {path: dict(group.arrays()) for path, group in self._groups.items()}
            check_names(self._groups, self._arrays, self.address)
        self.groups = {path: tuple(arrays) for path, arrays in self._arrays.items()}
        if strict and not any(_conventions(group) for group in self._groups.values()):
            raise InvalidRequest(
                "this Zarr store is no GeoZarr: none of its groups has multiscales, spatial or proj metadata",
                given=self.address,
                remedy=f"convert it with gz.convert({literal(self.address)}), or open it as it is with strict=False",
            )
        self.pyramids = {path: levels for path in self._groups if (levels := self._levels(path))}

    def dataset(self, path: str, *, chunked: bool = True) -> xr.Dataset:
        """Open one group by its absolute path, lazily, with values decoded and the CRS as a coordinate.

        Parameters
        ----------
        chunked
            Read whole chunks, by dask where that is installed; else what is asked for alone.
        """
        if (path, chunked) not in self._datasets:
            self._datasets[path, chunked] = self._open(path, chunked and find_spec("dask") is not None)
        return self._datasets[path, chunked]

    def _open(self, path: str, chunked: bool) -> xr.Dataset:
        import xarray as xr

        from geozarr_runner.product.encoding import told_to_readers
        from geozarr_runner.product.guard import guard

        group = self._groups[path]
        if not self.groups[path]:
            return xr.Dataset(attrs=group.attrs.asdict())
        if (wrong := crs.flaw(group.attrs.asdict())) is not None:
            raise ProductBroken(
                f"a group cannot be opened: {wrong}", given=f"{self.address}{path}", remedy=CONVERT_AGAIN
            )
        with trusted_no_further(f"{self.address}{path}"):
            store = xr.backends.ZarrStore(
                group,
                mode="r",
                # As xarray itself decides: in Zarr v2 the fill value marks what is missing, in v3 `_FillValue` does.
                use_zarr_fill_value_as_mask=group.metadata.zarr_format == 2,
            )
            for name, array in store.arrays():
                check_array(array, name, f"{self.address}{path}")
                guard(array, self.address)
                place = f"{self.address}{path.rstrip('/')}/{name}"
                told_to_readers(array, place, is_index=dimensions(array) == [name])
            return xr.open_dataset(store, engine="store", chunks={} if chunked else None, decode_coords="all")

    def rasters(self, path: str) -> dict[str, tuple[int, ...]]:
        """Return the shape of every array of a group that has rows and columns, coordinates aside."""
        shapes = {name: tuple(array.shape) for name, array in self._arrays[path].items()}
        return {
            name: shape
            for name, shape in shapes.items()
            if len(shape) >= RASTER_DIMENSIONS and name not in ("latitude", "longitude")
        }

    def encoding(self, path: str, name: str) -> Encoding:
        """Return what the stored values of an array mean."""
        from geozarr_runner.product.encoding import Encoding

        array = self._arrays[path][name]
        place = f"{self.address}{path.rstrip('/')}/{name}"
        return Encoding.of_opened(array, place, is_index=dimensions(array) == [name])

    def chunk_bytes(self, path: str, name: str) -> int:
        """Return how large one chunk of an array is, once it is decoded."""
        array = self._arrays[path][name]
        return math.prod(array.chunks) * array.dtype.itemsize

    def level(self, pyramid: str, number: int) -> Level:
        """Return a level of a multiscale group; its coarsest one where it has fewer."""
        levels = self.pyramids[pyramid]
        return levels[min(number, len(levels) - 1)]

    def _levels(self, path: str) -> tuple[Level, ...]:
        declared = self._groups[path].attrs.get("multiscales")
        layout = declared.get("layout") if isinstance(declared, Mapping) else None
        places = [
            path if asset == NATIVE else _join(path, str(asset))
            for entry in (layout if isinstance(layout, list) else ())
            if isinstance(entry, Mapping) and (asset := entry.get("asset"))
        ]
        found = [place for place in dict.fromkeys(places) if place in self._groups]
        levels = []
        for number, place in enumerate(found):
            rasters = self.rasters(place)
            shape = max(((shape[-2], shape[-1]) for shape in rasters.values()), default=None)
            levels.append(Level(number, place, shape, tuple(rasters)))
        return tuple(levels)


def open(  # noqa: A001  it is the public name, gz.open
    output: str | os.PathLike[str] | FinishedJob,
    *,
    level: int | Literal["native", "coarsest"] = "native",
    strict: bool = True,
) -> xr.DataTree:
    """Open a converted product with xarray, lazily, every group at its own path.

    Parameters
    ----------
    output
        A path; an address of any protocol that fsspec knows (http, https, s3, ...); `pvc://claim/path` for an output on
        a claim of the cluster; or a job that succeeded. A claim is read through its mount on this machine, or else
        through a small read-only pod.
    level
        "native" or 0 for full resolution: all groups. A number for that overview, "coarsest" for the smallest: only
        multiscale groups, with the overview's arrays in place of the native ones; where the levels lie side by side
        (whole Sentinel-2 product: r10m, r20m, r60m, r120m, r360m, r720m) only the group of that level, at its own
        path. A group that has fewer overviews than asked for shows its coarsest.
    strict
        True refuses a store without GeoZarr metadata. False opens any Zarr store.

    Returns
    -------
    xarray.DataTree
        Values are decoded (scale, offset, fill value) and chunked as they are stored; `spatial_ref` is a coordinate,
        so that `.rio.crs` works where rioxarray is installed. Only metadata and one-dimensional coordinates are read;
        pixels are read when they are needed.

    Raises
    ------
    InvalidRequest
        There is no output (yet), it is no GeoZarr, or it has no such level.
    ProductUnreachable, ProductDenied, ProductBroken
        A remote store does not answer, or refuses; or its metadata cannot be read.
    ClusterError
        The claim is not mounted here, and the cluster does not give access to it.

    Examples
    --------
    >>> tree = gz.open("out/r20m.zarr")
    >>> tree["measurements/reflectance/r20m/b04"].mean().compute()
    >>> small = gz.open("out/r20m.zarr", level="coarsest")
    """
    import xarray as xr

    source = Output(output, strict=strict)
    datasets = {path: source.dataset(place) for path, place in _places(source, level).items()}
    try:
        return xr.DataTree.from_dict(datasets)
    except (ValueError, KeyError, TypeError) as error:
        if "not aligned with its parents" not in str(error):
            raise ProductBroken(
                f"its groups cannot be one tree: {' '.join(str(error).split())}",
                given=source.address,
                remedy=CONVERT_AGAIN,
            ) from error
        raise InvalidRequest(
            "a group and one below it share dimensions of different lengths, which one tree cannot hold",
            given=source.address,
            remedy="open its groups apart from each other: xarray.open_groups(path, engine='zarr')",
        ) from error


def levels(output: str | os.PathLike[str] | FinishedJob) -> dict[str, tuple[Level, ...]]:
    """Return the resolutions of every multiscale group by its absolute path, native first.

    Raises
    ------
    InvalidRequest, ProductUnreachable
        As `open` does.
    """
    return dict(Output(output).pyramids)


def _places(source: Output, level: int | str) -> dict[str, str]:
    """Return each group of the tree with the group that its arrays come from."""
    number = _number(source, level)
    if number == 0:
        # Levels that lie side by side are groups in their own right; those below native arrays are only overviews.
        below = {each.path for levels in source.pyramids.values() if _is_stacked(levels) for each in levels[1:]}
        return {path: path for path in source.groups if not any(_is_within(path, overview) for overview in below)}
    places: dict[str, str] = {}
    for path, levels in source.pyramids.items():
        # Parents come along for their attributes, unless they hold arrays of their own at another resolution.
        places |= {parent: parent for parent in _parents(path) if parent not in places and not source.groups[parent]}
        chosen = source.level(path, number)
        places |= {path: chosen.path} if _is_stacked(levels) else {path: path, chosen.path: chosen.path}
    return places


def _is_stacked(levels: tuple[Level, ...]) -> bool:
    """Tell overviews below their native arrays from levels side by side."""
    return any(_is_within(level.path, levels[0].path) for level in levels[1:])


def _parents(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    return ["/", *(f"/{'/'.join(parts[:end])}" for end in range(1, len(parts)))] if path != "/" else []


def _number(source: Output, level: int | str) -> int:
    deepest = max((len(levels) for levels in source.pyramids.values()), default=1) - 1
    if level == "native":
        return 0
    if level == "coarsest":
        return deepest
    number = level if isinstance(level, int) else -1
    if not 0 <= number <= deepest:
        raise InvalidRequest(
            "there is no such level",
            given=f"level={level!r}",
            remedy=f'use "native", "coarsest" or a number from 0 to {deepest}'
            if deepest
            else "this output has no overviews: leave the level out",
        )
    return number


def _conventions(group: zarr.Group) -> frozenset[str]:
    declared = group.attrs.get("zarr_conventions")
    entries = declared if isinstance(declared, list) else []
    names = {str(entry.get("name", "")).rstrip(":") for entry in entries if isinstance(entry, Mapping)}
    return CONVENTIONS & names


def _join(path: str, asset: str) -> str:
    return f"{path.rstrip('/')}/{asset.strip('/')}"


def _is_within(path: str, ancestor: str) -> bool:
    return path == ancestor or path.startswith(f"{ancestor.rstrip('/')}/")
