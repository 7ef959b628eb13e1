"""The address of an output in an object store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fsspec.registry import known_implementations, registry

from geozarr_runner.errors import (
    InvalidRequest,
)
from geozarr_runner.publishing import local
from geozarr_runner.trust.addresses import redact

ROOT, MANIFEST, LOG = "zarr.json", ".manifest.json", ".log.jsonl"


# Protocols that cannot be written, that forget everything with the process, or that name a folder (a cluster's claim).
NO_OBJECT_STORES = frozenset({"http", "https", "memory", "pvc", "data", "file", "local"})


ALIASES = {"s3a": "s3", "gcs": "gs"}


@dataclass(frozen=True, slots=True)
class RemoteOutput:
    """The address of an output in an object store, without a slash at its end."""

    address: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address such as `s3://bucket/path.zarr`.

        Raises
        ------
        InvalidRequest
            The address has no name below a bucket, or holds credentials or `..`.
        """
        protocol, _, path = text.partition("://")
        remedy = f"write {protocol}://bucket/path/product.zarr"
        if redact(text) != text or "\0" in text:
            raise InvalidRequest(
                "the address of an output is a bucket and a path; credentials are read from elsewhere",
                given=redact(text),
                remedy=f"{remedy}, and give credentials by AWS_* or FSSPEC_* variables",
            )
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if len(parts) < 2 or ".." in parts:  # a bucket, and a name in it
            raise InvalidRequest("this cannot be the address of an output", given=text, remedy=remedy)
        return cls(f"{ALIASES.get(protocol, protocol)}://{'/'.join(parts)}")

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.address.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The address without its last part."""
        return self.address.rpartition("/")[0]

    def __str__(self) -> str:
        return self.address


Output = Path | RemoteOutput


def output_place(output: str | os.PathLike[str]) -> Output:
    """Return an output's path on this machine, or its address in an object store.

    Raises
    ------
    InvalidRequest
        The text is neither.
    """
    if isinstance(output, str) and is_address(output):
        return RemoteOutput.parse(output)
    return local.output_path(output)


def is_address(text: str) -> bool:
    """Return whether a text is an address in an object store that fsspec can write."""
    protocol, separator, _ = text.partition("://")
    known = protocol in known_implementations or protocol in registry
    return bool(separator) and known and protocol not in NO_OBJECT_STORES
