"""What a conversion costs, in a line."""

from __future__ import annotations

import geozarr_nb as gz
from geozarr_runner.events import human_bytes

# Measured on two cores: the start of the converter, what it writes, and a remote product over one good line.
SECONDS_TO_START = 5
WRITTEN_A_SECOND = 60e6
DOWNLOADED_A_SECOND = 25e6


def describe(cost: gz.Estimate) -> str:
    """Return an estimate in a line."""
    objects = "one object" if cost.requests == 1 else f"{cost.requests:,} objects"
    if cost.download_bytes is None:
        read = f"{objects} to read, of unknown size"
    else:
        more = "" if cost.exact else " or more"
        read = (
            f"{human_bytes(cost.download_bytes)}{more} to {'download' if cost.staging_bytes else 'read'} in {objects}"
        )
    return f"{read}; output about {human_bytes(cost.output_bytes)}; memory about {human_bytes(cost.memory_bytes)}; " + (
        time_class(cost)
    )


def time_class(cost: gz.Estimate) -> str:
    """Return how long it takes, as no more than an order of magnitude."""
    download = cost.staging_bytes / DOWNLOADED_A_SECOND
    seconds = SECONDS_TO_START + cost.output_bytes / WRITTEN_A_SECOND + download
    for limit, text in ((30, "less than a minute"), (240, "some minutes"), (1200, "up to half an hour")):
        if seconds < limit:
            return text
    return "half an hour or more"
