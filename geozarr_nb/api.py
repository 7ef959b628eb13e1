"""The public calls on products and jobs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Unpack, cast

from geozarr_nb.backends import open_backend
from geozarr_nb.errors import GeozarrError, GroupsMissing, InvalidRequest, JobNotFound
from geozarr_nb.jobs.job import Job
from geozarr_nb.jobs.jobset import JobSet, Refused, SetFile, label_of
from geozarr_nb.outputs.catalogue import expand
from geozarr_nb.pods import JOB_ARGUMENTS, PODS, JobArguments
from geozarr_nb.request import Request, check_groups, open_source, request_for
from geozarr_nb.settings import Settings
from geozarr_runner.spec.options import ARGUMENTS, OPTIONS, RESULT, Arguments, Groups, ResultOptions, refuse_unknown
from geozarr_runner.spec.signature import signed

if TYPE_CHECKING:
    import pystac

    from geozarr_nb.backends.base import Backend, JobState
    from geozarr_runner.planning.estimate import Estimate
    from geozarr_runner.planning.groups import GroupReport
    from geozarr_runner.product.model import Product

    Source = str | os.PathLike[str] | Mapping[str, Any] | pystac.Item | Product

_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def inspect(source: Source | None = None) -> Product:
    """Read a product's structure: kind, groups, variables, shapes, chunks, attributes.

    Only metadata is read, no pixels.

    Parameters
    ----------
    source
        Address or path of a Zarr store, or a STAC item: its address, its file, its dict or a `pystac.Item`. None is
        the product that the settings name.

    Returns
    -------
    Product
        The structure, which a notebook shows as a table.

    Raises
    ------
    ProductNotFound
        There is no product at this address.
    ProductDenied
        The server refuses to show the product.
    ProductUnreachable
        The server does not answer.
    ProductBroken
        What lies there is no readable Zarr store.
    InvalidRequest
        `source` has another type, or is an address that may not be opened.
    """
    return open_source(source, Settings.load())


def validate(source: Source | None = None, groups: Groups | None = None) -> GroupReport:
    """Compare the groups of a request with those of a product.

    Parameters
    ----------
    source
        As for `inspect`.
    groups
        Paths of groups, as a list, which is taken as it is, or as a text: a JSON array, or paths with commas or blanks
        between them. None takes the groups that the settings name. An empty list, an empty text and "0" are the whole
        product, in the converter's own layout.

    Returns
    -------
    GroupReport
        The groups that are available and those that are missing, with similar names. A missing group raises no error.

    Raises
    ------
    ProductUnreachable, InvalidRequest
        As for `inspect`.
    """
    from geozarr_runner.planning.groups import report

    settings = Settings.load()
    return report(open_source(source, settings), settings.groups if groups is None else groups)


@signed(ResultOptions)
def estimate(source: Source | None = None, groups: Groups | None = None, **options: Unpack[ResultOptions]) -> Estimate:
    """Estimate what a conversion costs: bytes to download and to write, requests, memory, scratch space.

    The store is asked for the size of each object that is needed. No pixels are read.

    Parameters
    ----------
    source, groups
        As for `validate`.
    **options
        The options that change the output.

    Returns
    -------
    Estimate
        The figures: `download_bytes`, `requests`, `output_bytes`, `memory_bytes` (peak memory of one converter) and
        `staging_bytes` (scratch space for what is downloaded). A notebook shows them as a table.

    Raises
    ------
    GroupsMissing
        None of the groups is in the product.
    InvalidRequest
        The options are refused for this product and these groups.
    ProductUnreachable
        As for `inspect`.
    """
    from geozarr_runner.planning.estimate import estimate as estimate_product

    refuse_unknown(options, RESULT, "geozarr_nb.estimate")
    settings = Settings.load()
    wanted = settings.groups if groups is None else groups
    return estimate_product(open_source(source, settings), wanted, **options)


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


def list_jobs(backend: str | None = None) -> JobSet:
    """Return all jobs of a backend, the oldest first: those of other processes and of earlier days too.

    Parameters
    ----------
    backend
        As for `submit`.
    """
    settings = Settings.load()
    place = open_backend(backend or settings.backend, settings)
    return JobSet(place, [Job(place, state.name) for state in place.list()])


def get_job(name: str, backend: str | None = None) -> Job:
    """Return the job of a name, whether it waits, runs or has finished, and whoever submitted it.

    Raises
    ------
    JobNotFound
        The backend has no job of this name.
    """
    settings = Settings.load()
    place = open_backend(backend or settings.backend, settings)
    return Job(place, place.get(name).name)


def watch_jobs(stop: threading.Event, backend: str | None = None) -> Iterator[JobState]:
    """Yield the state of every job of a backend, and again each time it changes, until `stop` is set.

    One connection watches all jobs, whoever submitted them. When a job is deleted, its last state comes once more, with
    `is_gone`.

    Parameters
    ----------
    stop
        Ends the iterator, from another thread, when it is set.
    backend
        As for `submit`.

    Examples
    --------
    >>> for state in gz.watch_jobs(threading.Event()):
    ...     print(state.name, state.status, state.stage, state.progress)
    """
    settings = Settings.load()
    return open_backend(backend or settings.backend, settings).watch(stop)


@signed(Arguments, if_exists="skip")
def submit_many(
    requests: Iterable[Source | Mapping[str, Any]] | str | os.PathLike[str] | Mapping[str, Any] | pystac.Catalog,
    *,
    backend: str | None = None,
    name: str | None = None,
    max_workers: int = 8,
    **options: Unpack[Arguments],
) -> JobSet:
    """Submit many conversions, and return the set of their jobs at once.

    One failure stops no other conversion. A request that is refused is in `JobSet.refused`, with its name and its
    reason, and counts as Failed. `JobSet.retry_failed` runs the failed jobs again, and only those.

    The same call again, in this process or another, resumes the set: it joins jobs that wait or run, keeps outputs that
    are done, and runs failed jobs again.

    Parameters
    ----------
    requests
        A list whose members are sources, as for `inspect`, or dicts of `submit`'s arguments. Or a STAC catalogue, a
        collection (of a STAC API, too) or an `ItemCollection`, as its address, path, dict or pystac object; then all
        items of it and of its children are converted, as many as the settings allow.
    **options
        Options of every request that does not give its own.
    backend
        As for `submit`.
    name
        Name of the set, for `get_job_set`; None makes a name from the requests.
    max_workers
        How many products' metadata are read at the same time. How many jobs run at the same time is a setting of the
        backend.

    Raises
    ------
    InvalidRequest
        `requests` is a single request, the root of a STAC API, a document that is no STAC, or has no items; or the
        set's name or a setting cannot be used.
    ProductUnreachable
        The catalogue, or a document that it links to, cannot be read.
    StorageFailed
        The set cannot be stored. Jobs that were submitted go on, and the same call joins them later.
    """
    settings = Settings.load()
    backend = backend or settings.backend
    place = open_backend(backend, settings)
    refuse_unknown(options, ARGUMENTS, "submit_many")
    # The name of a set is made from the options that 0.1.0 had, and from those of its own.
    common: dict[str, Any] = {name: one.default for name, one in ARGUMENTS.items() if one.parameter or one.of_machine}
    common |= {"if_exists": "skip", **options}
    if not isinstance(groups := common["groups"], str | None):  # an iterator can be used only once
        common["groups"] = list(groups)
    requests = expand(requests, max_items=settings.max_items, max_catalogues=settings.max_catalogues)
    if isinstance(requests, str | Mapping) or not isinstance(requests, Iterable):
        raise InvalidRequest(
            "this is a single request, and not a list of them",
            given=label_of(_arguments(requests)),
            remedy="put it into a list: submit_many([...]), or use submit",
        )
    wanted = [{**common, **_arguments(request)} for request in requests]
    name = name or _set_name(wanted)
    file = _set_file(settings, name)
    file.start()
    lock = threading.Lock()
    turns = _Turns()
    claims: dict[str, str] = {}

    def one(arguments: Mapping[str, Any], number: int = 0) -> Job | Refused:
        try:
            _check_arguments(arguments)
            source = arguments.get("source")
            if arguments.get("if_exists") == "overwrite":
                source = open_source(source, settings)
                request = check(**{**arguments, "source": source}, backend=backend, look=False)
                turns.wait(number)
                claim(request)
                turns.leave(number)
            return submit(**{**arguments, "source": source}, backend=backend)
        except GeozarrError as error:
            return Refused.of(arguments, error)

    def claim(request: Request) -> None:
        """Refuse a request whose output another request of the list writes: two items can have one id."""
        with lock:
            if claims.setdefault(request.output, request.name) != request.name:
                raise InvalidRequest(
                    "another request of this list writes the same output",
                    given=request.output,
                    remedy='give each an output of its own: {"source": ..., "output": ...}',
                )

    def numbered(number: int) -> Job | Refused:
        try:
            entry = one(wanted[number], number)
        finally:
            turns.leave(number)
        with lock:
            file.add(number, entry)
        return entry

    with ThreadPoolExecutor(max_workers, thread_name_prefix="geozarr-submit") as pool:
        entries = list(pool.map(numbered, range(len(wanted))))
    return JobSet(place, entries, name=name, resubmit=one)


class _Turns:
    """Makes threads take turns in the order of their numbers, so that the same list always has the same outcome."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._gone: set[int] = set()
        self._next = 0

    def wait(self, number: int) -> None:
        """Return once all lower numbers have left."""
        with self._changed:
            self._changed.wait_for(lambda: self._next >= number)

    def leave(self, number: int) -> None:
        """Let the next number have its turn; a second call for the same number changes nothing."""
        with self._changed:
            self._gone.add(number)
            while self._next in self._gone:
                self._next += 1
            self._changed.notify_all()


def get_job_set(name: str, backend: str | None = None) -> JobSet:
    """Return the set of jobs that `submit_many` stored under this name, in this process or another.

    Raises
    ------
    JobNotFound
        There is no set of this name.
    """
    settings = Settings.load()
    place = open_backend(backend or settings.backend, settings)
    return JobSet(place, _set_file(settings, name).read(place), name=name)


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


def _arguments(request: Any) -> dict[str, Any]:
    """Return one member of a list of requests as arguments of `submit`; a STAC item's dict is a source."""
    if isinstance(request, Mapping) and "assets" not in request:
        return dict(request)
    return {"source": request}


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    try:
        refuse_unknown(arguments, ("source", "output", *JOB_ARGUMENTS), "submit")
    except InvalidRequest as error:
        error.given = label_of(arguments)
        raise


def _set_name(wanted: list[dict[str, Any]]) -> str:
    shown = [{**arguments, "source": label_of(arguments)} for arguments in wanted]
    text = json.dumps(shown, default=str, sort_keys=True)
    return f"set-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _set_file(settings: Settings, name: str) -> SetFile:
    if not _SET_NAME.fullmatch(name):
        raise InvalidRequest(
            "this cannot be the name of a set of jobs", given=name, remedy="use letters, digits, '.', '_' and '-'"
        )
    return SetFile(settings.state_dir / "sets", name)
