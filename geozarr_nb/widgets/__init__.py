"""Forms for a notebook: thin views on the public calls, so that a form and a cell never behave differently.

==========  =================================================================================
`Picker`    a product and its groups, to tick; what a choice costs, and what is wrong with it
`Form`      where the output goes and what a job may use; the same as code; submits
`Monitor`   a row for each job, whoever submitted it; its log, cancel, retry, its result
`Viewer`    a picture of a result, from its coarsest overview until asked for more
`App`       all of them together: what `geozarr_nb.ui()` shows
==========  =================================================================================

What each of them shows can be set and read by its attributes too, without a browser; where no front end answers they
show themselves as text. They are boxes of ipywidgets, and can stand in a layout of one's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from geozarr_nb.errors import InvalidRequest

if TYPE_CHECKING:
    import os

    from geozarr_nb.api.products import Source
    from geozarr_nb.widgets.app import App
    from geozarr_nb.widgets.jobs.monitor import Monitor
    from geozarr_nb.widgets.request.choice import Choice
    from geozarr_nb.widgets.request.form import Form
    from geozarr_nb.widgets.request.picker import Picker
    from geozarr_nb.widgets.viewer import Viewer

__all__ = ["App", "Choice", "Form", "Monitor", "Picker", "Viewer", "ui"]


_HOMES = {
    "App": "geozarr_nb.widgets.app",
    "Choice": "geozarr_nb.widgets.request.choice",
    "Form": "geozarr_nb.widgets.request.form",
    "Monitor": "geozarr_nb.widgets.jobs.monitor",
    "Picker": "geozarr_nb.widgets.request.picker",
    "Viewer": "geozarr_nb.widgets.viewer",
}


def ui(
    source: Source | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    groups: str | Iterable[str] | None = None,
    backend: str | None = None,
) -> App:
    """Return a form that a notebook shows: choose groups, see their cost, submit, watch jobs, look at the output.

    Parameters
    ----------
    source, output, groups, backend
        First values of the form's fields, as for `submit`; None takes the settings.

    Raises
    ------
    InvalidRequest
        ipywidgets is not installed here, or a setting cannot be used.
    """
    app: App = __getattr__("App")(source, output, groups=groups, backend=backend)
    return app


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in ("ipywidgets", "traitlets"):
            raise
        raise InvalidRequest(
            "forms need ipywidgets, which is not installed in this environment",
            remedy='pip install "geozarr-nb[notebook]", and restart the kernel; gz.convert(...) needs no forms',
        ) from error
