"""Jobs on a Kubernetes cluster with Argo Workflows.

A job is one Workflow an attempt, made from the WorkflowTemplate `geozarr-convert`. All jobs are known through one watch
over Workflows and one over their pods, which know sooner how they are than the controller. What a run says of itself is
read from its pod's log, and from the file beside the output once the pod is gone. Nothing is remembered here that the
cluster does not know too: any other process sees the same jobs.
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
from geozarr_runner.publishing.object_store import LOG, RemoteOutput, is_address, read_beside, root_document
from geozarr_runner.trust.bounds import LARGEST_DOCUMENT

WORKFLOW = "workflows.argoproj.io/workflow"  # the label of a pod that names its Workflow
POLL_INTERVAL = 1.0
LOGS_KEPT = 64
ESTIMATES_KEPT = 1024
SECONDS_A_LOOK_IS_GOOD = 10.0
SECONDS_OF_SILENCE_TOLD = 3.0
# The runner removes what is half-written when it is asked to end; the template gives it a minute.
SECONDS_TO_END = 90.0
SECONDS_FOR_THE_CONTROLLER = 15.0
# Longer than whoever submits asks again for while the API server is away.
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

    # The contract; what each call does is said in base.Backend.

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
        manifest(request, request.name, 1, self._settings, 0)  # refuses what the pods could not read
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
            return False  # it cannot be looked at from here; the run itself will
        return check_output(request, product, root) and (not request.options["archive"] or self._has_archive(address))

    def submit(self, request: Request) -> str:
        """See `Backend.submit`."""
        latest = self._latest().get(request.name)
        if latest is not None and not self._is_over(latest):
            if latest.is_held and is_signed(request):
                # Another process makes it at this moment, or was ended in the middle of that.
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
        """See `Backend.cancel`; all are told to end before the first is waited for."""
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
        """Create the Workflow of an attempt; joins the one that another process created at the same moment."""
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
            # That was another process's, and is over already: it was not what is asked for now.
            if made.is_held:
                self._end_held(made.name)
            number += 1
            workflow = self._create(request, manifest(request, job, number, self._settings, memory), template)
        self._workflows.put(workflow)

    def _create(self, request: Request, body: Object, template: _Template) -> Object:
        """Create a Workflow, with a Secret where the input's address is signed; returns the one of this name."""
        name = str(body["metadata"]["name"])
        given = {entry["name"] for entry in body["spec"]["arguments"]["parameters"]}
        if unknown := sorted(given - template.parameters):
            # Argo passes over a parameter that a template does not have.
            raise self._of_another_version(f"it has no parameter {', '.join(unknown)}")
        if is_signed(request) and not template.takes_address:
            raise self._of_another_version("it would look elsewhere for the signed address")
        try:
            workflow = self._api.create(WORKFLOWS, body)
        except ClusterObjectExists:
            # Another process was faster, or our own first try arrived though its answer did not.
            workflow = self._api.get(WORKFLOWS, name)
            found = Attempt.of(workflow)
            waits = is_signed(request) and found.is_held and not self._has_ended(found)
            return self._send_address(request, workflow) if waits else workflow
        if not is_signed(request):
            return workflow
        try:
            return self._send_address(request, workflow)
        except BaseException:
            with suppress(ClusterError):  # it starts nothing, and says why, for as long as it is there
                self._api.delete(WORKFLOWS, name)
            raise

    def _send_address(self, request: Request, workflow: Object) -> Object:
        """Put a signed address where the Workflow's pods look for it, and have it begin; returns it as it is then."""
        with suppress(ClusterObjectExists):
            # It was made by our own first try, or by another process with the same request.
            self._api.create(SECRETS, secret(request, workflow))
        return self._api.patch(WORKFLOWS, str(workflow["metadata"]["name"]), RELEASED)

    def _end_held(self, workflow: str) -> None:
        """End a Workflow that waits for an address that nobody will send any more."""
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
        """Wait for the pods of a deleted Workflow: Argo would take them for those of a new one of this name."""
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
        """Return the pods of this name's Workflows that are gone."""
        if self._workflows.get(workflow) is not None:
            return []
        seen = {str(pod["metadata"]["name"]): pod for pods in self._seen().values() for pod in pods}
        return [name for name, pod in seen.items() if pod["metadata"].get("labels", {}).get(WORKFLOW) == workflow]

    def _check_cluster(self, claim: str) -> _Template:
        """Refuse what could never run: the template, the claim or the image is missing."""
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
            nodes = []  # not everyone may see them: the job's reason will tell
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
        """Return how far an attempt is that has no result."""
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
        """Return why an attempt ended; found out once, as its pod does not stay for ever."""
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
        # What never began and is shut down never will, whether or not a controller says so; nor what was left behind.
        if attempt.is_held:
            return seconds_since(attempt.submitted) > SECONDS_TO_SEND_THE_ADDRESS
        return attempt.has_ended or (attempt.is_shut_down and not attempt.pods)

    def _is_over(self, attempt: Attempt) -> bool:
        """Return whether its job has finished, even where the controller has yet to take note."""
        return self._has_ended(attempt) or _result(attempt, self._said_by(attempt).digest) is not None

    def _latest(self) -> Mapping[str, Attempt]:
        """Return the newest attempt at each job."""
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
        """Let go of what was read of Workflows that were deleted."""
        with self._mutex:
            for known in (self._read, self._said):
                for uid in known.keys() - there:
                    del known[uid]

    def _seen(self) -> Mapping[str, Sequence[Object]]:
        """Return the pods that are there, the oldest first, by the uid of their Workflow.

        Pods of a Workflow that was deleted stay a little longer, and another one may have its name by then.
        """
        try:
            pods = self._pods.objects()
        except ClusterDenied:
            return {}  # then it is known a little later, from the Workflows
        found: dict[str, list[Object]] = {}
        for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
            for owner in pod["metadata"].get("ownerReferences") or ():
                found.setdefault(owner["uid"], []).append(pod)
        return found

    def _reading(self, thing: Object, seen: Sequence[Object]) -> Attempt:
        """Return a Workflow as an attempt, read once for each version of it."""
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
            # Another process has made it a moment ago, and the watch has yet to tell.
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
            self._api.patiently(lambda: said.log.refresh(attempt))  # nobody asks again: this is all of it
        else:
            try:
                said.log.refresh(attempt)
            except ClusterError as error:
                if not error.retryable:
                    raise
                # The cluster is silent for a while: the next look tells what was said meanwhile.
        events = said.log.events[offset:]
        return attempt, events, Cursor(number, offset + len(events))

    def _said_by(self, attempt: Attempt) -> _Said:
        with self._mutex:
            said = self._said.get(attempt.uid) or _Said(RunLog(self._api, self._read_log))
            _keep(self._said, attempt.uid, said, LOGS_KEPT)
            return said

    def _has_archive(self, output: Address) -> bool:
        """Return whether an output has an archive that is not older than itself; see `publishing.archive`."""
        files = files_of(output, self._settings)
        try:
            files.entry(f"{output.path}{SUFFIX}{CHECKSUM_SUFFIX}")
            packed, made = (files.entry(f"{output.path}{end}").modified for end in (SUFFIX, "/zarr.json"))
        except (FileNotFoundError, NotADirectoryError, ClusterError):
            return False  # then the run looks again, and makes it if it is not there
        return packed >= made

    def _read_file(self, address: str, start: int = 0) -> bytes | None:
        parsed = Address.parse(address)
        try:
            return files_of(parsed, self._settings).read(parsed.path, start)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _read_log(self, address: str) -> bytes | None:
        if not is_address(address):
            # The end of it has the last run; whoever writes to the claim may have made a file of any size of it.
            return self._read_file(address, -LARGEST_DOCUMENT)
        try:
            return read_beside(RemoteOutput(address.removesuffix(LOG)), LOG)
        except StorageFailed:
            return None  # the job's pod has credentials for it, and this machine may have none

    # Ending

    def _running_pods(self, workflow: str) -> Sequence[str]:
        pods, _ = self._api.list(PODS, labels=f"{WORKFLOW}={workflow}")
        running = (pod for pod in pods if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"))
        return [str(pod["metadata"]["name"]) for pod in running]

    def _until_ended(self, attempt: Attempt, start: float) -> None:
        """Wait until no pod of it runs and the controller has taken note, which may be about to make one.

        Without a controller what never began has ended all the same.

        Parameters
        ----------
        start
            When it was told to end, by the monotonic clock.
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
                # The controller is away, or slow: a pod that is deleted is asked to end in the same way.
                for pod in pods:
                    self._api.delete(PODS, pod)
                helped = True
            time.sleep(0.3)


@dataclass(frozen=True, slots=True)
class _Template:
    """What the cluster's template takes, and until when that is believed."""

    until: float
    parameters: frozenset[str]
    takes_address: bool


@dataclass
class _Said:
    """What is known of an attempt beyond its Workflow."""

    log: RunLog
    digest: RunState = field(default_factory=RunState)
    taken: int = 0
    silence: Failure | None = None

    def follow(self, attempt: Attempt) -> None:
        """Take in what its runs have said since."""
        try:
            self.log.refresh(attempt)
        except ClusterError:
            return  # the next look may find it; the workflow's own status is known all the same
        events = self.log.events
        self.digest.feed(events[self.taken :])
        self.taken = len(events)


def _keep[T](known: OrderedDict[str, T], key: str, value: T, most: int) -> None:
    """Keep a value as the newest one, and no more of them than that."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > most:
        known.popitem(last=False)


@lru_cache(maxsize=8)
def _opened(api: Api, settings: Settings) -> ArgoBackend:
    return ArgoBackend(api, settings)


@lru_cache(maxsize=16)
def _watch(api: Api, kind: Kind) -> Watch:
    """Return the watch over a namespace's jobs: one, however many backends with other settings there are."""
    return Watch(api, kind, LABELS)


def _result(attempt: Attempt, digest: RunState) -> Event | None:
    """Return what an attempt's last run made: from its own words, or the Workflow's once the controller has looked.

    A run says so when its output has its name. If it was asked to end at that moment its pod counts as failed all the
    same: then it was faster.
    """
    pod = attempt.pods[-1] if attempt.pods else None
    if pod is None or not pod.has_ended:
        return None
    outcome = digest.result_event or pod.outcome
    return outcome if outcome is not None and outcome.type == "result" else None


def _told(result: Event, request: Request) -> dict[str, Any]:
    """Return what a run said of its result, with addresses in place of the paths in its pod."""
    told = {**result.fields, "path": request.output}
    if archive := told.get("archive"):
        told["archive"] = {**archive, "path": f"{request.output}{SUFFIX}"}
    return told


def _progress(attempt: Attempt) -> Progress | None:
    """Return what Argo has been told of the progress; it does not know of what."""
    measured = attempt.pods[-1].progress if attempt.pods else None
    return None if measured is None else Progress(*measured, "parts")


def _root_in_store(output: RemoteOutput) -> bytes | None:
    try:
        return root_document(output)
    except StorageFailed:
        return None  # it cannot be looked at from here; the run itself will


def _missing(cause: Cause) -> ClusterObjectMissing:
    return ClusterObjectMissing(cause.message, remedy=cause.remedy)
