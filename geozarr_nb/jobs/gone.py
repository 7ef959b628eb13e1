"""What became of jobs that their backend no longer knows.

A cluster removes a Workflow when its time to live is over, and a person may delete one. The output stays, and its
record says which request it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from geozarr_nb.backends.base import Backend, Failure, JobState
from geozarr_nb.errors import ClusterError, GeozarrError, JobNotFound, StorageFailed
from geozarr_nb.outputs.record import record_of
from geozarr_nb.request import Request
from geozarr_runner.errors import ExitCode

UNKNOWN = "it is no longer known"


class Outputs:
    """The records of outputs; a claim or a bucket that cannot be read is asked once."""

    def __init__(self) -> None:
        self._silent: dict[str, GeozarrError] = {}

    def record(self, output: str) -> Mapping[str, Any] | None:
        """Return the record of an output; None if there is none.

        Raises
        ------
        GeozarrError
            The output cannot be read from here.
        """
        place = urlsplit(output).netloc or output
        if place in self._silent:
            raise self._silent[place]
        try:
            return record_of(output)
        except (ClusterError, StorageFailed) as error:
            self._silent[place] = error
            raise


class Memory:
    """What is known of a job without its backend.

    Parameters
    ----------
    backend, name
        Those of the job.
    request
        The request, if it is known without the backend.
    """

    def __init__(self, backend: Backend, name: str, request: Request | None) -> None:
        self._backend = backend
        self._name = name
        self._request = request
        self._last: JobState | None = None

    @property
    def request(self) -> Request | None:
        """The request; None if it is not known without the backend."""
        return self._request if self._last is None else self._request or self._last.request

    @property
    def document(self) -> dict[str, Any] | None:
        """The request as it may be stored, without what is secret in the product's address; None if it is not known."""
        return None if self.request is None else self.request.to_json()

    def request_now(self) -> Request:
        """Return the request as the backend has it, or as it is remembered of a job that is gone.

        Raises
        ------
        JobNotFound
            Nothing is known of the job.
        """
        try:
            self._last = self._backend.get(self._name)
            return self._last.request
        except JobNotFound:
            if self.request is None:
                raise
            return self.request

    def state(self) -> JobState:
        """Return the present state, or how a job ended that is gone.

        Raises
        ------
        JobNotFound
            The job is gone, and it is not known how it ended.
        """
        try:
            self._last = self._backend.get(self._name)
        except JobNotFound:
            ended = None
            with suppress(GeozarrError):
                ended = self._ended(Outputs())
            if ended is None:
                raise
            self._last = ended
        return self._last

    def of_list(self, listed: JobState | None, outputs: Outputs) -> JobState:
        """Return the state that a list of all jobs has, or what is known of a job that is not in the list."""
        why: GeozarrError | None = None
        try:
            if listed is not None:
                self._last = listed
                return listed
            if self._last is None or not self._last.is_gone:
                self._last = self._backend.get(self._name)  # the job may be newer than the list
                return self._last
        except JobNotFound:
            pass
        try:
            if (ended := self._ended(outputs)) is not None:
                self._last = ended
                return ended
        except GeozarrError as error:
            why = error
        return self._unknown(why)

    def _ended(self, outputs: Outputs) -> JobState | None:
        """Return how the job ended; None if that is not known.

        Raises
        ------
        GeozarrError
            The output, which would tell, cannot be read from here.
        """
        if self._last is not None and self._last.is_finished:
            return replace(self._last, is_gone=True)
        if (request := self.request) is None:
            return None
        record = outputs.record(request.output)
        if record is None or record.get("request") != request.identity:
            return None
        started, finished = _time(record.get("started")), _time(record.get("finished"))
        return JobState(
            name=self._name,
            backend=self._backend.name,
            request=request,
            status="Succeeded",
            submitted=started or _NEVER,
            result={"path": request.output, "groups": record.get("groups"), "versions": record.get("versions")},
            started=started,
            finished=finished,
            is_gone=True,
        )

    def _unknown(self, why: GeozarrError | None) -> JobState:
        """Return the state of a job of which neither its backend nor its output tells how it ended."""
        if self.request is None:
            message = f"{UNKNOWN}: it was removed, and the set does not say where its output is"
        elif why is not None:
            message = f"{UNKNOWN}: it was removed, and its output cannot be read from here ({why.message})"
        else:
            message = f"{UNKNOWN}: it was removed, and its output is not there"
        code, remedy = JobNotFound.code, "run it again: job.retry(), or jobs.retry_failed() for all of a set"
        return JobState(
            name=self._name,
            backend=self._backend.name,
            request=self.request or Request(source="", shown="?", product=self._name, output=""),
            status="Error",
            submitted=_NEVER,
            reason=message,
            failure=Failure(code, message, remedy=remedy, exit_code=int(ExitCode.BAD_REQUEST), retryable=True),
            is_gone=True,
        )


_NEVER = datetime.min.replace(tzinfo=UTC)


def _time(text: object) -> datetime | None:
    """Return a time of a record, which may be anybody's."""
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found
