"""The public calls on many conversions: `submit_many`, `get_job_set`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Unpack

from geozarr_nb.api.submission import check, submit
from geozarr_nb.backends import open_backend
from geozarr_nb.errors import GeozarrError, InvalidRequest
from geozarr_nb.jobs.job import Job
from geozarr_nb.jobs.jobset import JobSet, Refused, label_of
from geozarr_nb.jobs.set_file import SetFile
from geozarr_nb.outputs.stac.catalogue import expand
from geozarr_nb.pods import JOB_ARGUMENTS
from geozarr_nb.request import Request, open_source
from geozarr_nb.settings import Settings
from geozarr_runner.spec.options import ARGUMENTS, Arguments, refuse_unknown
from geozarr_runner.spec.signature import signed

if TYPE_CHECKING:
    import pystac

    from geozarr_nb.api.products import Source


_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


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
