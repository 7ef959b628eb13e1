"""When a call to a store is tried again, and how long one try may take."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from geozarr_runner.stores.access.failures import CERTIFICATE_REFUSED, storage_failure
from geozarr_runner.stores.refusals import answer_of, is_of_client

ATTEMPTS = 5
LONGEST_PATIENCE = 60.0


def retrying(attempts: int) -> AsyncRetrying:
    """Return the tries that a call gets: more than one where its error may be another the next time."""
    return AsyncRetrying(
        retry=retry_if_exception(_may_get_better), stop=stop_after_attempt(attempts), wait=_patience, reraise=True
    )


async def in_time[T](call: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> T:
    """Return what a call gives, unless it takes longer than one try may."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await call()
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise ConnectionError(f"it did not come to its end within {seconds:g} s") from error


def _patience(state: RetryCallState) -> float:
    """Return the seconds to wait before the next try: what the server asks for, or longer each time."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = _seconds((getattr(error, "headers", None) or {}).get("Retry-After", "").strip())
    if asked is not None:
        return min(asked, LONGEST_PATIENCE)
    return wait_exponential_jitter(multiplier=0.2, max=5, jitter=0.2)(state)


def _seconds(asked: str) -> float | None:
    """Return the seconds that a `Retry-After` asks for, as a number or as a date; None where it says neither."""
    if re.fullmatch("[0-9]+", asked):
        return float(asked[:9])
    try:
        moment = parsedate_to_datetime(asked)
        left = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.now(UTC)
    except (ValueError, OverflowError, TypeError, IndexError):  # of a date that is none
        return None
    return max(left.total_seconds(), 0.0)


def _may_get_better(error: BaseException) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError) or storage_failure(error) is not None:
        return False
    if CERTIFICATE_REFUSED in str(error):
        return False
    answer = answer_of(error)
    if answer is not None:
        return answer.is_passing
    return isinstance(error, OSError | asyncio.TimeoutError) or is_of_client(error)
