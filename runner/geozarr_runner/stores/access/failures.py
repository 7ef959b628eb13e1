"""What the errors of backends and of the operating system mean to a person."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from geozarr_runner.errors import (
    GeozarrError,
    ProductBroken,
    ProductDenied,
    ProductNotFound,
    ProductUnreachable,
    StorageDenied,
    StorageFailed,
    StorageFull,
)
from geozarr_runner.stores.absence import ROOTS
from geozarr_runner.stores.refusals import answer_of, is_of_client
from geozarr_runner.trust.addresses import local_path, redact, redact_text
from geozarr_runner.trust.credentials import FORM, Credentials, origin, shown

_CREDENTIALS = {
    "s3": """FSSPEC_S3='{"anon": true}'""",
    **dict.fromkeys(("gs", "gcs"), """FSSPEC_GS='{"token": "anon"}'"""),
    **dict.fromkeys(("az", "abfs", "abfss"), """FSSPEC_ABFS='{"account_name": "NAME", "anon": true}'"""),
}
CERTIFICATE_REFUSED = "CERTIFICATE_VERIFY_FAILED"  # OpenSSL's word, in the text of every library's error


def failure(
    error: BaseException, url: str, key: str, *, is_local: bool, tries: int, credentials: Callable[[], Credentials]
) -> GeozarrError:
    """Return what the error of a store's backend means to a person.

    Parameters
    ----------
    url, key
        The address of the store, and the object that was asked for; empty for the store itself.
    is_local
        It is a folder of this machine.
    tries
        How often it was tried.
    credentials
        Returns what web servers were told; called where one refuses.
    """
    address = redact(f"{url.partition('?')[0].rstrip('/')}/{key}" if key else url)
    if (storage := storage_failure(error)) is not None and not is_local:
        return storage
    if is_local and isinstance(error, OSError):
        refusal = ProductDenied if isinstance(error, PermissionError) else ProductUnreachable
        return refusal(f"it cannot be read: {error.strerror or error}", given=address, remedy="have it made readable")
    answer = answer_of(error)
    is_refusal = answer is not None and answer.is_refusal
    if is_refusal or isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        status = getattr(error, "status", None)
        how = f" (HTTP {status})" if status else f" ({error_text(error)})"
        return _denied(error, how, url, address, credentials)
    if CERTIFICATE_REFUSED in str(error):
        return ProductUnreachable(
            f"the server's certificate is not trusted: {error_text(error)}",
            given=address,
            remedy="name the file of the authority that signed it: SSL_CERT_FILE=/path/ca.crt",
        )
    if isinstance(error, FileNotFoundError):
        return ProductBroken(
            "an object that was there a moment ago is gone",
            given=address,
            remedy="run the same command again when nobody changes the product",
        )
    if isinstance(error, (ImportError, NotImplementedError)):
        return ProductUnreachable(error_text(error), given=address, remedy="install the fsspec backend that it names")
    if answer is not None or isinstance(error, OSError | asyncio.TimeoutError) or is_of_client(error):
        is_tried_again = tries > 1 and (answer is None or answer.is_passing)
        return ProductUnreachable(
            f"no answer{f' after {tries} tries' if is_tried_again else ''}: {error_text(error)}",
            given=address,
            remedy="check the address and the network, then run the same command again",
        )
    return ProductBroken(
        f"the store answered something unusable: {error_text(error)}",
        given=address,
        remedy="open the address in a browser: it may be another service's",
    )


def _denied(
    error: BaseException, how: str, url: str, address: str, credentials: Callable[[], Credentials]
) -> ProductDenied:
    # The last one that was asked, after redirects.
    asked = getattr(getattr(error, "request_info", None), "real_url", url)
    place = origin(asked)
    if place is None:
        protocol = url.rpartition("::")[2].partition("://")[0]
        remedy = f"give credentials where fsspec reads them, e.g. {_CREDENTIALS.get(protocol, _CREDENTIALS['s3'])}"
    else:
        form = FORM.replace("https://host", shown(place))
        remedy = f"give this host's credentials: {form}; those of FSSPEC_HTTPS go to the host of the address that "
        remedy += "you give yourself, and to no other"
        if credentials().withheld(asked):
            how += ", and FSSPEC_HTTP and FSSPEC_HTTPS do not say that theirs are this host's"
    return ProductDenied(f"access was refused{how}", given=address, remedy=remedy)


def storage_failure(error: BaseException, path: object = None) -> StorageFailed | None:
    """Return what an operating system's refusal to write means, or None when it is something else."""
    if not isinstance(error, OSError) or error.errno is None or _is_of_network(error):
        return None
    given = path if path is not None else error.filename
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull(
            f"cannot be written: {os.strerror(error.errno).lower()}",
            given=given,
            remedy="make space there, or choose another folder",
        )
    if error.errno == errno.EROFS:
        return StorageDenied(
            "cannot be written: its file system is mounted read-only",
            given=given,
            remedy="choose a folder of another file system, or have this one mounted for writing",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return StorageDenied(
            f"cannot be written: {os.strerror(error.errno).lower()}",
            given=given,
            # On a volume of a cluster, or of a server that makes root nobody, who asks is not who one thinks.
            remedy=f"choose a folder that you may write to, or have the permission given to user {os.geteuid()} "
            f"(group {os.getegid()})",
        )
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EIO):
        return StorageFailed(
            f"cannot be written: {os.strerror(error.errno).lower()}", given=given, remedy="choose another path"
        )
    return None


def not_found(url: str) -> ProductNotFound:
    """Return the error for an address with no product, with near names where they can be seen."""
    path = local_path(url)
    remedy = "check the address: it must be a Zarr store, or a STAC item that has one as an asset"
    if path is not None:
        near: list[str] = []
        with suppress(OSError, ValueError):
            near = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in (".zarr", ".json"))[:5]
        inside: list[str] = []
        with suppress(OSError, ValueError):
            inside = sorted(entry.name for entry in path.iterdir() if any((entry / name).is_file() for name in ROOTS))
        if inside:
            remedy = f"it is a folder of stores, and none itself; give one of them: {', '.join(inside[:5])}"
        elif near:
            remedy = f"in that folder there are: {', '.join(near)}"
    return ProductNotFound("there is no product here", given=redact(url), remedy=remedy)


def _is_of_network(error: BaseException) -> bool:
    """Return whether it is about a connection: a refused certificate has the number of a refused permission."""
    of_server = error.__cause__ is not None and is_of_client(error.__cause__)
    return isinstance(error, ssl.SSLError) or is_of_client(error) or of_server


def error_text(error: BaseException) -> str:
    """Return an error's text in one line, without what may be secret in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    # Some backends put the whole address, signature and all, into their text.
    return redact_text(text)[:300]


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into a `StorageFailed`."""
    try:
        yield
    except OSError as error:
        failure = storage_failure(error, error.filename or path)
        if failure is None:
            failure = StorageFailed(
                f"cannot be written: {error.strerror or error}", given=path, remedy="choose another path"
            )
        raise failure from error
