"""Where an output lies, and what it means that nothing is there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from geozarr_nb.claims.address import SCHEME
from geozarr_nb.claims.volume import neighbours, resolve
from geozarr_nb.errors import KnownJob
from geozarr_runner.errors import InvalidRequest
from geozarr_runner.publishing.remote_output import MANIFEST, is_address
from geozarr_runner.stores.store import Store
from geozarr_runner.text.shell import literal
from geozarr_runner.trust.addresses import redact

if TYPE_CHECKING:
    pass


class FinishedJob(KnownJob, Protocol):
    """What is asked of a job to know where its output lies."""

    @property
    def output(self) -> str:
        """The output's address."""


def location(output: str | os.PathLike[str] | FinishedJob) -> str:
    """Return the address behind a path, an address or a job.

    Raises
    ------
    InvalidRequest
        The job has not succeeded, so there is nothing to open.
    """
    if isinstance(output, str | os.PathLike):
        if not os.fspath(output):
            raise InvalidRequest("the output's path is empty", given='""', remedy="give the path of a converted store")
        return _reachable(os.fspath(output))
    if output.status == "Succeeded":
        return _reachable(str(output.output))
    going_on = output.status in ("Pending", "Running")
    raise InvalidRequest(
        f"the job is {output.status}, so there is no output to open" + (f": {output.reason}" if output.reason else ""),
        given=output.name,
        remedy=f'wait for it: gz.get_job("{output.name}").wait()'
        if going_on
        else f'read why: print(gz.get_job("{output.name}").logs()); then gz.get_job("{output.name}").retry()',
    )


def _reachable(address: str) -> str:
    """Return where to open something of a cluster's claim: a path where that is mounted here."""
    return resolve(address) if address.startswith(SCHEME) else address


def absent(url: str, store: Store) -> InvalidRequest:
    """Return the error for an address with no store, with what may have been meant."""
    if url.startswith(SCHEME):
        return _absent_on_claim(url)
    if store.local is None:
        remedy = "check the address: it must be the store itself"
        if is_address(url) and Store(f"{url.rstrip('/')}{MANIFEST}").read("") is not None:
            remedy = "it is being written, or was interrupted: run the conversion again once none is at work on it"
        return InvalidRequest("there is no Zarr store here", given=redact(url), remedy=remedy)
    name, parent = store.local.name, store.local.parent
    if (parent / f".{name}.partial").exists():
        remedy = "it is being written, or was interrupted: look at gz.list_jobs() and run the conversion again"
    elif store.local.exists():
        remedy = "it is no Zarr store: give the folder that has a zarr.json in it"
    elif parent.is_dir() and (near := sorted(entry.name for entry in parent.glob("*.zarr"))[:5]):
        remedy = f"in that folder there are: {', '.join(near)}"
    else:
        remedy = f"check the path, or make it: gz.convert(product, {literal(url)})"
    return InvalidRequest("there is no converted product here", given=url, remedy=remedy)


def _absent_on_claim(address: str) -> InvalidRequest:
    names = neighbours(address)
    name = address.rstrip("/").rpartition("/")[2]
    if f".{name}.partial" in names:
        remedy = 'it is being written, or was interrupted: look at geozarr_nb.list_jobs(backend="argo")'
    elif name in names:
        remedy = "it is no Zarr store: give the folder that has a zarr.json in it"
    elif near := [each for each in names if each.endswith(".zarr")][:5]:
        remedy = f"in that folder there are: {', '.join(near)}"
    else:
        remedy = f'check the path, or make it: gz.convert(product, {literal(address)}, backend="argo")'
    return InvalidRequest("there is no converted product here", given=address, remedy=remedy)
