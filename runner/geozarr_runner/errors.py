"""What can go wrong, for the runner and everything above it.

Each class has a `code` that scripts may rely on and the exit code of a run that ended with it. Each instance says
what was given, what is wrong with it, and the next thing to do:

    raise ProductNotFound("no Zarr store is there", given=url, remedy="open the address in a browser")

====  ======================  ===============================================================
exit  meaning                 may a second try help?
====  ======================  ===============================================================
0     success
1     a defect of ours        no: please report it, with the log file
2     bad request             no: the request itself has to change
3     product unreachable     yes, unless it is missing or broken (`retryable` tells)
4     converter failed        no, except when it was killed from outside
5     verification failed     no
6     storage failed          after space was made or a permission given
7     interrupted             yes
8     cluster failed          only the SDK ends with it: yes, where the API server did not answer
====  ======================  ===============================================================
"""

from __future__ import annotations

import traceback
from enum import IntEnum
from typing import ClassVar

from geozarr_runner.text.printable import printable


class ExitCode(IntEnum):
    """Exit codes of `geozarr-runner` and `geozarr-nb`; documented and stable."""

    SUCCESS = 0
    DEFECT = 1
    BAD_REQUEST = 2
    PRODUCT_UNREACHABLE = 3
    CONVERTER_FAILED = 4
    VERIFICATION_FAILED = 5
    STORAGE_FAILED = 6
    INTERRUPTED = 7
    CLUSTER_FAILED = 8


class GeozarrError(Exception):
    """Root of all errors of this project.

    Parameters
    ----------
    message
        What is wrong, in one sentence without a final stop.
    given
        The value that was given, as the person wrote it.
    remedy
        The next thing to type or to do.
    """

    code: ClassVar[str] = "defect"
    exit_code: ClassVar[ExitCode] = ExitCode.DEFECT
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, given: object = None, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.given = given
        self.remedy = remedy

    def __str__(self) -> str:
        # Each holds words of products, servers and other people's files.
        lines = [printable(self.message)]
        if self.given is not None:
            lines.append(f"  given:  {printable(str(self.given))}")
        if self.remedy:
            lines.append(f"  remedy: {printable(self.remedy)}")
        return "\n".join(lines)

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows: where it happened tells nothing, unless it is a defect of ours."""
        if self.exit_code is ExitCode.DEFECT:
            return traceback.format_exception(self)
        return f"{type(self).__name__} [{self.code}]: {self}".splitlines()


class InvalidRequest(GeozarrError, ValueError):
    """An argument, a setting or params.json cannot be used as it stands."""

    code = "invalid-request"
    exit_code = ExitCode.BAD_REQUEST


class GroupsMissing(InvalidRequest):
    """Wanted groups are not in the product, or cannot become GeoZarr."""

    code = "groups-missing"


class LaterVersion(InvalidRequest):
    """What is stored there was written by a later version, in a form that this one does not know."""

    code = "later-version"

    def __init__(self, what: str, *, given: object = None) -> None:
        super().__init__(
            f"{what} was written by a later version of this package",
            given=given,
            remedy="pip install -U geozarr-nb",
        )


class OutputExists(InvalidRequest):
    """There is something under the output's name already."""

    code = "output-exists"


class OutputBusy(GeozarrError):
    """Another run is writing this output right now."""

    code = "output-busy"
    exit_code = ExitCode.BAD_REQUEST
    retryable = True


class ProductUnreachable(GeozarrError):
    """The store does not answer: network, name, time-out, a server's 5xx."""

    code = "product-unreachable"
    exit_code = ExitCode.PRODUCT_UNREACHABLE
    retryable = True


class ProductNotFound(ProductUnreachable):
    """The store answers, and there is nothing under this address."""

    code = "product-not-found"
    retryable = False


class ProductDenied(ProductUnreachable):
    """The store answers, and refuses to show the product."""

    code = "product-denied"
    retryable = False


class ProductBroken(ProductUnreachable):
    """Metadata or a chunk of the product cannot be read as Zarr."""

    code = "product-broken"
    retryable = False


class ConverterMissing(GeozarrError):
    """`eopf-geozarr` is not installed beside the runner, or the one that was named cannot be used."""

    code = "converter-missing"
    exit_code = ExitCode.CONVERTER_FAILED


class ConverterFailed(GeozarrError):
    """The converter ended with an error; its own last words are in the message."""

    code = "converter-failed"
    exit_code = ExitCode.CONVERTER_FAILED


class ConverterKilled(ConverterFailed):
    """The converter was killed from outside, as a rule for its memory."""

    code = "converter-killed"
    retryable = True


class VerificationFailed(GeozarrError):
    """The converter said it succeeded, and the output says otherwise. Nothing was published."""

    code = "verification-failed"
    exit_code = ExitCode.VERIFICATION_FAILED


class StorageFailed(GeozarrError):
    """The output or the scratch space cannot be written."""

    code = "storage-failed"
    exit_code = ExitCode.STORAGE_FAILED


class StorageFull(StorageFailed):
    """No space is left, or less than the run would need."""

    code = "storage-full"


class StorageDenied(StorageFailed):
    """No permission to write there, or it is read-only."""

    code = "storage-denied"


class Interrupted(GeozarrError):
    """The run was ended by a signal; what was half-written is gone."""

    code = "interrupted"
    exit_code = ExitCode.INTERRUPTED
    retryable = True
