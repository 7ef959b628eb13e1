"""Products in the other format of Zarr."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import zarr

NOT_IN_V3 = ("_ARRAY_DIMENSIONS",)


def in_v3(product: Path, path: Path) -> Path:
    """Write a product of Zarr v2 as one of v3: the same names, types, pixels and attributes."""
    old = zarr.open_group(str(product), mode="r", zarr_format=2)
    new = zarr.create_group(str(path), zarr_format=3, attributes=dict(old.attrs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # text and consolidated metadata are no part of the v3 specification yet
        for name, node in sorted(old.members(max_depth=None)):
            attributes = {key: value for key, value in node.attrs.items() if key not in NOT_IN_V3}
            if isinstance(node, zarr.Group):
                new.require_group(name).attrs.update(attributes)
                continue
            fill = node.fill_value
            array = new.create_array(
                name,
                shape=node.shape,
                chunks=node.chunks,
                dtype=node.dtype,
                fill_value=node.dtype.type() if fill is None else fill,
                dimension_names=node.attrs["_ARRAY_DIMENSIONS"],
                attributes=attributes,
            )
            array[...] = np.asarray(node[...])
        zarr.consolidate_metadata(str(path), zarr_format=3)
    return path
