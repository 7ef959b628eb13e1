"""From the address of a Zarr product to a verified GeoZarr, open in xarray.

>>> import geozarr_nb as gz
>>> product = gz.inspect("https://.../S2A_MSIL2A_....zarr")
>>> gz.validate(product, groups=["/measurements/reflectance/r20m"])
>>> job = gz.convert(product, "out/r20m.zarr", groups=["/measurements/reflectance/r20m"])
>>> tree = job.open()

Names are imported when they are first used: `import geozarr_nb` costs next to nothing.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geozarr_nb.api.job_sets import get_job_set, submit_many
    from geozarr_nb.api.jobs import get_job, list_jobs, watch_jobs
    from geozarr_nb.api.products import estimate, inspect, validate
    from geozarr_nb.api.submission import check, convert, submit
    from geozarr_nb.backends.base import JobState
    from geozarr_nb.doctor import doctor
    from geozarr_nb.errors import ConversionFailed, GeozarrError, InvalidRequest, JobNotFound, WaitTimeout
    from geozarr_nb.jobs.job import Job
    from geozarr_nb.jobs.jobset import JobSet
    from geozarr_nb.outputs.open import (
        levels,
        open,  # noqa: A004  its name in the public calls
    )
    from geozarr_nb.outputs.preview import preview
    from geozarr_nb.request import Request
    from geozarr_nb.samples.products import sample_product
    from geozarr_nb.settings import Settings
    from geozarr_nb.widgets import ui
    from geozarr_runner.planning.estimate import Estimate
    from geozarr_runner.planning.groups import GroupReport
    from geozarr_runner.product.model import Product

__all__ = [
    "ConversionFailed",
    "Estimate",
    "GeozarrError",
    "GroupReport",
    "InvalidRequest",
    "Job",
    "JobNotFound",
    "JobSet",
    "JobState",
    "Product",
    "Request",
    "Settings",
    "WaitTimeout",
    "check",
    "convert",
    "doctor",
    "estimate",
    "get_job",
    "get_job_set",
    "inspect",
    "levels",
    "list_jobs",
    "open",
    "preview",
    "sample_product",
    "submit",
    "submit_many",
    "ui",
    "validate",
    "watch_jobs",
]

_HOMES = {
    "geozarr_nb.backends.base": "JobState",
    "geozarr_nb.api.job_sets": "get_job_set submit_many",
    "geozarr_nb.api.jobs": "get_job list_jobs watch_jobs",
    "geozarr_nb.api.products": "estimate inspect validate",
    "geozarr_nb.api.submission": "check convert submit",
    "geozarr_nb.doctor": "doctor",
    "geozarr_nb.errors": "ConversionFailed GeozarrError InvalidRequest JobNotFound WaitTimeout",
    "geozarr_nb.jobs.job": "Job",
    "geozarr_nb.jobs.jobset": "JobSet",
    "geozarr_nb.outputs.preview": "preview",
    "geozarr_nb.request": "Request",
    "geozarr_nb.outputs.open": "levels open",
    "geozarr_nb.samples.products": "sample_product",
    "geozarr_nb.settings": "Settings",
    "geozarr_nb.widgets": "ui",
    "geozarr_runner.planning.estimate": "Estimate",
    "geozarr_runner.planning.groups": "GroupReport",
    "geozarr_runner.product.model": "Product",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _bind_widgets()
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


@cache
def _bind_widgets() -> None:
    """Have jobs and products show themselves as widgets, which stand on the calls that return these."""
    from geozarr_runner.text.html import Views

    def widget_of(thing: object) -> Any:
        from geozarr_nb.jobs.display import in_notebook

        if not in_notebook() or find_spec("ipywidgets") is None:
            return None
        from geozarr_nb.widgets.views import widget_of

        return widget_of(thing)

    Views.make = widget_of


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """The package; its call `doctor` is not hidden by the package of this name."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing geozarr_nb.doctor makes Python set the module as an attribute here, which is the call's place.
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
