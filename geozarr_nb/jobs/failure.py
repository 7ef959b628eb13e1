"""The error of a job that ended without a result."""

from __future__ import annotations

from geozarr_nb.backends.base import JobState
from geozarr_nb.errors import ConversionFailed, FailedJob, GeozarrError
from geozarr_runner.text.printable import CONVERTERS_LINE

LAST_LINES = 8  # of the converter's output, shown in an error


def failure_of(job: FailedJob, state: JobState) -> ConversionFailed:
    """Return the error of a job that ended without a result, with the last lines of its log."""
    failure = state.failure
    given = f"{state.request.shown} -> {state.request.output}"
    if state.request.groups:
        given += f", groups {', '.join(state.request.groups)}"
    if failure is not None and failure.given and failure.given not in given:
        given += f" ({failure.given})"
    # The last line of the log repeats the reason; the converter's own last lines show what led to it.
    try:
        last_lines = [line for line in job.logs() if line.startswith(CONVERTERS_LINE)][-LAST_LINES:]
    except GeozarrError:  # for example, the cluster that has the log does not answer: the reason is known without it
        last_lines = []
    remedy = failure.remedy if failure else ""
    error = ConversionFailed(job, given=given, remedy=remedy, last_lines=last_lines, log=state.log)
    if failure is not None:
        error.of_run(failure.code, failure.exit_code, retryable=failure.retryable)
    return error
