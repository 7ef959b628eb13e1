"""What each library's error says that a server answered: shapes as documented, and the real classes where installed.

The shapes are those of gcsfs (`gcsfs/retry.py`), azure-core (`azure/core/exceptions.py`), botocore and aiohttp.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from aiohttp import ClientPayloadError, RequestInfo
from aiohttp.http_exceptions import HttpProcessingError
from botocore.exceptions import ClientError
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from s3fs.errors import translate_boto_error
from yarl import URL

from geozarr_runner.errors import GeozarrError, ProductDenied, ProductUnreachable
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.planning.estimate import needed
from geozarr_runner.product.sampler import StoredPixels
from geozarr_runner.stores import listing
from geozarr_runner.stores.absence import is_absent, may_be_absent
from geozarr_runner.stores.access import retries
from geozarr_runner.stores.refusals import Answer, answer_of
from geozarr_runner.stores.store import Store
from geozarr_runner.stores.web import Refused
from runner.tests.support import write_terrain

GOOGLE_LACKS_RIGHT = (
    "me@x.iam.gserviceaccount.com does not have storage.objects.get access to the Google Cloud Storage object. "
    "Permission 'storage.objects.get' denied on resource (or it may not exist)."
)
OF_GCSFS = f"Forbidden: https://storage.googleapis.com/download/storage/v1/b/tiles/o/x?alt=media\n{GOOGLE_LACKS_RIGHT}"


class GoogleError(Exception):
    """Of the shape of gcsfs' HttpError and of google.api_core's errors."""

    __module__ = "gcsfs.retry"

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code, self.message = code, message


class AzureError(Exception):
    """Of the shape of azure.core's HttpResponseError, which adlfs passes on."""

    __module__ = "azure.core.exceptions"

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(f"This request is not authorized to perform this operation.\nErrorCode:{code}")
        self.status_code, self.error_code = status, code


class ResponseError(Exception):
    """Of the shape of the errors of requests and httpx."""

    __module__ = "requests.exceptions"

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} Client Error")
        self.response = type("Response", (), {"status_code": status})()


def of_s3(status: int, code: str) -> BaseException:
    said = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code, "Message": "no"}}
    error: BaseException = translate_boto_error(ClientError(said, "GetObject"))
    return error


def of_http(status: int, code: str) -> BaseException:
    address = URL("https://host/p.zarr")
    error = Refused(RequestInfo(address, "GET", CIMultiDictProxy(CIMultiDict()), address), (), status=status)
    error.refusal = code
    return error


def because(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


SILENT = {
    "http": of_http(403, ""),
    "s3": of_s3(403, "AccessDenied"),
    "gcsfs": OSError(OF_GCSFS),
    "gcsfs without an account": GoogleError(401, GOOGLE_LACKS_RIGHT),
    "azure": AzureError(403),
    "requests": ResponseError(403),
    "no library's": PermissionError("denied"),
    "a cause": because(OSError("no"), ResponseError(403)),
}
COMPLAINTS = {
    "http": of_http(403, "ExpiredToken"),
    "s3": of_s3(403, "InvalidAccessKeyId"),
    "gcsfs": OSError("Forbidden: https://x\nThe billing account of the owning project is disabled"),
    "gcsfs without an account": GoogleError(401, "Invalid Credentials"),
    "azure": AzureError(403, "AuthenticationFailed"),
    "azure's right": AzureError(403, "AuthorizationPermissionMismatch"),
    "requests": ResponseError(401),
}
ABSENT = {
    "http": because(FileNotFoundError("x"), of_http(404, "")),
    "s3": of_s3(404, "NoSuchKey"),
    "gcsfs": FileNotFoundError("https://x"),
    "azure": because(FileNotFoundError(2, "No such file", "x"), AzureError(404, "BlobNotFound")),
}


@pytest.mark.parametrize("error", SILENT.values(), ids=SILENT)
def test_a_refusal_without_a_reason_is_known_of_every_library(error: BaseException) -> None:
    assert may_be_absent(error)
    assert isinstance(Store("memory://x").failure(error, "k"), ProductDenied)
    assert not retries._may_get_better(error)
    assert listing._lists_nothing(error)


@pytest.mark.parametrize("error", COMPLAINTS.values(), ids=COMPLAINTS)
def test_a_complaint_is_none(error: BaseException) -> None:
    assert not may_be_absent(error)
    assert isinstance(Store("memory://x").failure(error, "k"), ProductDenied)
    assert not retries._may_get_better(error)


@pytest.mark.parametrize("error", ABSENT.values(), ids=ABSENT)
def test_what_is_not_there_is_absent(error: BaseException) -> None:
    assert isinstance(error, FileNotFoundError)
    assert is_absent(error)
    assert not may_be_absent(error)


@pytest.mark.parametrize("make", [of_http, of_s3, lambda status, _: GoogleError(status), AzureError])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failing_server_is_asked_again(make: Callable[[int, str], BaseException], status: int) -> None:
    error = make(status, "SlowDown")
    assert retries._may_get_better(error)
    assert not may_be_absent(error)
    assert isinstance(Store("memory://x").failure(error, "k"), ProductUnreachable)


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4), st.floats(), st.binary(max_size=4)))
def test_whatever_an_error_has_by_these_names_is_read(said: Any) -> None:
    for name in ("status", "status_code", "code", "response", "error_code", "message"):
        error = RuntimeError("x")
        setattr(error, name, said)
        found = answer_of(error)
        assert found is None or (100 <= found.status < 600 and found == Answer(found.status, found.code))


def test_a_process_that_ends_is_no_answer() -> None:
    assert answer_of(SystemExit(2)) is None
    assert answer_of(OSError(13, "Permission denied")) is None
    assert answer_of(PermissionError(13, "Permission denied")) is None


# --- the real classes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words", "absent"),
    [
        (403, GOOGLE_LACKS_RIGHT, True),
        (401, GOOGLE_LACKS_RIGHT, True),
        (403, "The account is disabled", False),
        (401, "Invalid Credentials", False),
    ],
)
def test_what_gcsfs_raises(status: int, words: str, absent: bool) -> None:
    gcs = pytest.importorskip("gcsfs.retry")
    body = json.dumps({"error": {"code": status, "message": words}}).encode()
    with pytest.raises(Exception) as caught:  # noqa: PT011  of whatever class it is
        gcs.validate_response(status, body, "https://storage.googleapis.com/x")
    assert may_be_absent(caught.value) == absent
    assert isinstance(Store("memory://x").failure(caught.value, "k"), ProductDenied)


@pytest.mark.parametrize(("status", "kind"), [(404, FileNotFoundError), (429, None), (503, None), (416, None)])
def test_what_gcsfs_raises_of_other_answers(status: int, kind: type[Exception] | None) -> None:
    gcs = pytest.importorskip("gcsfs.retry")
    with pytest.raises(Exception) as caught:  # noqa: PT011
        gcs.validate_response(status, b"no", "https://storage.googleapis.com/x")
    if kind is not None:
        assert isinstance(caught.value, kind)
    else:
        assert answer_of(caught.value) == Answer(status)


@pytest.mark.parametrize(
    ("status", "code", "absent"), [(403, None, True), (403, "AuthenticationFailed", False), (503, "ServerBusy", False)]
)
def test_what_adlfs_raises(status: int, code: str | None, absent: bool) -> None:
    exceptions = pytest.importorskip("azure.core.exceptions")
    models = pytest.importorskip("azure.storage.blob")
    response = type("Response", (), {"status_code": status, "reason": "no", "content_type": "text/xml"})()
    error = exceptions.HttpResponseError("no", response=response)
    error.error_code = models.StorageErrorCode(code) if code else None
    assert answer_of(error) == Answer(status, code or "")
    assert may_be_absent(error) == absent
    assert isinstance(Store("memory://x").failure(error, "k"), ProductDenied if status == 403 else ProductUnreachable)


# --- a store of such errors ------------------------------------------------------------------------------------------


@pytest.fixture(params=["gcsfs", "gcsfs without an account", "azure"])
def hiding(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A product in a store that refuses, as a library tells it, what is not there and what is listed."""
    local = write_terrain(tmp_path / "v2.zarr", zarr_format=2, size=256)
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{local}/", "/refused/v2.zarr/", recursive=True)

    def refuse(*_: Any, **__: Any) -> Any:
        raise SILENT[request.param]

    def only_what_is_there(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, path: str, *rest: Any, **options: Any) -> Any:
            if self._strip_protocol(path) not in self.store:
                refuse()
            return real(self, path, *rest, **options)

        return call

    for name in ("info", "cat_file"):
        monkeypatch.setattr(MemoryFileSystem, name, only_what_is_there(getattr(MemoryFileSystem, name)))
    monkeypatch.setattr(MemoryFileSystem, "ls", refuse)
    monkeypatch.setattr(MemoryFileSystem, "find", refuse)
    yield local
    monkeypatch.undo()
    filesystem.rm("/refused", recursive=True)


def test_a_store_that_refuses_what_is_not_there_is_read(hiding: Path) -> None:
    product = open_product("memory://refused/v2.zarr")
    keys = [key for array in needed(product, ()) for key in array.object_keys()]
    assert product.store.sizes(keys) == Store(hiding).sizes(keys)
    [height] = [array for array in product.groups["/dem"].arrays if array.name == "height"]
    read = StoredPixels(product.store, 2, product.url).read(height, (slice(None), slice(None)))
    np.testing.assert_array_equal(read, zarr.open_array(str(hiding / "dem/height"), mode="r")[:])


def test_a_store_that_refuses_everything_is_said_to(hiding: Path) -> None:
    with pytest.raises(GeozarrError, match="access was refused") as caught:
        open_product("memory://refused/none.zarr")
    assert isinstance(caught.value, ProductDenied)


@pytest.mark.parametrize(
    ("url", "named"), [("gs://b/p.zarr", "FSSPEC_GS"), ("abfs://c/p.zarr", "FSSPEC_ABFS"), ("s3://b/p", "FSSPEC_S3")]
)
def test_credentials_are_asked_for_where_the_library_reads_them(url: str, named: str) -> None:
    assert named in Store(url).failure(SILENT["azure"], "k").remedy


def test_what_aiohttp_could_not_parse_was_no_answer() -> None:
    """It gives its own errors the code with which a server would refuse a client's request."""
    error = ClientPayloadError("Response payload is not completed")
    error.__cause__ = HttpProcessingError(code=400, message="Not enough data to satisfy content length header")
    assert answer_of(error) is None
