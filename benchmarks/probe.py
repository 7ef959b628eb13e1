"""What can only be measured from inside a process: run by `cases.py` as a child that prints one JSON object.

``probe.py import`` and ``probe.py inspect URL`` and ``probe.py estimate URL GROUP...`` and
``probe.py convert INPUT OUTPUT GROUP...`` and ``probe.py stage INPUT OUTPUT GROUP...``. Without groups, the whole
product.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from typing import Any

HEAVY = ("xarray", "zarr", "pandas", "kubernetes", "ipywidgets", "eopf_geozarr")


def import_package() -> dict[str, Any]:
    """Time the import of the package and name the heavy modules that came with it."""
    start = time.perf_counter()
    import geozarr_nb  # noqa: F401

    return {"seconds": time.perf_counter() - start, "loaded": [name for name in HEAVY if name in sys.modules]}


def inspect(url: str) -> dict[str, Any]:
    """Time `inspect` with everything it needs imported already."""
    import aiohttp  # noqa: F401
    import fsspec.implementations.http  # noqa: F401
    import zarr  # noqa: F401

    import geozarr_nb

    call = geozarr_nb.inspect  # public names are imported on first use
    start = time.perf_counter()
    product = call(url)
    return {"seconds": time.perf_counter() - start, "groups": len(product.groups)}


def estimate(url: str, *groups: str) -> dict[str, Any]:
    """Return what `estimate` foresees."""
    import geozarr_nb

    start = time.perf_counter()
    plan = geozarr_nb.estimate(url, groups=list(groups))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "download_bytes": plan.download_bytes, "output_bytes": plan.output_bytes}


def convert(url: str, output: str, *groups: str) -> dict[str, Any]:
    """Convert through the SDK, as a notebook would; the memory of this process is the figure."""
    import geozarr_nb

    job = geozarr_nb.convert(url, output, groups=list(groups), backend="local")
    return {"status": job.status}


def stage(url: str, output: str, *groups: str) -> dict[str, Any]:
    """Time the staging of a run alone; the memory of this process is a figure too."""
    from geozarr_runner.events import Reporter
    from geozarr_runner.planning.preflight import preflight
    from geozarr_runner.publishing.local import workspace
    from geozarr_runner.spec.request import Request
    from geozarr_runner.staging.view import stage

    reporter = Reporter(io.StringIO())
    plan = preflight(Request.of(url, output, groups=list(groups)), reporter)
    with workspace(plan.output, staging=plan.staging) as space:
        start = time.perf_counter()
        staged = stage(plan, space, reporter.progress("stage"), reporter)
        return {"seconds": time.perf_counter() - start, "bytes": staged.bytes_read}


if __name__ == "__main__":
    calls: dict[str, Callable[..., dict[str, Any]]] = {
        "import": import_package,
        "inspect": inspect,
        "estimate": estimate,
        "convert": convert,
        "stage": stage,
    }
    print(json.dumps(calls[sys.argv[1]](*sys.argv[2:])))
