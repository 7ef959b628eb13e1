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
from geozarr_runner.spec.options import ARGUMENTS, RESULT, Arguments, Groups, ResultOptions, refuse_unknown
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

    Parameters
    ----------
    source
        Address or path of a Zarr store, or a STAC item: its address, its file, its dict or a `pystac.Item`. None is
        the product that the settings name.

    Returns
    -------
    Product
        Shows itself as text and as HTML.

    Raises
    ------
    ProductNotFound, ProductDenied, ProductUnreachable, ProductBroken
        There is none, it is not shown, it does not answer, it is no Zarr.
    InvalidRequest
        `source` is nothing of these.
    """
    return open_source(source, Settings.load())


def validate(source: Source | None = None, groups: Groups | None = None) -> GroupReport:
    """Compare the groups that are wanted with those of a product.

    Parameters
    ----------
    source
        As for `inspect`.
    groups
        Paths of groups, as a list or a text with commas or blanks. None is what the settings name; empty or "0" is
        the whole product, in the converter's own layout.

    Returns
    -------
    GroupReport
        Says what is available and missing, and suggests what may have been meant. Never raises for missing groups.

    Raises
    ------
    ProductUnreachable, InvalidRequest
        And their kinds, as for `inspect`.
    """
    from geozarr_runner.planning.groups import report

    settings = Settings.load()
    return report(open_source(source, settings), settings.groups if groups is None else groups)


@signed(ResultOptions)
def estimate(source: Source | None = None, groups: Groups | None = None, **options: Unpack[ResultOptions]) -> Estimate:
    """Say what converting these groups will cost: bytes to download and to write, requests, memory, scratch space.

    Asks the store for the size of each object that is needed, and reads no data.

    Parameters
    ----------
    source, groups
        As for `validate`.
    **options
        Those that determine the result.

    Raises
    ------
    GroupsMissing
        None of the groups is in the product.
    ProductUnreachable, InvalidRequest
        And their kinds, as for `inspect`; or it cannot have these options.
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
    """Have a product converted, and return at once.

    The product's metadata is read and the request checked before, so that one that cannot run is refused here. The
    job goes on when this process ends; `get_job(job.name)` finds it again. A request equal to one that waits or runs
    joins its job.

    Parameters
    ----------
    source
        As for `inspect`.
    output
        Path of the GeoZarr to write; `<product>_geozarr.zarr` in the working directory where neither it nor a setting
        says otherwise. On a cluster a path on the claim: `out/r20m.zarr`, or `pvc://claim/out/r20m.zarr`. Everywhere an
        address in an object store, `s3://bucket/r20m.zarr`; one that is replaced is gone while the new one is uploaded.
    **options
        Those of the conversion and of its job.
    backend
        Where it runs: "local" or "argo", a cluster with Argo Workflows; None: the settings say ("local").

    Raises
    ------
    GroupsMissing, OutputExists, OutputBusy, StorageDenied, InvalidRequest, ClusterError
        The request could never run.
    ProductUnreachable
        And its kinds, as for `inspect`.
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
    """Say whether a conversion could be submitted, and submit nothing.

    Parameters
    ----------
    source, output, backend
        As for `submit`.
    **options
        Those of the conversion and of its job.
    look
        Look at the place too: whether the output is there, whether it can be written, whether the cluster has what a
        job needs. False leaves out what takes more than this machine and the product's metadata.

    Returns
    -------
    Request
        What would be submitted; `output` is its full name there.

    Raises
    ------
    GeozarrError
        What `submit` would raise.
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
    """Convert a product, show how far it is, and return the job once the verified output is there.

    Interrupting it (Ctrl-C, the notebook's stop button) leaves the job running, and says how to come back or end it.

    Parameters
    ----------
    source, output, backend
        As for `submit`.
    **options
        Those of the conversion and of its job.
    progress
        False shows nothing.
    poll_interval
        Seconds between two looks at the job; None is what suits the backend.

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
    """Return all jobs that a backend knows, the oldest first."""
    settings = Settings.load()
    place = open_backend(backend or settings.backend, settings)
    return JobSet(place, [Job(place, state.name) for state in place.list()])


def get_job(name: str, backend: str | None = None) -> Job:
    """Return a job by its name: one that waits, runs or has finished, whoever submitted it.

    Raises
    ------
    JobNotFound
    """
    settings = Settings.load()
    place = open_backend(backend or settings.backend, settings)
    return Job(place, place.get(name).name)


def watch_jobs(stop: threading.Event, backend: str | None = None) -> Iterator[JobState]:
    """Yield the state of every job that a backend knows, and again each time it changes, until `stop` is set.

    However many jobs there are, and whoever submitted them, they are watched through one connection. The state of a
    job that somebody deleted comes once more, with `is_gone`.

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
    """Submit many conversions, and return at once.

    Called again with the same list, in this process or another, it resumes: what waits or runs is joined, what is done
    and still there is left alone, what failed runs again. A request that is refused becomes a failed entry with its
    reason; the others go on.

    Parameters
    ----------
    requests
        For each a source as for `inspect`, or a dict of `submit`'s arguments. Or a static STAC catalogue, collection
        or `ItemCollection`, as its address, path, dict or pystac object: all items of it and of its children.
    **options
        For all requests that do not have their own.
    backend
        As for `submit`.
    name
        Name of the set, for `get_job_set`; None makes one of what the list holds.
    max_workers
        How many products' metadata are read at once; how many jobs run at once is the backend's setting.

    Raises
    ------
    InvalidRequest
        `requests` is a single one or no STAC, or the name of the set or the settings cannot be used.
    ProductUnreachable
        And its kinds: the catalogue, or what it links to, cannot be read.
    StorageFailed
        And its kinds: the set cannot be written down. What was submitted goes on; the same call later joins it.
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
        """Let no request overwrite what another one of the list has just made: two items may have one id."""
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
    """Lets threads go by in the order of their numbers, so that the same list has the same outcome each time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._gone: set[int] = set()
        self._next = 0

    def wait(self, number: int) -> None:
        """Return once all lower numbers have left."""
        with self._changed:
            self._changed.wait_for(lambda: self._next >= number)

    def leave(self, number: int) -> None:
        """Let higher numbers go by; one that has left may leave again."""
        with self._changed:
            self._gone.add(number)
            while self._next in self._gone:
                self._next += 1
            self._changed.notify_all()


def get_job_set(name: str, backend: str | None = None) -> JobSet:
    """Return the set of jobs that `submit_many` made under this name, in this process or another.

    Raises
    ------
    JobNotFound
    """
    settings = Settings.load()
    place = open_backend(backend or settings.backend, settings)
    return JobSet(place, _set_file(settings, name).read(place), name=name)


def _place(backend: str | None, options: JobArguments) -> tuple[Settings, Backend, Arguments]:
    """Return the settings, the backend that is meant, and the arguments of a request that it can do.

    The settings have what is said of pods in them.
    """
    refuse_unknown(options, JOB_ARGUMENTS, "geozarr_nb.submit")
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    pods = {name: str(given.pop(name)) for name in PODS if given.get(name, "") != ""}
    settings = Settings.load().with_arguments(**pods)
    place = open_backend(backend or settings.backend, settings)
    if pods and not place.uses_image:
        raise InvalidRequest(
            f"a job of the backend {place.name!r} is a process of this machine, without a pod of its own",
            given=", ".join(f"{name}={value!r}" for name, value in options.items() if name in pods),
            remedy=f"leave {' and '.join(pods)} out",
        )
    if not place.uses_scratch:
        if scratch := given.get("scratch"):
            raise InvalidRequest(
                f"a job of the backend {place.name!r} has a folder for intermediate files of its own",
                given=f"scratch={os.fspath(scratch)!r}",
                remedy="leave scratch out",
            )
        given["scratch"] = ""  # the setting is a folder of this machine
    return settings, place, cast(Arguments, {name: value for name, value in given.items() if name in ARGUMENTS})


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
