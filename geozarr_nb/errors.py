"""Errors of the SDK; those of the runner are here by the same names.

Each class has a stable `code`, and each instance says what was given, what is wrong, and what to type next. Whatever
this package raises on purpose is a `GeozarrError`.

==================  =========================================================================
class               when
==================  =========================================================================
InvalidRequest      an argument, a setting or params.json cannot be used as it stands
GroupsMissing       wanted groups are not in the product
OutputExists        there is something under the output's name already
OutputBusy          another job is writing this output
JobNotFound         no job, or no set of jobs, has this name
ConversionFailed    a job ended without a result; `code` and `exit_code` are the run's own
WaitTimeout         waiting ended before the job did; the job goes on
ArchiveMissing      an output was not packed as one file
DownloadBroken      what was fetched is not what there is to fetch
Product...          the product is missing, denied, unreachable or broken
Storage...          something cannot be written
StateUnusable       the state folder, or a file in it, is not this account's alone or cannot be understood
LaterVersion        what is stored was written by a later version of this package
ClusterUnreachable  no cluster is configured, or its API server does not answer
ClusterDenied       the cluster does not know the caller, or does not allow a call
ClusterObject...    an object of the cluster (template, claim, namespace) is missing, or is there already
ClusterRefused      the API server finds a call wrong
ClaimUnreadable     the files of a claim cannot be reached: no mount here, and no reader pod that starts
==================  =========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

from geozarr_runner.errors import (
    ConverterFailed,
    ConverterKilled,
    ConverterMissing,
    ExitCode,
    GeozarrError,
    GroupsMissing,
    Interrupted,
    InvalidRequest,
    LaterVersion,
    OutputBusy,
    OutputExists,
    ProductBroken,
    ProductDenied,
    ProductNotFound,
    ProductUnreachable,
    StorageDenied,
    StorageFailed,
    StorageFull,
    VerificationFailed,
)
from geozarr_runner.text.printable import printable

__all__ = [
    "ArchiveMissing",
    "ClaimUnreadable",
    "ClusterDenied",
    "ClusterError",
    "ClusterObjectExists",
    "ClusterObjectMissing",
    "ClusterRefused",
    "ClusterUnreachable",
    "ConversionFailed",
    "ConverterFailed",
    "ConverterKilled",
    "ConverterMissing",
    "DownloadBroken",
    "ExitCode",
    "GeozarrError",
    "GroupsMissing",
    "Interrupted",
    "InvalidRequest",
    "JobNotFound",
    "LaterVersion",
    "OutputBusy",
    "OutputExists",
    "ProductBroken",
    "ProductDenied",
    "ProductNotFound",
    "ProductUnreachable",
    "StateUnusable",
    "StorageDenied",
    "StorageFailed",
    "StorageFull",
    "VerificationFailed",
    "WaitTimeout",
]

# Whatever else failed may be mended from outside: the product, the disk, the machine.
RETRY_CANNOT_HELP = (ExitCode.BAD_REQUEST, ExitCode.VERIFICATION_FAILED, ExitCode.DEFECT)


class JobNotFound(InvalidRequest, LookupError):
    """No job, or no set of jobs, has this name."""

    code = "job-not-found"


class StateUnusable(StorageFailed):
    """The state folder, or a file in it, is not this account's alone, or holds what cannot be understood."""

    code = "state-unusable"


class WaitTimeout(GeozarrError, TimeoutError):
    """Waiting ended before the job did; the job itself goes on."""

    code = "wait-timeout"
    exit_code = ExitCode.INTERRUPTED
    retryable = True


class ArchiveMissing(InvalidRequest):
    """An output has no archive: it was not asked for, or is of an output that was replaced."""

    code = "archive-missing"


class DownloadBroken(GeozarrError):
    """What was fetched is not what there is to fetch; nothing of it has its final name."""

    code = "download-broken"
    exit_code = ExitCode.VERIFICATION_FAILED
    retryable = True


class ClusterError(GeozarrError):
    """A call to a cluster's API server did not succeed."""

    code = "cluster-error"
    exit_code = ExitCode.CLUSTER_FAILED


class ClusterUnreachable(ClusterError):
    """No cluster is configured, or its API server does not answer."""

    code = "cluster-unreachable"
    retryable = True


class ClusterDenied(ClusterError):
    """The cluster does not know the caller, or does not allow what was asked of it."""

    code = "cluster-denied"


class ClusterObjectMissing(ClusterError):
    """There is no object of this name."""

    code = "cluster-object-missing"


class ClusterObjectExists(ClusterError):
    """There is an object of this name already."""

    code = "cluster-object-exists"


class ClusterRefused(ClusterError):
    """The API server finds a call wrong, or has no place for what it would make."""

    code = "cluster-refused"


class ClaimUnreadable(ClusterError):
    """The files of a claim cannot be reached: it is not mounted here, and no pod that could show them starts."""

    code = "claim-unreadable"


class KnownJob(Protocol):
    """What is known of a job wherever it is spoken of."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def status(self) -> str:
        """Its phase."""

    @property
    def reason(self) -> str | None:
        """Why it waits or failed."""


class FailedJob(KnownJob, Protocol):
    """What an error knows of its job, which is a `Job`: an error reads nothing."""

    @property
    def events(self) -> Callable[..., Any]:
        """What the run has said of itself."""

    @property
    def logs(self) -> Callable[..., Any]:
        """The log as lines."""

    @property
    def retry(self) -> Callable[..., Any]:
        """Submits it again."""


class ConversionFailed(GeozarrError):
    """A job ended without a result.

    The text has the reason, what was given, what to do, the last lines of the run, where its log is and how to try
    again.

    Attributes
    ----------
    job
        The job, to read its `events()` and `logs()`.
    code, exit_code, retryable
        Those of the run's own error, so that a script can tell a missing product from a full disk.
    """

    code = "conversion-failed"
    exit_code = ExitCode.CONVERTER_FAILED

    def __init__(
        self,
        job: FailedJob,
        *,
        given: str = "",
        remedy: str = "",
        last_lines: Sequence[str] = (),
        log: str | None = None,
    ) -> None:
        super().__init__(
            f"{job.name} {job.status.lower()}: {job.reason or 'no reason was given'}", given=given, remedy=remedy
        )
        self.job = job
        self._last_lines = tuple(last_lines)
        self._log = log

    def of_run(self, code: str, exit_code: int, *, retryable: bool) -> Self:
        """Take over what the run's own error says; returns this error."""
        # What is a class's own elsewhere is the run's here.
        self.code = code  # type: ignore[misc]
        known = exit_code in ExitCode  # a later version may have more
        self.exit_code = ExitCode(exit_code) if known else ExitCode.DEFECT  # type: ignore[misc]
        self.retryable = retryable  # type: ignore[misc]
        return self

    def __str__(self) -> str:
        lines = [super().__str__()]
        if self._last_lines:
            lines.append("  its last lines:")
            lines += [f"  {line}" for line in self._last_lines]
        if self._log:
            lines.append(f"  log:    {printable(self._log)}")
        if self.exit_code not in RETRY_CANNOT_HELP:
            lines.append(f'  retry:  geozarr_nb.get_job("{printable(self.job.name)}").retry()')
        return "\n".join(lines)
