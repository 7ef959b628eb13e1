"""How often a cluster is asked again, and how long one waits in between: the one policy of everything that asks it."""

from __future__ import annotations

from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

SECONDS_OF_SILENCE = 2.0  # before a person is told what is waited for
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds; each pause is twice as long as the one before, more or less


def again[T](
    call: Callable[[], T],
    seconds: float,
    may_help: Callable[[BaseException], bool],
    tell: Callable[[BaseException], None] = lambda _: None,
) -> T:
    """Return what a call gives, made again for some seconds as long as its error may pass.

    Parameters
    ----------
    may_help
        Returns whether another try may help after this error. The last error is raised.
    tell
        Called once with the error, where the call has failed for some seconds and is made again.
    """
    was_told = False

    def before(state: RetryCallState) -> None:
        nonlocal was_told
        error = state.outcome.exception() if state.outcome is not None else None
        if not was_told and error is not None and (state.seconds_since_start or 0) > SECONDS_OF_SILENCE:
            was_told = True
            tell(error)

    return Retrying(
        retry=retry_if_exception(may_help),
        stop=stop_after_delay(seconds),
        wait=wait_exponential_jitter(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE, jitter=FIRST_PAUSE),
        before_sleep=before,
        reraise=True,
    )(call)
