"""Checks of a cluster with Argo Workflows, each with what to do about it.

They are made side by side, and each is a finding whatever happens: one that the caller has no right to make says which
right that takes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

from geozarr_nb.backends import open_backend
from geozarr_nb.cluster import diagnostics, manifests
from geozarr_nb.cluster.cause import Cause, make
from geozarr_nb.cluster.client import Api, Object, connect
from geozarr_nb.cluster.controllers import CONTROLLER, Controller, controllers, unwatched, watches
from geozarr_nb.cluster.images import nodes_with, registry, reports_all_images
from geozarr_nb.cluster.kinds import (
    ACCESS_REVIEWS,
    CLAIMS,
    DEPLOYMENTS,
    EVENTS,
    NAMESPACES,
    NODES,
    OWN_REVIEWS,
    OWN_RULES_REVIEWS,
    PODS,
    STORAGE_CLASSES,
    TEMPLATES,
    WORKFLOWS,
    Kind,
)
from geozarr_nb.cluster.objects import name_of
from geozarr_nb.cluster.refusals import LoggedOut
from geozarr_nb.doctor.findings import Finding, Verdict
from geozarr_nb.doctor.rights import NEEDED, OPTIONAL, SUBMITTER, Right, grants
from geozarr_nb.errors import ClusterDenied, ClusterError, GeozarrError
from geozarr_runner.text.shell import word
from geozarr_runner.trust.addresses import redact

if TYPE_CHECKING:
    import pystac

    from geozarr_nb.settings import Settings
    from geozarr_runner.product.model import Product, Source

ARGO_TESTED = "v3.6"
DEFINITIONS = ("workflows", "workflowtemplates", "workflowtaskresults")
RESULTS = Kind(WORKFLOWS.root, "workflowtaskresults")
SERVICE_ACCOUNT = "default"
ASKING = 8  # calls at once


def check_addresses(
    settings: Settings, source: Source | Product | pystac.Item | None, output: str | os.PathLike[str] | None
) -> Iterator[Finding]:
    """Check that a cluster's pods can read a product and write an output that are named here."""
    why = "a job runs in a pod, which sees the web, object stores and its claim"
    if isinstance(source, str | os.PathLike) and "://" not in os.fspath(source):
        remedy = f"give its address, or copy it to the claim: pvc://{settings.pvc_name}/..."
        yield Finding("product's place", "problem", f"{os.fspath(source)} is on this machine", why, remedy)
    if output is not None:
        try:
            found = open_backend("argo", settings).locate(output)
        except GeozarrError as error:
            found = f"{error.message}: {redact(os.fspath(output))}"
            yield Finding("output", "problem", found, why, error.remedy)
        else:
            yield Finding("output", "ok", found, why)


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Something that may keep a job from running, or keeps the check from being made."""

    message: str
    remedy: str


# What a check finds: what there is, where all is well; else why not.
Result = str | Cause | _Doubt


def check_cluster(settings: Settings) -> list[Finding]:
    """Check the cluster that settings name; nothing of it is changed."""
    why = "jobs are submitted to it"
    try:
        api = connect(settings)
        version = api.version()
    except GeozarrError as error:
        given = f" ({error.given})" if error.given else ""
        return [Finding("cluster", "problem", f"{error.message}{given}", why, error.remedy)]
    found = f"context {api.context}, {api.server}, Kubernetes {version}"
    findings = [Finding("cluster", "ok", found, why), *_Checks(api, settings).findings()]
    if not settings.kube_context:
        return findings
    chosen = f"kubectl --context {word(settings.kube_context)} "
    return [replace(each, remedy=each.remedy.replace("kubectl ", chosen)) for each in findings]


class _Checks:
    """All checks of a cluster that answers; what several of them look at is asked for once."""

    def __init__(self, api: Api, settings: Settings) -> None:
        self._api = api
        self._settings = settings
        self._namespace = api.namespace
        self._asking = Lock()

    def findings(self) -> list[Finding]:
        """Make all checks; they come in the order in which one depends on another."""
        checks: Mapping[str, tuple[str, Callable[[], Result]]] = {
            "namespace": ("jobs, their template and their claim are in it", self._check_namespace),
            "Argo": ("jobs are its Workflows", self._check_argo),
            "controller": ("it starts what is submitted; without it a job waits for ever", self._check_controller),
            "nodes": ("pods run there, and none is started on a full disk", self._check_nodes),
            "template": ("every job is made from it", self._check_template),
            "claim": ("outputs are written to its volume", self._check_claim),
            "image": ("the runner is in it", self._check_image),
            "executor": ("a job's pod tells Argo by itself what came out", self._check_executor),
        }
        with ThreadPoolExecutor(ASKING) as threads:
            found = [(name, why, threads.submit(_result, check)) for name, (why, check) in checks.items()]
            return [_finding(name, why, result.result()) for name, why, result in found] + self._check_rights(threads)

    def _check_namespace(self) -> Result:
        try:
            there = self._api.find(NAMESPACES, self._namespace) is not None
        except LoggedOut:
            raise
        except ClusterDenied:
            there = True  # few may look at namespaces, and in one that is not there is no template either
        if there:
            return self._namespace
        return diagnostics.missing_namespace(self._namespace)

    def _check_argo(self) -> Result:
        there = self._api.resources(WORKFLOWS.root)
        lacking = [name for name in DEFINITIONS if name not in there]
        if not there:
            return Cause("argo-missing", "Argo Workflows is not on this cluster", make("argo-install"))
        if lacking:
            return Cause("argo-incomplete", f"its definitions lack {', '.join(lacking)}", make("argo-install"))
        return f"definitions of {WORKFLOWS.api_version}"

    def _check_controller(self) -> Result:
        try:
            found = controllers(self._api.list(DEPLOYMENTS, everywhere=True)[0])
        except ClusterDenied as error:
            # Whoever sees only this namespace can still see a controller that is in it.
            found = controllers(self._api.list(DEPLOYMENTS)[0])
            if unwatched(found, self._namespace) is not None:
                raise self._beyond_the_namespace(error) from error
        cause = unwatched(found, self._namespace)
        ours = [each for each in found if watches(each, self._namespace)]
        if cause is not None:
            return self._why_not_ready(ours[0], cause) if cause.code == "controller-not-ready" else cause
        ready = [each for each in ours if each.wanted and each.ready]
        shown = ", ".join(f"{each.shown} {each.version}".rstrip() for each in ready)
        if len(ready) > 1:
            return _Doubt(
                f"{len(ready)} controllers watch {self._namespace}: {shown}; each job may be run more than once",
                f"keep one: kubectl -n {ready[-1].namespace} scale deployment/{ready[-1].name} --replicas=0",
            )
        release = re.match(r"v\d+\.\d+", ready[0].version)
        if release and release[0] != ARGO_TESTED:
            return _Doubt(f"{shown}; tested is {ARGO_TESTED}", make("argo-install"))
        return shown

    def _why_not_ready(self, controller: Controller, cause: Cause) -> Cause:
        """Return what keeps a controller's own pod from running, where that can be seen."""
        try:
            pods, _ = self._api.list(PODS, labels=f"app={CONTROLLER}", namespace=controller.namespace)
        except ClusterDenied:
            return cause
        nodes = _visible(lambda: self._nodes)
        reasons = filter(None, (diagnostics.waiting_reason(pod, (), nodes) for pod in pods))
        reason = next(reasons, None)
        if reason is None:
            return cause
        return replace(cause, message=f"{cause.message}: {reason.message}", remedy=reason.remedy)

    def _beyond_the_namespace(self, error: ClusterDenied) -> ClusterDenied:
        """Return a refusal whose remedy gives a right to see what belongs to the whole cluster."""
        if isinstance(error, LoggedOut):
            return error
        change = f"sed 's/namespace: argo$/namespace: {self._namespace}/' workflows/nodes.yaml | kubectl apply -f -"
        apply = "kubectl apply -f workflows/nodes.yaml" if self._namespace == "argo" else change
        return ClusterDenied(error.message, given=error.given, remedy=f"have whoever runs the cluster type: {apply}")

    def _check_nodes(self) -> Result:
        nodes = self._nodes
        full, silent = diagnostics.disk_pressure(nodes), diagnostics.not_ready(nodes)
        usable = [node for node in nodes if name_of(node) not in {*full, *silent}]
        found: list[Cause] = []
        if silent:
            said = "; ".join(f"node {name} is not ready: {message}" for name, message in silent.items())
            found.append(Cause("node-not-ready", said, "kubectl describe nodes"))
        if full:
            found.append(diagnostics.full_disk(full, self._namespace))
        if not nodes:
            found.append(Cause("node-missing", "the cluster has no node", "add one"))
        if not found:
            return f"{len(nodes)} ready, none with a full disk"
        message = "; ".join(each.message for each in found)
        remedy = found[-1].remedy
        return _Doubt(message, remedy) if usable else Cause(found[-1].code, message, remedy)

    def _check_template(self) -> Result:
        name, namespace = self._settings.template, self._namespace
        if self._template is None:
            return diagnostics.missing_template(name, namespace)
        ours = manifests.template()
        remedy = diagnostics.to_renew(self._template, namespace)
        lacking = sorted(manifests.parameters(ours).keys() - manifests.parameters(self._template).keys())
        if lacking:
            message = f"{name} does not know {', '.join(lacking)}: what is given for it would be ignored"
            return Cause("template-old", message, remedy)
        if differences := manifests.differences(ours, self._template):
            shown = ", ".join(differences[:3]) + (f" and {len(differences) - 3} more" if len(differences) > 3 else "")
            return _Doubt(f"{name} is not this version's: it differs in {shown}", remedy)
        owner = manifests.release(self._template)
        return f"{name}, as this version has it{f', with the values of Helm release {owner}' if owner else ''}"

    def _check_claim(self) -> Result:
        name = self._settings.pvc_name
        claim = self._api.find(CLAIMS, name)
        if claim is None:
            return diagnostics.missing_claim(name, self._namespace)
        if claim.get("status", {}).get("phase") == "Bound" and not claim["metadata"].get("deletionTimestamp"):
            size = claim["status"].get("capacity", {}).get("storage", "")
            return f"{name}, {size} of volume {claim['spec'].get('volumeName', '')}"
        events = _visible(lambda: self._api.list(EVENTS, fields=f"involvedObject.name={name}")[0])
        events = sorted(events, key=lambda event: str(event.get("lastTimestamp") or ""))
        kind = claim.get("spec", {}).get("storageClassName")
        classes = _visible(lambda: [self._api.get(STORAGE_CLASSES, kind)]) if kind else ()
        return (
            diagnostics.unbound(claim, events, next(iter(classes), None)) or f"{name}, which gets its volume with a job"
        )

    def _check_image(self) -> Result:
        image = self._settings.image or manifests.parameters(self._template or manifests.template()).get("image", "")
        nodes = self._nodes
        there = nodes_with(image, nodes)
        without = [name_of(node) for node in nodes if name_of(node) not in there]
        host = registry(image)
        if not without:
            return f"{image}, on every node"
        if host:
            return f"{image}, which a node without it pulls from {host}"
        if not all(map(reports_all_images, nodes)):
            return _Doubt(f"{image} is not among the images that {', '.join(without)} reports, not all", "try a job")
        if there:
            cause = diagnostics.missing_image(image, ", ".join(without))
            return _Doubt(cause.message, cause.remedy)
        return diagnostics.missing_image(image)

    def _check_executor(self) -> Result:
        spec = (self._template or manifests.template()).get("spec", {})
        own = (spec.get("executor") or {}).get("serviceAccountName")
        account = str(own or spec.get("serviceAccountName") or SERVICE_ACCOUNT)
        verbs = ("create", "patch")
        lacking = [verb for verb in verbs if not self._may_account(account, verb)]
        if lacking:
            return Cause(
                "executor-denied",
                f"service account {account} may not {' or '.join(lacking)} {RESULTS.plural}",
                make("template", NAMESPACE=self._namespace),
            )
        return f"service account {account} may {' and '.join(verbs)} {RESULTS.plural}"

    def _may_account(self, account: str, verb: str) -> bool:
        where = self._namespace
        body = {
            "apiVersion": ACCESS_REVIEWS.api_version,
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{where}:{account}",
                "groups": ["system:serviceaccounts", f"system:serviceaccounts:{where}", "system:authenticated"],
                "resourceAttributes": {
                    "namespace": where,
                    "verb": verb,
                    "group": "argoproj.io",
                    "resource": RESULTS.plural,
                },
            },
        }
        return bool(self._api.create(ACCESS_REVIEWS, body).get("status", {}).get("allowed"))

    # The caller's own rights

    def _check_rights(self, threads: ThreadPoolExecutor) -> list[Finding]:
        needed = [right for _, rights in NEEDED.values() for right in rights]
        try:
            rules = self._own_rules()
            unproven = [right for right in needed if not any(grants(rule, right) for rule in rules)]
            # The list of rules leaves out what other authorisers than roles allow.
            answers = threads.map(self._may, unproven)
            lacking = {right for right, allowed in zip(unproven, answers, strict=True) if not allowed}
            remedy = self._role() if lacking else ""
        except ClusterError as error:
            why = "submitting, watching and opening take rights"
            return [_finding("your rights", why, _unchecked(error))]
        findings = []
        for name, (why, rights) in NEEDED.items():
            wanting = [f"{right.verb} {right.resource}" for right in rights if right in lacking]
            verdict: Verdict = "ok" if not wanting else "warning" if name in OPTIONAL else "problem"
            found = f"you may not {', '.join(wanting)}" if wanting else "given"
            findings.append(Finding(name, verdict, found, why, remedy if wanting else ""))
        return findings

    def _own_rules(self) -> Sequence[Object]:
        body = {
            "apiVersion": OWN_RULES_REVIEWS.api_version,
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": self._namespace},
        }
        return self._api.create(OWN_RULES_REVIEWS, body).get("status", {}).get("resourceRules") or ()

    def _may(self, right: Right) -> bool:
        return self._api.is_allowed(right.verb, right.kind, subresource=right.subresource)

    def _role(self) -> str:
        """Return the command that gives the caller the role for submitting."""
        body = {"apiVersion": OWN_REVIEWS.api_version, "kind": "SelfSubjectReview"}
        user = str(self._api.create(OWN_REVIEWS, body).get("status", {}).get("userInfo", {}).get("username", ""))
        account = user.removeprefix("system:serviceaccount:")
        subject = f"--user={user}" if account == user else f"--serviceaccount={account}"
        name = re.sub(r"[^a-z0-9.-]+", "-", f"{SUBMITTER}-{account}".lower()).strip("-.")
        return (
            f"have whoever runs the cluster type: {make('template', NAMESPACE=self._namespace)} && "
            f"kubectl -n {self._namespace} create rolebinding {name} --role={SUBMITTER} {subject}"
        )

    # What several checks look at

    @property
    def _nodes(self) -> Sequence[Object]:
        try:
            with self._asking:
                return self._all_nodes
        except ClusterDenied as error:
            raise self._beyond_the_namespace(error) from error

    @property
    def _template(self) -> Object | None:
        with self._asking:
            return self._live_template

    @cached_property
    def _all_nodes(self) -> Sequence[Object]:
        return self._api.list(NODES)[0]

    @cached_property
    def _live_template(self) -> Object | None:
        return self._api.find(TEMPLATES, self._settings.template)


def _result(check: Callable[[], Result]) -> Result:
    try:
        return check()
    except ClusterError as error:
        return _unchecked(error)


def _unchecked(error: ClusterError) -> Result:
    """Return what a check found that could not be made."""
    if isinstance(error, ClusterDenied) and not isinstance(error, LoggedOut):
        return _Doubt(f"not checked: {error.message}", error.remedy)
    return Cause(error.code, f"not checked: {error.message}", error.remedy or "try again")


def _finding(name: str, why: str, result: Result) -> Finding:
    if isinstance(result, str):
        return Finding(name, "ok", result, why)
    verdict: Verdict = "problem" if isinstance(result, Cause) else "warning"
    return Finding(name, verdict, result.message, why, result.remedy)


def _visible(look: Callable[[], Sequence[Object]]) -> Sequence[Object]:
    """Return what can be seen; nothing where the caller may not, or it is not there."""
    try:
        return look()
    except ClusterError:
        return ()
