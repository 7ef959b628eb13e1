"""Where jobs run: one contract (`base.Backend`), one class for each place, found by its entry point.

A package that has a backend of its own declares it, and people choose it by that name:

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
    """Return the names of the backends that are installed; none of them is imported for it."""
    return tuple(_entries())


def backend_type(name: str) -> type[Backend]:
    """Return the class of a backend.

    Raises
    ------
    InvalidRequest
        There is none of this name, or it cannot be imported.
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
    """Return the backend of a name; the same one for the same settings.

    Raises
    ------
    InvalidRequest
        There is none of this name.
    ClusterUnreachable
        It is a cluster's, and none is configured.
    """
    return backend_type(name).of(settings)


@cache
def _entries() -> Mapping[str, EntryPoint]:
    from importlib.metadata import entry_points

    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    return {name: found[name] for name in sorted(found, key=lambda name: (name != "local", name))}  # this machine first
