"""Converts one EOPF Zarr product to a verified GeoZarr.

The stages are the folders, in the order in which the data passes them: `product` reads what there is, `planning`
decides what to do, `staging` narrows the input to what is wanted, `converter` runs `eopf-geozarr`, `verification`
compares the output with the input, `publishing` gives it its name. `run.py` calls them in this order.
"""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # which a worker that waits for a run has no use for

    return version("geozarr-runner")
