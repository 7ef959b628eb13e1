"""Jobs on a Kubernetes cluster with Argo Workflows.

Each attempt at a job is one Workflow, made from the WorkflowTemplate `geozarr-convert`. One watch over Workflows and
one over their pods follow all jobs; a pod shows its end sooner than the controller. Events of a run are read from the
log of its pod, and from the file beside the output once the pod is gone. All state lies in the cluster, and this
process only caches it: any other process sees the same jobs.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import lru_cache
from typing import Any
from weakref import WeakSet

from geozarr_nb.backends.argo.attempt import Attempt
from geozarr_nb.backends.argo.attempts import Attempts, forget_watches, keep, progress_of, result_of, told
from geozarr_nb.backends.argo.ending import until_ended, until_gone
from geozarr_nb.backends.argo.output_files import OutputFiles, root_in_store
from geozarr_nb.backends.argo.readiness import Readiness, Template
from geozarr_nb.backends.argo.reasons import AGAIN, Reasons
from geozarr_nb.backends.argo.run_log import without_log
from geozarr_nb.backends.argo.workflow import (
    ENDED,
    RELEASED,
    claim_of,
    is_signed,
    manifest,
    output_address,
    secret,
    workflow_name,
)
from geozarr_nb.backends.base import Cursor, Failure, JobState, Status, changes
from geozarr_nb.backends.run_state import not_understood
from geozarr_nb.claims.address import Address
from geozarr_nb.claims.reader import release_idle
from geozarr_nb.claims.volume import mount_of
from geozarr_nb.cluster.client import Api, Object, connect
from geozarr_nb.cluster.kinds import SECRETS, WORKFLOWS
from geozarr_nb.errors import ClusterError, ClusterObjectExists, ClusterObjectMissing, InvalidRequest, OutputBusy
from geozarr_nb.request import Request, check, check_groups, check_output
from geozarr_nb.settings import Settings
from geozarr_runner.events import LATER, Event
from geozarr_runner.planning.memory import memory_needed
from geozarr_runner.product.model import Product
from geozarr_runner.publishing.remote_output import RemoteOutput, is_address

POLL_INTERVAL = 1.0
ESTIMATES_KEPT = 1024
SECONDS_OF_SILENCE_TOLD = 3.0


class ArgoBackend:
    """Runs jobs as Argo Workflows in one namespace of a cluster.

    Parameters
    ----------
    api
        The cluster, and the namespace.
    settings
        Template, image, claim, resources and credentials of the jobs.
    """

    name = "argo"
    label = "a cluster with Argo Workflows"
    uses_scratch = False
    uses_image = True

    @classmethod
    def of(cls, settings: Settings) -> ArgoBackend:
        """See `Backend.of`."""
        return _opened(connect(settings), settings)

    def __init__(self, api: Api, settings: Settings) -> None:
        chosen = settings.origins.get("poll_interval", "default") != "default"
        self.poll_interval = settings.poll_interval if chosen else POLL_INTERVAL
        self._settings = settings
        self._files = OutputFiles(settings)
        self._begin(api)
        _OF_THIS_PROCESS.add(self)

    def _begin(self, api: Api) -> None:
        self._api = api
        self._attempts = Attempts(api, self._files.read_log)
        self._readiness = Readiness(api, self._settings)
        self._reasons = Reasons(api, lambda: release_idle(api))
        self._mutex = threading.Lock()
        self._memory: OrderedDict[str, int] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        # The product of the settings is no part of the place, and its address may be signed.
        values = {one.name: getattr(self._settings, one.name) for one in fields(Settings)} | {"stac_url": ""}
        plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
        return _unpickled, (type(self), plain)

    def __repr__(self) -> str:
        return f"ArgoBackend({self._api!r})"

    # The contract: base.Backend describes each call.

    def locate(self, output: str | os.PathLike[str]) -> str:
        """See `Backend.locate`."""
        if not isinstance(output, str | os.PathLike):
            raise InvalidRequest(
                "an output is given as a path on the claim",
                given=repr(output)[:200],
                remedy='output="out/product.zarr"',
            )
        return output_address(os.fspath(output), self._settings.pvc_name)

    def check(self, request: Request, product: Product) -> bool:
        """See `Backend.check`."""
        memory = memory_needed(product, request.groups, request.options)
        with self._mutex:
            keep(self._memory, request.identity, memory, ESTIMATES_KEPT)
        manifest(request, request.name, 1, self._settings, 0)  # refuses a product that the pods cannot read
        self._readiness.check(claim_of(request, self._settings))
        if is_address(request.output):
            check_groups(request, product)
            return check_output(request, product, root_in_store(RemoteOutput(request.output)))
        address = Address.parse(request.output)
        mount = mount_of(address, self._settings)
        if mount is not None:
            return check(request, product, path=mount.local(address.path))
        check_groups(request, product)
        try:
            root = self._files.read(f"{request.output}/zarr.json")
        except ClusterError:
            return False  # the output cannot be read from here; the run itself checks it
        return check_output(request, product, root) and (
            not request.options["archive"] or self._files.has_archive(address)
        )

    def submit(self, request: Request) -> str:
        """See `Backend.submit`."""
        latest = self._attempts.latest().get(request.name)
        if latest is not None and not self._attempts.is_over(latest):
            if latest.is_held and is_signed(request):
                # Another process is just submitting this job, or ended in the middle of that.
                self._attempts.workflows.put(self._send_address(request, latest.thing))
            return request.name
        self._start(request, request.name, 1 if latest is None else latest.number + 1, latest)
        return request.name

    def get(self, name: str) -> JobState:
        """See `Backend.get`."""
        return self._state(self._attempts.existing(name), closely=True)

    def list(self) -> Sequence[JobState]:
        """See `Backend.list`."""
        attempts = self._attempts.latest().values()
        if not attempts:
            self._readiness.check_namespace()
        states = [self._state(attempt, closely=False) for attempt in attempts]
        return sorted(states, key=lambda state: (state.submitted, state.name))

    def events(self, name: str, cursor: Cursor | None = None) -> tuple[Sequence[Event], Cursor]:
        """See `Backend.events`."""
        attempt, events, cursor = self._since(name, cursor)
        return without_log(events, verbose=bool(attempt.request.options["verbose"])), cursor

    def log(self, name: str, cursor: Cursor | None = None) -> tuple[Sequence[Event], Cursor]:
        """See `Backend.log`."""
        attempt, events, cursor = self._since(name, cursor)
        log = self._attempts.reading(attempt).log
        if log.denial is not None and not log.events:
            raise log.denial
        return events, cursor

    def cancel(self, *names: str) -> None:
        """See `Backend.cancel`; all jobs are told to end before the first is awaited."""
        attempts = [attempt for attempt in map(self._attempts.existing, names) if not self._attempts.is_over(attempt)]
        for attempt in attempts:
            self._attempts.workflows.put(self._api.patch(WORKFLOWS, attempt.name, ENDED))
        start = time.monotonic()
        for attempt in attempts:
            until_ended(self._api, self._attempts.workflows, attempt, start)

    def retry(self, name: str, request: Request | None = None) -> None:
        """See `Backend.retry`."""
        latest = self._attempts.existing(name)
        if self._attempts.is_over(latest):
            self._start(request or latest.request, latest.job, latest.number + 1, latest)

    def watch(self, stop: threading.Event) -> Iterator[JobState]:
        """See `Backend.watch`."""
        known: dict[str, JobState] = {}
        count = -1
        while not stop.is_set():
            yield from changes(known, self.list())
            count = self._attempts.workflows.wait(count, self.poll_interval)

    # Submitting

    def _start(self, request: Request, job: str, number: int, earlier: Attempt | None = None) -> None:
        """Create the Workflow of an attempt, or join the one that another process has just created."""
        if request.withheld:
            raise InvalidRequest(
                "the address of this job held a password or a signature, which is not kept",
                given=request.shown,
                remedy="submit it again with the full address",
            )
        self._refuse_second_writer(request, job)
        until_gone(self._api, self._attempts, workflow_name(job, number))
        template = self._readiness.check(claim_of(request, self._settings))
        memory = self._memory.get(request.identity, int((earlier and earlier.memory_needed) or 0))
        if earlier is not None and earlier.is_held:
            self._end_held(earlier.name)
        workflow = self._create(request, manifest(request, job, number, self._settings, memory), template)
        while self._attempts.has_ended(made := Attempt.of(workflow)):
            # Another process made this Workflow and it has ended already: the next number is taken.
            if made.is_held:
                self._end_held(made.name)
            number += 1
            workflow = self._create(request, manifest(request, job, number, self._settings, memory), template)
        self._attempts.workflows.put(workflow)

    def _create(self, request: Request, body: Object, template: Template) -> Object:
        """Create a Workflow, with a Secret if the product's address is signed; return the Workflow of this name."""
        name = str(body["metadata"]["name"])
        given = {entry["name"] for entry in body["spec"]["arguments"]["parameters"]}
        if unknown := sorted(given - template.parameters):
            # Argo ignores a parameter that the template does not have.
            raise self._readiness.of_another_version(template, f"it has no parameter {', '.join(unknown)}")
        if is_signed(request) and not template.takes_address:
            raise self._readiness.of_another_version(template, "it would look elsewhere for the signed address")
        try:
            workflow = self._api.create(WORKFLOWS, body)
        except ClusterObjectExists:
            # Another process was faster, or our own first try succeeded although its answer was lost.
            workflow = self._api.get(WORKFLOWS, name)
            found = Attempt.of(workflow)
            waits = is_signed(request) and found.is_held and not self._attempts.has_ended(found)
            return self._send_address(request, workflow) if waits else workflow
        if not is_signed(request):
            return workflow
        try:
            return self._send_address(request, workflow)
        except BaseException:
            with suppress(ClusterError):  # a Workflow that stays starts nothing, and its job has a reason
                self._api.delete(WORKFLOWS, name)
            raise

    def _send_address(self, request: Request, workflow: Object) -> Object:
        """Store a signed address in the Secret of a Workflow, let the Workflow begin, and return it."""
        with suppress(ClusterObjectExists):
            # Our own first try made the Secret, or another process with the same request.
            self._api.create(SECRETS, secret(request, workflow))
        return self._api.patch(WORKFLOWS, str(workflow["metadata"]["name"]), RELEASED)

    def _end_held(self, workflow: str) -> None:
        """End a Workflow that waits for an address which no process will send."""
        with suppress(ClusterObjectMissing):
            self._attempts.workflows.put(self._api.patch(WORKFLOWS, workflow, ENDED))

    def _refuse_second_writer(self, request: Request, job: str) -> None:
        for attempt in self._attempts.latest().values():
            if attempt.job == job or attempt.request.output != request.output or self._attempts.is_over(attempt):
                continue
            raise OutputBusy(
                f"the job {attempt.job}, which has not finished, writes the same output",
                given=request.output,
                remedy=f'choose another output, or geozarr_nb.get_job("{attempt.job}").cancel()',
            )

    # Reading

    def _state(self, attempt: Attempt, *, closely: bool) -> JobState:
        said = self._attempts.runs_of(attempt)
        pods = attempt.pods
        if closely and any(pod.has_begun for pod in pods) and self._may_tell_more(attempt):
            self._attempts.reading(attempt).follow(attempt)
        result = result_of(attempt, said.digest)
        status, failure = ("Succeeded", None) if result else self._status(attempt)
        finished = None
        if result is not None:
            finished = result.time
        elif failure is not None:
            finished = attempt.finished
        return JobState(
            name=attempt.job,
            backend=self.name,
            request=attempt.request,
            status=status,
            submitted=attempt.submitted,
            attempt=attempt.number,
            stage=None if status == "Pending" else said.digest.stage,
            progress=None if status == "Pending" else said.digest.progress or progress_of(attempt),
            reason=failure.message if failure else self._reason(attempt, status, closely=closely),
            failure=failure,
            result=told(result, attempt.request) if result else None,
            started=pods[0].started if pods and status != "Pending" else None,
            finished=finished,
            log=f"{attempt.request.output}.log.jsonl" if pods and pods[0].has_begun else "",
        )

    def _status(self, attempt: Attempt) -> tuple[Status, Failure | None]:
        """Return status and failure of an attempt that has no result."""
        if not self._attempts.has_ended(attempt):
            self._attempts.runs_of(attempt).silence = None  # somebody may have it tried again with Argo
            # The last run counts: while the pod of a repeated run cannot start, the job waits.
            is_running = attempt.pods and attempt.pods[-1].has_begun and not attempt.lacks_pod
            return "Running" if is_running else "Pending", None
        if attempt.is_held:
            return "Error", self._reasons.held(attempt)
        if attempt.is_shut_down:
            return "Failed", Failure("cancelled", "it was cancelled", remedy=AGAIN, exit_code=7, retryable=True)
        outcome = attempt.pods[-1].outcome if attempt.pods else None
        if outcome is not None and outcome.type == "error":
            failure = told = Failure.of(outcome)
            if told.code == "converter-killed":
                failure = self._once(attempt, lambda: self._reasons.killed(attempt, told))
            elif told.code == "interrupted":
                failure = self._once(attempt, lambda: self._reasons.interrupted(attempt, told))
            elif told.code == "invalid-request":
                failure = self._reasons.refused(attempt, told)
            return "Failed", failure
        if outcome is not None and outcome.type == LATER:
            return "Error", not_understood()
        if attempt.phase == "Succeeded":
            message = "its run ended without telling what it wrote: the template is not this package's"
            return "Error", Failure("defect", message, remedy="make template")
        return "Error", self._once(attempt, lambda: self._reasons.ended(attempt))

    def _may_tell_more(self, attempt: Attempt) -> bool:
        """Return whether a run's log may hold what the Workflow does not tell: progress, or a lost pod's result."""
        if not self._attempts.has_ended(attempt):
            return True
        is_silent = self._attempts.runs_of(attempt).silence is None and all(pod.outcome is None for pod in attempt.pods)
        return is_silent and not attempt.is_held and self._files.is_near(attempt.request.output)

    def _once(self, attempt: Attempt, look: Callable[[], Failure]) -> Failure:
        """Return why an attempt ended; it is looked up once, since the pod may be deleted later."""
        said = self._attempts.runs_of(attempt)
        if said.silence is None:
            said.silence = look()
        return said.silence

    def _reason(self, attempt: Attempt, status: Status, *, closely: bool) -> str:
        if status not in ("Pending", "Running"):
            return ""
        trouble = self._attempts.workflows.trouble
        if trouble is not None and trouble[0] > SECONDS_OF_SILENCE_TOLD:
            return f"the cluster has not answered for {trouble[0]:.0f} s; the job itself goes on ({trouble[1].message})"
        if status == "Pending":
            return self._reasons.pending(attempt, closely=closely)
        if closely and (denial := self._attempts.runs_of(attempt).log.denial) is not None:
            return f"its stage and progress are not known: {denial.message} ({denial.remedy})"
        return self._reasons.running(attempt) if closely else ""

    def _since(self, name: str, cursor: Cursor | None) -> tuple[Attempt, Sequence[Event], Cursor]:
        number = self._attempts.existing(name).number if cursor is None else cursor.attempt
        attempt = self._attempts.numbered(name, number)
        offset = 0 if cursor is None else cursor.offset
        said = self._attempts.reading(attempt)
        if self._attempts.is_over(attempt):
            self._api.patiently(lambda: said.log.refresh(attempt))  # the last look has to be complete
        else:
            try:
                said.log.refresh(attempt)
            except ClusterError as error:
                if not error.retryable:
                    raise
                # The cluster does not answer for a while: the next look reads the missing events.
        events = said.log.events[offset:]
        return attempt, events, Cursor(number, offset + len(events))


def _unpickled(kind: type[ArgoBackend], values: Mapping[str, Any]) -> ArgoBackend:
    return kind.of(Settings(**values))


_OF_THIS_PROCESS: WeakSet[ArgoBackend] = WeakSet()


def in_forked_child() -> None:
    """Give each backend connections and watches of its own: a child has the parent's sockets, and no thread of it."""
    _opened.cache_clear()
    forget_watches()
    for backend in list(_OF_THIS_PROCESS):
        if isinstance(backend._api, Api):
            backend._begin(Api(backend._api.namespace, backend._settings.kube_context))


os.register_at_fork(after_in_child=in_forked_child)


@lru_cache(maxsize=8)
def _opened(api: Api, settings: Settings) -> ArgoBackend:
    return ArgoBackend(api, settings)
