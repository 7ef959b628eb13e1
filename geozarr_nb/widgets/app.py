"""The whole way in one place: product, groups, output, job, result."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from geozarr_nb.widgets.blocks.panel import Panel, heading
from geozarr_nb.widgets.jobs.monitor import Monitor
from geozarr_nb.widgets.request.choice import Choice
from geozarr_nb.widgets.request.form import Form
from geozarr_nb.widgets.request.picker import Picker
from geozarr_nb.widgets.viewer import Viewer


class App(Panel):
    """Choose, convert, watch and look.

    Parameters
    ----------
    source, output, groups, backend
        What it begins with, as for `geozarr_nb.submit`; None is what the settings name.

    Attributes
    ----------
    choice
        What is to be converted; picker and form show the same one.
    picker, form, monitor, viewer
        Its parts. A job that the form submits is selected in the monitor; a result that is asked for there is shown
        in the viewer.
    """

    def __init__(
        self,
        source: Any = None,
        output: str | os.PathLike[str] | None = None,
        *,
        groups: str | Iterable[str] | None = None,
        backend: str | None = None,
    ) -> None:
        self.choice = Choice(source, groups)
        self.picker = Picker(choice=self.choice)
        self.form = Form(output=output, backend=backend, choice=self.choice)
        self.viewer = Viewer()
        self.monitor = Monitor(self.form.backend, viewer=self.viewer)
        self.form.observe(self._follow, "job")
        self.form.observe_backend(self._switch)
        super().__init__(
            "GeoZarr",
            (
                heading("1. Product and groups"),
                self.picker,
                heading("2. Output and job"),
                self.form,
                heading("3. Jobs"),
                self.monitor,
                heading("4. Result"),
                self.viewer,
            ),
        )

    @property
    def text(self) -> str:
        """What is shown, as lines of text."""
        return "\n".join(["", *(repr(part) for part in (self.picker, self.form, self.monitor, self.viewer))])

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether all that was asked for, jobs aside, was done within so many seconds."""
        return all(part.wait(timeout) for part in (self.picker, self.form, self.monitor, self.viewer))

    def _follow(self, _: Any) -> None:
        self.monitor.selected = self.form.job.name

    def _switch(self, backend: str) -> None:
        self.monitor.backend = backend
