"""The widget of what a call returns: what a notebook shows of a job or a product beside its text."""

from __future__ import annotations

from geozarr_nb.backends.base import JobState
from geozarr_nb.jobs.job import Job
from geozarr_nb.widgets.blocks.panel import Panel
from geozarr_nb.widgets.jobs.row import JobView
from geozarr_nb.widgets.request.choice import Choice
from geozarr_nb.widgets.request.picker import Picker
from geozarr_runner.product.model import Product


def widget_of(thing: object) -> Panel | None:
    """Return a widget of a job, a job's state or a product; None of anything else.

    That of a job is brought up to date from a thread until it has finished, that of a state by who sets it.
    """
    match thing:
        case Job():
            view = JobView(thing.state)
            if not view.state.is_finished:
                view.follow()
            return view
        case JobState():
            return JobView(thing)
        case Product():
            # Nothing is ticked: what a choice costs is asked of the store only when somebody chooses.
            return Picker(choice=Choice(thing, (), whole=False), fixed=True)
        case _:
            return None
