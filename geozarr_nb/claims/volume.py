"""The files of a claim: a folder where the claim is mounted here, else what a reader pod on it shows.

`pvc://<claim>/<path>` names a file or a folder of a claim. Where that is mounted is a setting (`GEOZARR_MOUNTS`), or,
in a pod of the cluster, is found in that pod's own volumes.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from geozarr_nb.claims.address import SCHEME, Address, Entry, Files
from geozarr_nb.errors import ClusterDenied, ClusterObjectMissing, InvalidRequest, ProductDenied
from geozarr_runner.text.shell import word
from geozarr_runner.trust.tree import FolderTree

if TYPE_CHECKING:
    from geozarr_nb.settings import Settings

# Where every pod finds which namespace it is in.
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a claim, or a folder of it, is mounted on this machine; its files are read as any other's.

    Attributes
    ----------
    folder
        The path here.
    below
        The folder of the claim that is seen there; empty for all of it.
    """

    folder: Path
    below: str = ""

    def shows(self, path: str) -> bool:
        """Return whether something of the claim is to be found here."""
        return not self.below or PurePosixPath(path).is_relative_to(self.below)

    def local(self, path: str) -> Path:
        """Return where something of the claim is on this machine."""
        return self.folder / PurePosixPath(path).relative_to(self.below) if self.below else self.folder / path

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """See `Files`."""
        place = self.local(path)
        try:
            # Anybody who writes to the claim could have left a link to a file of this machine.
            opened = FolderTree(self.folder, ProductDenied).open(str(place.relative_to(self.folder)))
            with os.fdopen(opened, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(size + start, 0) if start < 0 else start)
                return file.read(-1 if stop is None else max(min(stop, size) - start, 0))
        except FileNotFoundError as error:
            if place.is_dir():  # which `FolderTree` opens as little
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place)) from error
            raise
        except PermissionError as error:
            raise _denied(place) from error

    def entry(self, path: str) -> Entry:
        """See `Files`."""
        place = self.local(path)
        try:
            inside = self._inside(place)
            return _entry(place.name, inside.stat(), is_folder=inside.is_dir())
        except PermissionError as error:
            raise _denied(place) from error

    def entries(self, path: str) -> list[Entry]:
        """See `Files`."""
        place = self.local(path)
        try:
            with os.scandir(self._inside(place)) as found:
                return [
                    _entry(one.name, one.stat(), is_folder=one.is_dir())
                    for one in found
                    # A path tells of a circle of links that it is neither.
                    if (Path(one).is_dir() or Path(one).is_file()) and (not one.is_symlink() or self._holds(Path(one)))
                ]
        except PermissionError as error:
            raise _denied(place) from error

    def _inside(self, place: Path) -> Path:
        """Return a place without links on it; what a link leads to elsewhere is nothing of the claim."""
        if not self._holds(place):
            raise ProductDenied(
                "a link leads out of the claim; it is not followed",
                given=place,
                remedy="see who made it, and what it is for",
            )
        return place.resolve()

    def _holds(self, place: Path) -> bool:
        return place.resolve().is_relative_to(self.folder.resolve())


def resolve(address: str, settings: Settings | None = None) -> str:
    """Return what to open for a `pvc://` address: a path where the claim is mounted here, else the address itself.

    Raises
    ------
    InvalidRequest
        It is no such address, or a setting says that the claim is mounted where there is no folder.
    """
    parsed = Address.parse(address)
    mount = mount_of(parsed, _loaded(settings))
    if mount is not None:
        return str(mount.local(parsed.path))
    _register()
    return str(parsed)


def files_of(address: Address, settings: Settings | None = None) -> Files:
    """Return the files of an address's claim: its mount where that shows this address, else its reader pod's.

    Raises
    ------
    InvalidRequest
        A setting says that the claim is mounted where there is no folder.
    ClusterUnreachable
        It is not mounted, and no cluster is configured.
    """
    settings = _loaded(settings)
    mount = mount_of(address, settings)
    if mount is not None:
        return mount
    from geozarr_nb.claims.reader import reader_of

    return reader_of(address.claim, settings)


def neighbours(address: str, settings: Settings | None = None) -> list[str]:
    """Return the names of what is in the folder of an address; none where there is no such folder.

    Raises
    ------
    ClusterError
        As reading raises it.
    """
    parsed = Address.parse(address)
    folder = str(PurePosixPath(parsed.path).parent)
    try:
        entries = files_of(parsed, settings).entries("" if folder == "." else folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(entry.name for entry in entries)


def mount_of(address: Address, settings: Settings) -> Mount | None:
    """Return where an address's claim is mounted on this machine so that the address can be seen; None where not.

    Raises
    ------
    InvalidRequest
        A setting says that it is mounted where there is no folder.
    """
    folder = settings.mounts.get(address.claim)
    if folder is not None:
        if not folder.is_dir():
            raise InvalidRequest(
                f"claim {address.claim} is not mounted where {settings.origins.get('mounts', 'the settings')} says",
                given=f"{address.claim}={folder}",
                remedy="correct GEOZARR_MOUNTS, or unset it: the claim is read through the cluster then",
            )
        return Mount(folder)
    for mount in own_mounts(settings).get(address.claim, ()):
        if mount.shows(address.path):
            return mount
    return None


def own_mounts(settings: Settings) -> Mapping[str, tuple[Mount, ...]]:
    """Return where claims of the settings' namespace are mounted in the pod that this runs in; none outside of one.

    The pod's own spec tells, once. Whoever may not read it has no mounts by this way.
    """
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        namespace = POD_NAMESPACE.read_text().strip() if host else ""
    except OSError:
        return {}
    if namespace != settings.namespace:
        return {}  # not in a pod, or claims of the same name are others there
    from geozarr_nb.cluster.client import connect
    from geozarr_nb.cluster.kinds import PODS

    api = connect(settings)
    if urlsplit(api.server).netloc not in (f"{host}:{port}", f"[{host}]:{port}"):
        return {}  # another cluster than the one that this pod is in
    with _DISCOVERING:
        known = _DISCOVERED.get(api.server)
        if known is None:
            try:
                pod = api.get(PODS, socket.gethostname())
            except (ClusterDenied, ClusterObjectMissing):
                pod = {}
            known = _DISCOVERED[api.server] = mounts_in(pod)
    return known


def mounts_in(pod: Mapping[str, Any]) -> Mapping[str, tuple[Mount, ...]]:
    """Return where a pod has claims mounted, of those places that are mounted here too.

    Which of its containers this is, is not known: a place of another one is no mount here.
    """
    spec = pod.get("spec", {})
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in spec.get("volumes") or ()
        if volume.get("persistentVolumeClaim")
    }
    found: dict[str, list[Mount]] = {}
    for container in spec.get("containers") or ():
        for place in container.get("volumeMounts") or ():
            claim, folder = claims.get(place.get("name")), Path(str(place.get("mountPath")))
            # With an expression it is not known which folder of the claim it is.
            if claim is None or place.get("subPathExpr") or not os.path.ismount(folder):
                continue
            mount = Mount(folder, str(place.get("subPath") or "").strip("/"))
            if mount not in found.setdefault(claim, []):
                found[claim].append(mount)
    return {claim: tuple(mounts) for claim, mounts in found.items()}


_DISCOVERING = Lock()
_DISCOVERED: dict[str, Mapping[str, tuple[Mount, ...]]] = {}


def _loaded(settings: Settings | None) -> Settings:
    if settings is not None:
        return settings
    from geozarr_nb.settings import Settings

    return Settings.load()


def _register() -> None:
    """Tell fsspec of the protocol, where this package's entry point did not, as it runs from a folder of sources."""
    from fsspec.registry import known_implementations, register_implementation, registry

    name = SCHEME.removesuffix("://")
    if name not in registry and name not in known_implementations:
        register_implementation(name, "geozarr_nb.claims.filesystem.ClaimFileSystem")


def _entry(name: str, status: os.stat_result, *, is_folder: bool) -> Entry:
    return Entry(name, is_folder, 0 if is_folder else status.st_size, status.st_mtime)


def _denied(place: Path) -> ProductDenied:
    look = f"ls -l {word(str(place))}"
    return ProductDenied("this may not be read", given=place, remedy=f"have its permissions changed: {look}")
