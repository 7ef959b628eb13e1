"""The status of a finished run on this machine, from its exit code and its last event."""

from __future__ import annotations

import signal
from typing import Any

from geozarr_nb.backends.base import Failure, Status
from geozarr_nb.backends.run_state import RunState

AGAIN = "run it again: job.retry()"


def outcome(exit_: dict[str, Any], digest: RunState, *, cancelled: bool) -> tuple[Status, Failure | None]:
    """Return the status of a finished job, and its failure."""
    code = exit_["code"]
    if digest.result is not None:  # a run tells it when its output has its name: that is final
        return "Succeeded", None
    if exit_.get("cancelled") or cancelled:
        return "Failed", Failure("cancelled", "it was cancelled", remedy=AGAIN, exit_code=7, retryable=True)
    if problem := exit_.get("problem"):
        return "Error", Failure("not-started", problem, remedy="check the installation: geozarr-nb doctor")
    if digest.failure is not None:
        return "Failed", digest.failure
    if code is None or code < 0:
        by = f"by {_signal_name(-code)}" if code else "together with its worker"
        return "Error", Failure(
            "converter-killed",
            f"the run was killed from outside ({by}), as a rule because memory ran out",
            remedy=f"free memory, or choose fewer groups, and {AGAIN}",
            exit_code=4,
            retryable=True,
        )
    words = " / ".join(exit_.get("last_words", [])[-1:])
    message = f"the run ended with exit code {code} and no result" + (f": {words}" if words else "")
    remedy = "look at job.logs(), and check the installation: geozarr-nb doctor"
    return "Error", Failure("defect", message, remedy=remedy)


def _signal_name(number: int) -> str:
    return next((known.name for known in signal.Signals if known == number), f"signal {number}")
