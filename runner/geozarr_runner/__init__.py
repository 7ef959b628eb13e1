"""Converts one EOPF Zarr product to a verified GeoZarr.

The stages are the modules, in the order in which the data passes them: `product` and `groups` read what there is,
`preflight` decides what to do, `stage` narrows the input to what is wanted, `convert` runs `eopf-geozarr`, `verify`
compares the output with the input, `publish` gives it its name.
"""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # which a worker that waits for a run has no use for

    return version("geozarr-runner")
