"""Jobs and errors as plain data, for a program to read."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from geozarr_runner.errors import GeozarrError

if TYPE_CHECKING:
    from geozarr_nb.backends.base import JobState


def of_job(state: JobState) -> dict[str, Any]:
    """Return one job at one moment; times are UTC, ISO 8601, and `elapsed` is in seconds."""
    progress = state.progress
    return {
        "name": state.name,
        "backend": state.backend,
        "status": state.status,
        "attempt": state.attempt,
        "stage": state.stage,
        "progress": progress and {"done": progress.done, "total": progress.total, "unit": progress.unit},
        "reason": state.reason,
        "error": state.failure and asdict(state.failure),
        "input": state.request.shown,
        "output": state.request.output,
        "groups": state.request.groups,
        "submitted": state.submitted.isoformat(),
        "started": state.started and state.started.isoformat(),
        "finished": state.finished and state.finished.isoformat(),
        "elapsed": round(state.elapsed, 3),
        "result": state.result,
        "log": state.log,
    }


def of_error(error: GeozarrError) -> dict[str, Any]:
    """Return what went wrong, in the form of the runner's own error event."""
    return {
        "error": {
            "code": error.code,
            "message": error.message,
            "given": None if error.given is None else str(error.given),
            "remedy": error.remedy,
            "exit_code": int(error.exit_code),
            "retryable": error.retryable,
        }
    }
