"""The API server's clock, which stamps all objects: this machine's may be minutes off."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# An answer's time has whole seconds, and the answer takes a moment.
SECONDS_OF_DOUBT = 3.0


def ahead(stamp: str | None, otherwise: float) -> float:
    """Return by how many seconds the clock that stamped an answer is ahead of this machine's.

    Parameters
    ----------
    stamp
        The header `Date` of the answer.
    otherwise
        What is returned for an answer without a time.
    """
    try:
        moment = parsedate_to_datetime(stamp or "")
    except ValueError:
        return otherwise
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    found = (moment - datetime.now(UTC)).total_seconds()
    return found if abs(found) > SECONDS_OF_DOUBT else 0.0
