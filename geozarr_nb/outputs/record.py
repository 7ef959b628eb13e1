"""The record of an output, which says how it was made, wherever the output lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geozarr_nb.claims.address import SCHEME, Address
from geozarr_nb.claims.volume import files_of
from geozarr_runner.publishing.object_store import root_document
from geozarr_runner.publishing.remote_output import RemoteOutput, is_address
from geozarr_runner.publishing.root_document import provenance, provenance_in


def record_of(output: str) -> Mapping[str, Any] | None:
    """Return the record of an output; None if there is no output, or if it has no record.

    Raises
    ------
    GeozarrError
        The output cannot be read from here.
    """
    if output.startswith(SCHEME):
        address = Address.parse(output)
        try:
            root = files_of(address).read(f"{address.path}/zarr.json")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return provenance_in(root)
    if is_address(output):
        root_in_store = root_document(RemoteOutput(output))
        return None if root_in_store is None else provenance_in(root_in_store)
    return provenance(output)
