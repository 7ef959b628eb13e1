"""Backends, which run jobs. Each is a class with the contract `base.Backend`, found by its entry point.

Another package can bring a backend: it declares an entry point, whose name people give as `backend`.

    [project.entry-points."geozarr_nb.backends"]
    slurm = "my_package:SlurmBackend"
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from geozarr_nb.backends.base import Backend
    from geozarr_nb.settings import Settings

GROUP = "geozarr_nb.backends"


def names() -> tuple[str, ...]:
    """Return the names of the installed backends, without importing them."""
    return tuple(_entries())


def backend_type(name: str) -> type[Backend]:
    """Return the class of a backend.

    Raises
    ------
    InvalidRequest
        There is no backend of this name, or it cannot be imported.
    """
    from geozarr_nb.errors import InvalidRequest

    entry = _entries().get(name)
    if entry is None:
        raise InvalidRequest("there is no such backend", given=name, remedy=f"choose of: {', '.join(names())}")
    try:
        found: type[Backend] = entry.load()
    except (ImportError, AttributeError) as error:
        raise InvalidRequest(
            f"the backend cannot be loaded: {error}",
            given=f"{name} = {entry.value}",
            remedy="install its package again",
        ) from error
    return found


def open_backend(name: str, settings: Settings) -> Backend:
    """Return the backend of a name; equal settings give the same object.

    Raises
    ------
    InvalidRequest
        There is no backend of this name.
    ClusterUnreachable
        The backend needs a cluster, and none is configured.
    """
    return backend_type(name).of(settings)


@cache
def _entries() -> Mapping[str, EntryPoint]:
    from importlib.metadata import entry_points

    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    return {name: found[name] for name in sorted(found, key=lambda name: (name != "local", name))}  # this machine first
