"""What lies at outputs of a cluster's jobs, as this machine can read it: on a claim or in an object store."""

from __future__ import annotations

from geozarr_nb.claims.address import Address
from geozarr_nb.claims.volume import files_of, mount_of
from geozarr_nb.errors import ClusterError, GeozarrError, StorageFailed
from geozarr_nb.settings import Settings
from geozarr_runner.publishing.archive import CHECKSUM_SUFFIX, SUFFIX
from geozarr_runner.publishing.object_store import read_beside, root_document
from geozarr_runner.publishing.remote_output import LOG, RemoteOutput, is_address
from geozarr_runner.trust.bounds import LARGEST_DOCUMENT


class OutputFiles:
    """Reads what lies at outputs.

    Parameters
    ----------
    settings
        Mounts, image and cluster by which a claim's files are read.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def read(self, address: str, start: int = 0) -> bytes | None:
        """Return the bytes of a file on a claim, from a place on; None if there is none."""
        parsed = Address.parse(address)
        try:
            return files_of(parsed, self._settings).read(parsed.path, start)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_log(self, address: str) -> bytes | None:
        """Return the end of the log beside an output; None if there is none, or if it cannot be read from here."""
        if not is_address(address):
            # The last run is at the end of the file. Only the end is read, since others can make the file arbitrarily
            # large.
            return self.read(address, -LARGEST_DOCUMENT)
        try:
            return read_beside(RemoteOutput(address.removesuffix(LOG)), LOG)
        except StorageFailed:
            return None  # the pod has credentials for the store, but this machine may have none

    def is_near(self, output: str) -> bool:
        """Return whether an output's claim is mounted here, so that a file is read without a pod for it."""
        try:
            return not is_address(output) and mount_of(Address.parse(output), self._settings) is not None
        except GeozarrError:
            return False

    def has_archive(self, output: Address) -> bool:
        """Return whether an output has an archive that is not older than the output; see `publishing.archive`."""
        files = files_of(output, self._settings)
        try:
            files.entry(f"{output.path}{SUFFIX}{CHECKSUM_SUFFIX}")
            packed, made = (files.entry(f"{output.path}{end}").modified for end in (SUFFIX, "/zarr.json"))
        except (FileNotFoundError, NotADirectoryError, ClusterError):
            return False  # the run then looks again, and makes a missing archive
        return packed >= made


def root_in_store(output: RemoteOutput) -> bytes | None:
    """Return the root document of an output in an object store; None if it cannot be read from here."""
    try:
        return root_document(output)
    except StorageFailed:
        return None  # the output cannot be read from here; the run itself checks it
