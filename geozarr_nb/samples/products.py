"""Small products with a real product's structure, for demonstrations, tests and benchmarks."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal, get_args

from geozarr_runner.errors import InvalidRequest, OutputExists, StorageDenied, StorageFull
from geozarr_runner.text.shell import word
from geozarr_runner.trust.addresses import expanded

type SampleKind = Literal["s2-l2a", "s1-grd", "s3-olci"]

_STORE_MARKS = (".zgroup", ".zarray", "zarr.json")
_SIZES: dict[str, range] = {
    "s1-grd": range(200, 26064 + 1),
    "s3-olci": range(120, 4865 + 1),
    "s2-l2a": range(120, 10980 + 1, 12),  # half an edge, a chunk of the 10 m bands, has to hold whole 60 m pixels
}


def sample_product(
    path: str | os.PathLike[str],
    size: int = 1080,
    kind: SampleKind = "s2-l2a",
    overwrite: bool = False,
) -> Path:
    """Write a product that looks like a real one, of a made-up landscape.

    The store is Zarr v2 with consolidated metadata. Groups, chunks, data types, packing and attributes are those of a
    real product; sizes, chunks and the attributes that tell them are scaled. The same arguments give the same bytes.

    Parameters
    ----------
    path
        Folder to write; it appears under this name only when it is complete.
    size
        Pixels along an edge. "s2-l2a": of the 10 m bands, a multiple of 12 from 120 to 10980 (a full tile); the
        20 m and 60 m bands have a half and a sixth of it. "s1-grd": along the ground range, from 200 to 26064 (a full
        scene); there are 0.64 times as many lines. "s3-olci": columns, from 120 to 4865 (a full frame); rows are
        0.841 times as many.
    kind
        "s2-l2a" (Sentinel-2 MSI), "s1-grd" (Sentinel-1, VV and VH) or "s3-olci" (Sentinel-3 full resolution).
    overwrite
        Replace a Zarr store of that name. Nothing but a Zarr store is ever replaced.

    Returns
    -------
    pathlib.Path
        The store, absolute.

    Raises
    ------
    geozarr_runner.errors.InvalidRequest
        The size does not fit the kind, the kind is unknown, or the parent folder is missing.
    geozarr_runner.errors.OutputExists
        There is something at `path`, and `overwrite` is false or it is not a Zarr store.
    geozarr_runner.errors.StorageDenied, geozarr_runner.errors.StorageFull
        The folder of `path` is read-only, or its disk is full.

    Notes
    -----
    On two cores, with two threads:

    =======  =====  =======  =======  ======
    kind     size   stored   seconds  memory
    =======  =====  =======  =======  ======
    s2-l2a    1080    16 MB        2  0.2 GB
    s2-l2a   10980   1.2 GB       45  1.3 GB
    s1-grd    1080     3 MB        2  0.2 GB
    s1-grd   26064   0.8 GB       52  0.6 GB
    s3-olci   1080    34 MB        2  0.3 GB
    s3-olci   4865   0.6 GB       20  1.1 GB
    =======  =====  =======  =======  ======

    A smaller sample is the north-west (Sentinel-1: the south-west) corner of the real footprint at the real pixel
    size, with the whole landscape in it. Reflectance is (number * 0.0001) - 0.1, and 0 is no data.

    Examples
    --------
    >>> store = sample_product("sample.zarr")  # doctest: +SKIP
    """
    target = expanded(path)
    if kind not in get_args(SampleKind.__value__):
        known = ", ".join(get_args(SampleKind.__value__))
        raise InvalidRequest("there is no sample of this kind", given=kind, remedy=f"choose one of: {known}")
    _check_size(kind, size)
    _check_target(target, overwrite=overwrite)
    with _published(target) as folder:
        _writer(kind)(folder, size)
    return target


def _check_size(kind: str, size: int) -> None:
    sizes = _SIZES[kind]
    if size in sizes:
        return
    step = f"a multiple of {sizes.step}" if sizes.step > 1 else "a whole number"
    nearest = min(sizes, key=lambda allowed: abs(allowed - size))
    raise InvalidRequest(
        f"size has to be {step} from {sizes[0]} to {sizes[-1]} for kind={kind!r}",
        given=size,
        remedy=f"use size={nearest}",
    )


def _writer(kind: str) -> Callable[[Path, int], None]:
    """Return what fills an empty folder; numpy and zarr are imported no earlier than here."""
    from geozarr_nb.samples import sentinel1, sentinel2, sentinel3

    writers = {
        "s1-grd": sentinel1.write_product,
        "s2-l2a": sentinel2.write_product,
        "s3-olci": sentinel3.write_product,
    }
    return writers[kind]


def _check_target(target: Path, *, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise InvalidRequest(
            "the folder to write the sample into does not exist",
            given=target.parent,
            remedy=f"mkdir -p {word(str(target.parent))}",
        )
    if not os.access(target.parent, os.W_OK):
        raise StorageDenied(
            "the folder to write the sample into is read-only",
            given=target.parent,
            remedy="choose another path, or get permission to write there",
        )
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not any((target / mark).is_file() for mark in _STORE_MARKS):
        raise OutputExists(
            "there is something of this name that is not a Zarr store, and it is never replaced",
            given=target,
            remedy="choose another path",
        )
    if not overwrite:
        raise OutputExists(
            "there is a Zarr store of this name already",
            given=target,
            remedy="pass overwrite=True to replace it, or choose another path",
        )


@contextmanager
def _published(target: Path) -> Iterator[Path]:
    """Give a hidden folder beside `target`, which takes its name at the end; after an error nothing is left of it."""
    folder = Path(mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial"))
    hidden, replaced = folder / "new", folder / "replaced"
    hidden.mkdir()
    try:
        yield hidden
        if target.exists():
            target.rename(replaced)
        try:
            hidden.rename(target)
        except OSError:
            if replaced.exists():
                replaced.rename(target)
            raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFull(
            "no space is left for the sample",
            given=target,
            remedy="make space, or choose a smaller size or another path",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
