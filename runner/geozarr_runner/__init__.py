"""Converts one EOPF Zarr product to a verified GeoZarr.

The stages are the modules, in the order in which the data passes them: `product` and `groups` read what there is,
`preflight` decides what to do, `stage` narrows the input to what is wanted, `convert` runs `eopf-geozarr`, `verify`
compares the output with the input, `publish` gives it its name.
"""

from importlib.metadata import version

__version__ = version("geozarr-runner")
