"""Where jobs run: one contract (`base.Backend`), one module for each place."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geozarr_nb.backends.base import Backend
    from geozarr_nb.cluster.client import Api
    from geozarr_nb.settings import Settings

NAMES = ("local", "argo")


def open_backend(name: str, settings: Settings) -> Backend:
    """Return the backend of a name; the same one for the same settings.

    Raises
    ------
    InvalidRequest
        There is none of this name.
    ClusterUnreachable
        It is a cluster's, and none is configured.
    """
    from geozarr_nb.errors import InvalidRequest

    if name == "local":
        return _local(settings.state_dir, settings.max_jobs, settings.poll_interval, settings.environment)
    if name == "argo":
        from geozarr_nb.cluster.client import connect

        return _argo(connect(settings), settings)
    raise InvalidRequest("there is no such backend", given=name, remedy=f"choose of: {', '.join(NAMES)}")


@lru_cache(maxsize=8)
def _local(state_dir: Path, max_jobs: int, poll_interval: float, environment: tuple[str, ...]) -> Backend:
    from geozarr_nb.backends.local.backend import LocalBackend

    return LocalBackend(state_dir, max_jobs=max_jobs, poll_interval=poll_interval, environment=environment)


@lru_cache(maxsize=8)
def _argo(api: Api, settings: Settings) -> Backend:
    from geozarr_nb.backends.argo.backend import ArgoBackend

    return ArgoBackend(api, settings)
