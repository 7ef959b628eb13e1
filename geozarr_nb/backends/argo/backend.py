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
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from geozarr_nb.backends.argo.reasons import AGAIN, Reasons, seconds_since
from geozarr_nb.backends.argo.run_log import RunLog, without_log
from geozarr_nb.backends.argo.workflow import (
    ENDED,
    LABELS,
    RELEASED,
    Attempt,
    claim_of,
    input_secret,
    is_signed,
    manifest,
    output_address,
    secret,
    workflow_name,
)
from geozarr_nb.backends.base import Cursor, Failure, JobState, Progress, Status, changes
from geozarr_nb.backends.run_state import RunState, not_understood
from geozarr_nb.claims.address import Address
from geozarr_nb.claims.volume import files_of, mount_of
from geozarr_nb.cluster import diagnostics, manifests
from geozarr_nb.cluster.cause import Cause, make
from geozarr_nb.cluster.client import Api, Object, connect
from geozarr_nb.cluster.images import nodes_with, registry, reports_all_images
from geozarr_nb.cluster.kinds import CLAIMS, NODES, PODS, SECRETS, TEMPLATES, WORKFLOWS, Kind
from geozarr_nb.cluster.watch import Watch
from geozarr_nb.errors import (
    ClusterDenied,
    ClusterError,
    ClusterObjectExists,
    ClusterObjectMissing,
    ClusterRefused,
    InvalidRequest,
    JobNotFound,
    OutputBusy,
    StorageFailed,
)
from geozarr_nb.request import Request, check, check_groups, check_output
from geozarr_nb.settings import Settings
from geozarr_runner.events import LATER, Event
from geozarr_runner.planning.memory import memory_needed
from geozarr_runner.product.model import Product
from geozarr_runner.publishing.archive import CHECKSUM_SUFFIX, SUFFIX
from geozarr_runner.publishing.object_store import read_beside, root_document
from geozarr_runner.publishing.remote_output import LOG, RemoteOutput, is_address
from geozarr_runner.trust.bounds import LARGEST_DOCUMENT

WORKFLOW = "workflows.argoproj.io/workflow"  # the label of a pod that names its Workflow
POLL_INTERVAL = 1.0
LOGS_KEPT = 64
ESTIMATES_KEPT = 1024
SECONDS_A_LOOK_IS_GOOD = 10.0
SECONDS_OF_SILENCE_TOLD = 3.0
# A run that is told to end removes its half-written output first; the template gives it a minute for that.
SECONDS_TO_END = 90.0
SECONDS_FOR_THE_CONTROLLER = 15.0
# Longer than the time for which a submitting process repeats a request that the API server does not answer.
SECONDS_TO_SEND_THE_ADDRESS = 60.0


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
        self._api = api
        self._settings = settings
        self._workflows, self._pods = _watch(api, WORKFLOWS), _watch(api, PODS)
        self._reasons = Reasons(api)
        self._mutex = threading.Lock()
        self._read: dict[str, tuple[str, Attempt]] = {}
        self._said: OrderedDict[str, _Said] = OrderedDict()
        self._ready: dict[str, _Template] = {}
        self._memory: OrderedDict[str, int] = OrderedDict()

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
            _keep(self._memory, request.identity, memory, ESTIMATES_KEPT)
        manifest(request, request.name, 1, self._settings, 0)  # refuses a product that the pods cannot read
        self._check_cluster(claim_of(request, self._settings))
        if is_address(request.output):
            check_groups(request, product)
            return check_output(request, product, _root_in_store(RemoteOutput(request.output)))
        address = Address.parse(request.output)
        mount = mount_of(address, self._settings)
        if mount is not None:
            return check(request, product, path=mount.local(address.path))
        check_groups(request, product)
        try:
            root = self._read_file(f"{request.output}/zarr.json")
        except ClusterError:
            return False  # the output cannot be read from here; the run itself checks it
        return check_output(request, product, root) and (not request.options["archive"] or self._has_archive(address))

    def submit(self, request: Request) -> str:
        """See `Backend.submit`."""
        latest = self._latest().get(request.name)
        if latest is not None and not self._is_over(latest):
            if latest.is_held and is_signed(request):
                # Another process is just submitting this job, or ended in the middle of that.
                self._workflows.put(self._send_address(request, latest.thing))
            return request.name
        self._start(request, request.name, 1 if latest is None else latest.number + 1, latest)
        return request.name

    def get(self, name: str) -> JobState:
        """See `Backend.get`."""
        return self._state(self._existing(name), closely=True)

    def list(self) -> Sequence[JobState]:
        """See `Backend.list`."""
        states = [self._state(attempt, closely=False) for attempt in self._latest().values()]
        return sorted(states, key=lambda state: (state.submitted, state.name))

    def events(self, name: str, cursor: Cursor | None = None) -> tuple[Sequence[Event], Cursor]:
        """See `Backend.events`."""
        attempt, events, cursor = self._since(name, cursor)
        return without_log(events, verbose=bool(attempt.request.options["verbose"])), cursor

    def log(self, name: str, cursor: Cursor | None = None) -> tuple[Sequence[Event], Cursor]:
        """See `Backend.log`."""
        _, events, cursor = self._since(name, cursor)
        return events, cursor

    def cancel(self, *names: str) -> None:
        """See `Backend.cancel`; all jobs are told to end before the first is awaited."""
        attempts = [attempt for attempt in map(self._existing, names) if not self._is_over(attempt)]
        for attempt in attempts:
            self._workflows.put(self._api.patch(WORKFLOWS, attempt.name, ENDED))
        start = time.monotonic()
        for attempt in attempts:
            self._until_ended(attempt, start)

    def retry(self, name: str, request: Request | None = None) -> None:
        """See `Backend.retry`."""
        latest = self._existing(name)
        if self._is_over(latest):
            self._start(request or latest.request, latest.job, latest.number + 1, latest)

    def watch(self, stop: threading.Event) -> Iterator[JobState]:
        """See `Backend.watch`."""
        known: dict[str, JobState] = {}
        count = -1
        while not stop.is_set():
            yield from changes(known, self.list())
            count = self._workflows.wait(count, self.poll_interval)

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
        self._until_gone(workflow_name(job, number))
        template = self._check_cluster(claim_of(request, self._settings))
        memory = self._memory.get(request.identity, int((earlier and earlier.memory_needed) or 0))
        if earlier is not None and earlier.is_held:
            self._end_held(earlier.name)
        workflow = self._create(request, manifest(request, job, number, self._settings, memory), template)
        while self._has_ended(made := Attempt.of(workflow)):
            # Another process made this Workflow and it has ended already: the next number is taken.
            if made.is_held:
                self._end_held(made.name)
            number += 1
            workflow = self._create(request, manifest(request, job, number, self._settings, memory), template)
        self._workflows.put(workflow)

    def _create(self, request: Request, body: Object, template: _Template) -> Object:
        """Create a Workflow, with a Secret if the product's address is signed; return the Workflow of this name."""
        name = str(body["metadata"]["name"])
        given = {entry["name"] for entry in body["spec"]["arguments"]["parameters"]}
        if unknown := sorted(given - template.parameters):
            # Argo ignores a parameter that the template does not have.
            raise self._of_another_version(f"it has no parameter {', '.join(unknown)}")
        if is_signed(request) and not template.takes_address:
            raise self._of_another_version("it would look elsewhere for the signed address")
        try:
            workflow = self._api.create(WORKFLOWS, body)
        except ClusterObjectExists:
            # Another process was faster, or our own first try succeeded although its answer was lost.
            workflow = self._api.get(WORKFLOWS, name)
            found = Attempt.of(workflow)
            waits = is_signed(request) and found.is_held and not self._has_ended(found)
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
            self._workflows.put(self._api.patch(WORKFLOWS, workflow, ENDED))

    def _of_another_version(self, why: str) -> ClusterRefused:
        return ClusterRefused(
            f"the workflow template of the cluster is another version's: {why}",
            given=f"{self._settings.template} in namespace {self._api.namespace}",
            remedy=make("template", NAMESPACE=self._api.namespace),
        )

    def _refuse_second_writer(self, request: Request, job: str) -> None:
        for attempt in self._latest().values():
            if attempt.job == job or attempt.request.output != request.output or self._is_over(attempt):
                continue
            raise OutputBusy(
                f"the job {attempt.job}, which has not finished, writes the same output",
                given=request.output,
                remedy=f'choose another output, or geozarr_nb.get_job("{attempt.job}").cancel()',
            )

    def _until_gone(self, workflow: str) -> None:
        """Wait until the pods of a deleted Workflow are gone; Argo would count them to a new Workflow of this name."""
        deadline = time.monotonic() + SECONDS_TO_END
        while pods := self._left_by(workflow):
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"a job of this name was deleted, and its pod is still there after {SECONDS_TO_END:.0f} s",
                    given=", ".join(pods),
                    remedy=f"kubectl -n {self._api.namespace} delete pod {' '.join(pods)} --force",
                )
            time.sleep(0.2)

    def _left_by(self, workflow: str) -> Sequence[str]:
        """Return the pods that deleted Workflows of this name have left."""
        if self._workflows.get(workflow) is not None:
            return []
        seen = {str(pod["metadata"]["name"]): pod for pods in self._seen().values() for pod in pods}
        return [name for name, pod in seen.items() if pod["metadata"].get("labels", {}).get(WORKFLOW) == workflow]

    def _check_cluster(self, claim: str) -> _Template:
        """Refuse a job that cannot run since the template, the claim or the image is missing."""
        now = time.monotonic()
        known = self._ready.get(claim)
        if known is not None and now < known.until:
            return known
        namespace = self._api.namespace
        template = self._api.find(TEMPLATES, self._settings.template)
        if template is None:
            raise _missing(diagnostics.missing_template(self._settings.template, namespace))
        try:
            if self._api.find(CLAIMS, claim) is None:
                raise _missing(diagnostics.missing_claim(claim, namespace))
            nodes = self._api.list(NODES)[0]
        except ClusterDenied:
            nodes = []  # this person may not see nodes; a missing image is then the job's reason
        defaults = manifests.parameters(template)
        image = self._settings.image or defaults.get("image", "")
        told = nodes and all(map(reports_all_images, nodes)) and not registry(image)
        if image and told and not nodes_with(image, nodes):
            raise _missing(diagnostics.missing_image(image))
        found = _Template(
            until=now + SECONDS_A_LOOK_IS_GOOD,
            parameters=frozenset(defaults),
            takes_address=input_secret("{{workflow.uid}}") in str(template.get("spec")),
        )
        self._ready = {name: each for name, each in self._ready.items() if now < each.until} | {claim: found}
        return found

    # Reading

    def _state(self, attempt: Attempt, *, closely: bool) -> JobState:
        said = self._said_by(attempt)
        pods = attempt.pods
        if closely and not self._has_ended(attempt) and any(pod.has_begun for pod in pods):
            said.follow(attempt)
        result = _result(attempt, said.digest)
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
            stage=said.digest.stage,
            progress=said.digest.progress or _progress(attempt),
            reason=failure.message if failure else self._reason(attempt, status, closely=closely),
            failure=failure,
            result=_told(result, attempt.request) if result else None,
            started=pods[0].started if pods and status != "Pending" else None,
            finished=finished,
            log=f"{attempt.request.output}.log.jsonl" if pods and pods[0].has_begun else "",
        )

    def _status(self, attempt: Attempt) -> tuple[Status, Failure | None]:
        """Return status and failure of an attempt that has no result."""
        if not self._has_ended(attempt):
            return ("Running" if any(pod.has_begun for pod in attempt.pods) else "Pending"), None
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
            return "Failed", failure
        if outcome is not None and outcome.type == LATER:
            return "Error", not_understood()
        if attempt.phase == "Succeeded":
            message = "its run ended without telling what it wrote: the template is not this package's"
            return "Error", Failure("defect", message, remedy="make template")
        return "Error", self._once(attempt, lambda: self._reasons.ended(attempt))

    def _once(self, attempt: Attempt, look: Callable[[], Failure]) -> Failure:
        """Return why an attempt ended; it is looked up once, since the pod may be deleted later."""
        said = self._said_by(attempt)
        if said.silence is None:
            said.silence = look()
        return said.silence

    def _reason(self, attempt: Attempt, status: Status, *, closely: bool) -> str:
        if status not in ("Pending", "Running"):
            return ""
        trouble = self._workflows.trouble
        if trouble is not None and trouble[0] > SECONDS_OF_SILENCE_TOLD:
            return f"the cluster has not answered for {trouble[0]:.0f} s; the job itself goes on ({trouble[1].message})"
        return self._reasons.pending(attempt, closely=closely) if status == "Pending" else ""

    def _has_ended(self, attempt: Attempt) -> bool:
        # A Workflow that was shut down before it began has ended, even if no controller has noted it. So has a Workflow
        # whose submitter did not send the address in time.
        if attempt.is_held:
            return seconds_since(attempt.submitted) > SECONDS_TO_SEND_THE_ADDRESS
        return attempt.has_ended or (attempt.is_shut_down and not attempt.pods)

    def _is_over(self, attempt: Attempt) -> bool:
        """Return whether the attempt's job has finished, even if the controller has not noted it yet."""
        return self._has_ended(attempt) or _result(attempt, self._said_by(attempt).digest) is not None

    def _latest(self) -> Mapping[str, Attempt]:
        """Return the newest attempt of each job."""
        found: dict[str, Attempt] = {}
        seen = self._seen()
        things = self._workflows.objects()
        self._forget_all_but({str(thing["metadata"]["uid"]) for thing in things})
        for thing in things:
            attempt = self._reading(thing, seen.get(thing["metadata"]["uid"], ()))
            if attempt.job not in found or found[attempt.job].number < attempt.number:
                found[attempt.job] = attempt
        return found

    def _forget_all_but(self, there: Set[str]) -> None:
        """Remove deleted Workflows from the caches."""
        with self._mutex:
            for known in (self._read, self._said):
                for uid in known.keys() - there:
                    del known[uid]

    def _seen(self) -> Mapping[str, Sequence[Object]]:
        """Return the existing pods by the uid of their Workflow, the oldest first.

        The uid is used since pods stay a little longer than a deleted Workflow, whose name a new one may have by then.
        """
        try:
            pods = self._pods.objects()
        except ClusterDenied:
            return {}  # the state is then read from the Workflows, a little later
        found: dict[str, list[Object]] = {}
        for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
            for owner in pod["metadata"].get("ownerReferences") or ():
                found.setdefault(owner["uid"], []).append(pod)
        return found

    def _reading(self, thing: Object, seen: Sequence[Object]) -> Attempt:
        """Return the attempt of a Workflow, parsed once for each version of it."""
        uid = str(thing["metadata"]["uid"])
        version = " ".join(str(each["metadata"].get("resourceVersion")) for each in (thing, *seen))
        with self._mutex:
            known = self._read.get(uid)
            if known is None or known[0] != version:
                known = self._read[uid] = (version, Attempt.of(thing, seen))
            return known[1]

    def _existing(self, name: str) -> Attempt:
        known = self._latest()
        if name not in known and (thing := self._api.find(WORKFLOWS, name)) is not None:
            # Another process has just made the Workflow, and the watch has not reported it yet.
            self._workflows.put(thing)
            attempt = self._reading(thing, self._seen().get(thing["metadata"]["uid"], ()))
            known = {**known, attempt.job: attempt}
        if name in known:
            return known[name]
        near = get_close_matches(name, known, n=3, cutoff=0.5)
        raise JobNotFound(
            f"there is no job of this name in namespace {self._api.namespace}",
            given=name,
            remedy=f"{' or '.join(near)} may be meant"
            if near
            else "geozarr_nb.list_jobs() shows all of them; one that ended long ago was removed, and left its output",
        )

    def _attempt(self, name: str, number: int) -> Attempt:
        latest = self._existing(name)
        thing = self._workflows.get(workflow_name(latest.job, number))
        return latest if thing is None else Attempt.of(thing, self._seen().get(thing["metadata"]["uid"], ()))

    def _since(self, name: str, cursor: Cursor | None) -> tuple[Attempt, Sequence[Event], Cursor]:
        number = self._existing(name).number if cursor is None else cursor.attempt
        attempt = self._attempt(name, number)
        offset = 0 if cursor is None else cursor.offset
        said = self._said_by(attempt)
        if self._is_over(attempt):
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

    def _said_by(self, attempt: Attempt) -> _Said:
        with self._mutex:
            said = self._said.get(attempt.uid) or _Said(RunLog(self._api, self._read_log))
            _keep(self._said, attempt.uid, said, LOGS_KEPT)
            return said

    def _has_archive(self, output: Address) -> bool:
        """Return whether an output has an archive that is not older than the output; see `publishing.archive`."""
        files = files_of(output, self._settings)
        try:
            files.entry(f"{output.path}{SUFFIX}{CHECKSUM_SUFFIX}")
            packed, made = (files.entry(f"{output.path}{end}").modified for end in (SUFFIX, "/zarr.json"))
        except (FileNotFoundError, NotADirectoryError, ClusterError):
            return False  # the run then looks again, and makes a missing archive
        return packed >= made

    def _read_file(self, address: str, start: int = 0) -> bytes | None:
        parsed = Address.parse(address)
        try:
            return files_of(parsed, self._settings).read(parsed.path, start)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _read_log(self, address: str) -> bytes | None:
        if not is_address(address):
            # The last run is at the end of the file. Only the end is read, since others can make the file arbitrarily
            # large.
            return self._read_file(address, -LARGEST_DOCUMENT)
        try:
            return read_beside(RemoteOutput(address.removesuffix(LOG)), LOG)
        except StorageFailed:
            return None  # the pod has credentials for the store, but this machine may have none

    # Ending

    def _running_pods(self, workflow: str) -> Sequence[str]:
        pods, _ = self._api.list(PODS, labels=f"{WORKFLOW}={workflow}")
        running = (pod for pod in pods if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"))
        return [str(pod["metadata"]["name"]) for pod in running]

    def _until_ended(self, attempt: Attempt, start: float) -> None:
        """Wait until no pod of an attempt runs and the controller, which could still make one, has noted the end.

        Without a controller the wait for its note is limited.

        Parameters
        ----------
        start
            Time of the monotonic clock at which the attempt was told to end.
        """
        helped = False
        while True:
            pods, waited = self._running_pods(attempt.name), time.monotonic() - start
            thing = self._api.find(WORKFLOWS, attempt.name)
            noted = thing is None or Attempt.of(thing).has_ended
            if not pods and (noted or waited > SECONDS_FOR_THE_CONTROLLER):
                if thing is not None:
                    self._workflows.put(thing)
                return
            if waited > SECONDS_TO_END:
                raise ClusterError(
                    f"{attempt.job} is being ended, and its pod still runs after {SECONDS_TO_END:.0f} s",
                    given=", ".join(pods),
                    remedy=f"kubectl -n {self._api.namespace} delete pod {' '.join(pods)} --force",
                )
            if pods and not helped and waited > SECONDS_FOR_THE_CONTROLLER:
                # The controller is stopped or slow. To delete the pod ends it in the same way.
                for pod in pods:
                    self._api.delete(PODS, pod)
                helped = True
            time.sleep(0.3)


@dataclass(frozen=True, slots=True)
class _Template:
    """The parameters of the cluster's template, and how long this knowledge is used."""

    until: float
    parameters: frozenset[str]
    takes_address: bool


@dataclass
class _Said:
    """Log and state of an attempt's runs; `silence` is the failure of a run that gave no report."""

    log: RunLog
    digest: RunState = field(default_factory=RunState)
    taken: int = 0
    silence: Failure | None = None

    def follow(self, attempt: Attempt) -> None:
        """Read the new events of the attempt's runs."""
        try:
            self.log.refresh(attempt)
        except ClusterError:
            return  # the next look may succeed, and the status of the Workflow is known without the log
        events = self.log.events
        self.digest.feed(events[self.taken :])
        self.taken = len(events)


def _keep[T](known: OrderedDict[str, T], key: str, value: T, most: int) -> None:
    """Store a value as the newest one, and drop the oldest ones beyond a number."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > most:
        known.popitem(last=False)


@lru_cache(maxsize=8)
def _opened(api: Api, settings: Settings) -> ArgoBackend:
    return ArgoBackend(api, settings)


@lru_cache(maxsize=16)
def _watch(api: Api, kind: Kind) -> Watch:
    """Return the watch over a namespace's jobs, which backends with different settings share."""
    return Watch(api, kind, LABELS)


def _result(attempt: Attempt, digest: RunState) -> Event | None:
    """Return the `result` event of an attempt's last run, from its log or from the status of the Workflow.

    A run reports its result once the output has its name. If the run was told to end at that moment, the pod counts as
    failed, but the result is valid.
    """
    pod = attempt.pods[-1] if attempt.pods else None
    if pod is None or not pod.has_ended:
        return None
    outcome = digest.result_event or pod.outcome
    return outcome if outcome is not None and outcome.type == "result" else None


def _told(result: Event, request: Request) -> dict[str, Any]:
    """Return the fields of a result, with addresses in place of the paths in the pod."""
    told = {**result.fields, "path": request.output}
    if archive := told.get("archive"):
        told["archive"] = {**archive, "path": f"{request.output}{SUFFIX}"}
    return told


def _progress(attempt: Attempt) -> Progress | None:
    """Return the progress that the pod reported to Argo, which has no unit."""
    measured = attempt.pods[-1].progress if attempt.pods else None
    return None if measured is None else Progress(*measured, "parts")


def _root_in_store(output: RemoteOutput) -> bytes | None:
    try:
        return root_document(output)
    except StorageFailed:
        return None  # the output cannot be read from here; the run itself checks it


def _missing(cause: Cause) -> ClusterObjectMissing:
    return ClusterObjectMissing(cause.message, remedy=cause.remedy)
