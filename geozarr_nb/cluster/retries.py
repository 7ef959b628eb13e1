"""How often a cluster is asked again, and how long one waits in between: the one policy of everything that asks it."""

from __future__ import annotations

from collections.abc import Callable

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds; each pause is twice as long as the one before, more or less


def again[T](call: Callable[[], T], seconds: float, may_help: Callable[[BaseException], bool]) -> T:
    """Return what a call gives, made again for some seconds as long as its error may pass.

    Parameters
    ----------
    may_help
        Returns whether another try may help after this error. The last error is raised.
    """
    return Retrying(
        retry=retry_if_exception(may_help),
        stop=stop_after_delay(seconds),
        wait=wait_exponential_jitter(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE, jitter=FIRST_PAUSE),
        reraise=True,
    )(call)
