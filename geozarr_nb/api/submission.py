"""The public calls that submit one conversion: `submit`, `check`, `convert`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Unpack, cast

from geozarr_nb.backends import open_backend
from geozarr_nb.errors import GroupsMissing, InvalidRequest, JobNotFound
from geozarr_nb.jobs.job import Job
from geozarr_nb.pods import JOB_ARGUMENTS, PODS, JobArguments
from geozarr_nb.request import Request, check_groups, open_source, request_for
from geozarr_nb.settings import Settings
from geozarr_runner.spec.options import ARGUMENTS, OPTIONS, Arguments, refuse_unknown
from geozarr_runner.spec.signature import signed

if TYPE_CHECKING:
    from geozarr_nb.api.products import Source
    from geozarr_nb.backends.base import Backend
    from geozarr_runner.product.model import Product


@signed(JobArguments)
def submit(
    source: Source | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    backend: str | None = None,
    **options: Unpack[JobArguments],
) -> Job:
    """Submit a conversion, and return its job at once.

    The product's metadata is read and the request is checked first, so that a request that cannot run is refused here.
    The job goes on when this process ends; `get_job(job.name)` finds it again, also in another process.

    The same request again (same product, output, groups and options that change the output) has the same job name:

    - While the first job waits or runs, the call returns that job and starts nothing.
    - After the job has failed, the call starts a new attempt under the same name.
    - After the job has succeeded, `if_exists` decides: "error" raises `OutputExists`, "skip" returns the finished job,
      "overwrite" converts again.

    Parameters
    ----------
    source
        As for `inspect`.
    output
        Path of the GeoZarr to write. None takes the setting, and without a setting `<product>_geozarr.zarr` in the
        working directory. On a cluster it is a path on the claim: `out/r20m.zarr`, or `pvc://claim/out/r20m.zarr`. With
        every backend it can be an address in an object store: `s3://bucket/r20m.zarr`.
    **options
        The options of the conversion and of its job.
    backend
        Where the job runs: "local" is this machine, as a process of its own; "argo" is a cluster with Argo Workflows.
        None takes the setting, which is "local" unless it is set.

    Raises
    ------
    GroupsMissing, OutputExists, OutputBusy, StorageDenied, InvalidRequest, ClusterError
        The request cannot run.
    ProductUnreachable
        As for `inspect`.
    """
    settings, place, arguments = _place(backend, options)
    product = open_source(source, settings)
    by_argument = _given(settings, stac_url=source, output_zarr=output, backend=backend, **options)
    request = request_for(
        product, output, settings=settings, locate=place.locate, origins=settings.told(by_argument), **arguments
    )
    try:
        earlier = place.get(request.name)
    except JobNotFound:
        earlier = None
    if earlier is None or earlier.is_finished:
        done = _check(place, request, product, _origin_of_groups(settings, options))
        if done and earlier is not None and earlier.status == "Succeeded":
            return Job(place, request.name, request)
    return Job(place, place.submit(request), request)


@signed(JobArguments)
def check(
    source: Source | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    backend: str | None = None,
    look: bool = True,
    **options: Unpack[JobArguments],
) -> Request:
    """Check whether a conversion can be submitted, without submitting it.

    Parameters
    ----------
    source, output, backend
        As for `submit`.
    **options
        The options of the conversion and of its job.
    look
        True also looks at the backend: whether the output exists, whether it can be written, whether the cluster has
        what a job needs. False checks only what the product's metadata tells.

    Returns
    -------
    Request
        The request that `submit` would submit; its `output` is the full name on the backend.

    Raises
    ------
    GeozarrError
        The error that `submit` would raise.
    """
    settings, place, arguments = _place(backend, options)
    product = open_source(source, settings)
    request = request_for(product, output, settings=settings, locate=place.locate, **arguments)
    if look:
        _check(place, request, product, _origin_of_groups(settings, options))
    else:
        check_groups(request, product)
    return request


@signed(JobArguments)
def convert(
    source: Source | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    backend: str | None = None,
    progress: bool = True,
    poll_interval: float | None = None,
    **options: Unpack[JobArguments],
) -> Job:
    """Convert a product, show the progress, and return the job once the verified output is there.

    This is `submit`, then `Job.wait`, then `Job.raise_for_status`. An interrupt (Ctrl-C, the notebook's stop button)
    leaves the job running; its message says how to come back to the job and how to cancel it.

    Parameters
    ----------
    source, output, backend
        As for `submit`.
    **options
        The options of the conversion and of its job.
    progress
        False shows no progress.
    poll_interval
        Seconds between two looks at the job; None takes the backend's own interval.

    Raises
    ------
    ConversionFailed
        The job ended without a result; the text says why and what to do.
    GeozarrError
        The request was refused, as for `submit`.
    """
    job = submit(source, output, backend=backend, **options)
    if progress:
        from geozarr_nb.jobs.display import show

        show(job, poll_interval)
    else:
        job.wait(poll_interval=poll_interval)
    return job.raise_for_status()


def _place(backend: str | None, options: JobArguments) -> tuple[Settings, Backend, Arguments]:
    """Return the settings, the chosen backend, and the arguments of the request.

    Arguments about the job's pod (image, memory, cpu, time_limit) are put into the settings.
    """
    refuse_unknown(options, JOB_ARGUMENTS, "geozarr_nb.submit")
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    pods = _of_pods(given)
    settings = Settings.load().with_arguments(**pods)
    place = open_backend(backend or settings.backend, settings)
    if pods and not place.uses_image:
        raise InvalidRequest(
            f"a job of the backend {place.name!r} is a process of this machine, without a pod of its own",
            given=", ".join(f"{name}={value!r}" for name, value in options.items() if name in pods),
            remedy=f"leave {' and '.join(pods)} out",
        )
    if not place.uses_scratch:
        if scratch := OPTIONS["scratch"].checked(given.get("scratch")):
            raise InvalidRequest(
                f"a job of the backend {place.name!r} has a folder for intermediate files of its own",
                given=f"scratch={scratch!r}",
                remedy="leave scratch out",
            )
        given["scratch"] = ""  # the setting is a folder of this machine
    return settings, place, cast(Arguments, {name: value for name, value in given.items() if name in ARGUMENTS})


def _of_pods(given: dict[str, Any]) -> dict[str, str]:
    """Take what is said of pods out of what is given, and return it as a variable would say it."""
    found = {}
    for name in [name for name in PODS if name in given]:
        value = given.pop(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InvalidRequest(f"this is no value of {name}", given=repr(value)[:200], remedy="leave it out")
        if value != "":
            found[name] = str(value)
    return found


def _given(settings: Settings, **arguments: object) -> list[str]:
    """Return the settings that an argument took the place of."""
    return [name for name, value in arguments.items() if value is not None and hasattr(settings, name)]


def _origin_of_groups(settings: Settings, options: JobArguments) -> str:
    """Return where the groups come from; empty where an argument named them."""
    return settings.origins["groups"] if options.get("groups") is None else ""


def _check(place: Backend, request: Request, product: Product, groups_from: str) -> bool:
    try:
        return place.check(request, product)
    except GroupsMissing as error:
        if not groups_from:
            raise
        raise GroupsMissing(
            f"{error.message} (no groups were given; these are the default of {groups_from})",
            given=error.given,
            remedy=f"{error.remedy}; or give groups=[] for the whole product",
        ) from error
