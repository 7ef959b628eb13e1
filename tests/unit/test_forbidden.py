"""A 403 is a missing right, a limit, a policy, a namespace that goes, or nobody: each has its own words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geozarr_nb.backends.argo.attempt import Attempt
from geozarr_nb.backends.argo.readiness import Readiness
from geozarr_nb.backends.argo.reasons import Reasons
from geozarr_nb.cluster import client as seam
from geozarr_nb.cluster import diagnostics
from geozarr_nb.cluster.client import Api
from geozarr_nb.cluster.forbidden import forbidden
from geozarr_nb.cluster.kinds import CLAIMS, WORKFLOWS
from geozarr_nb.errors import ClusterDenied, ClusterObjectMissing, ClusterRefused
from geozarr_nb.settings import Settings
from tests.unit.api_server import ApiServer, refuses
from tests.unit.memory_cluster import MemoryCluster
from tests.unit.test_diagnostics import claim, unscheduled

QUOTA = (
    'pods "a" is forbidden: exceeded quota: team, requested: limits.memory=4Gi,pods=1, '
    "used: limits.memory=14Gi,pods=3, limited: limits.memory=16Gi,pods=10"
)
NEVER = (
    'pods "a" is forbidden: exceeded quota: team, requested: requests.memory=8Gi, '
    "used: requests.memory=0, limited: requests.memory=4Gi"
)
COUNT = (
    'workflows.argoproj.io "a" is forbidden: exceeded quota: counts, requested: count/workflows.argoproj.io=1, '
    "used: count/workflows.argoproj.io=10, limited: count/workflows.argoproj.io=10"
)
ENDING = (
    'workflows.argoproj.io "a" is forbidden: unable to create new content in namespace team because it is being '
    "terminated"
)
# As API servers and admission plugins say it: code, whether waiting does not help, words, remedy.
SAID = {
    QUOTA: ("quota", False, "quota team of namespace team is used up", "wait until another job has ended"),
    COUNT: ("quota", False, "quota counts", "wait until another job has ended"),
    NEVER: ("quota", True, "more than quota team of namespace team has altogether", "GEOZARR_MEMORY"),
    'pods "a" is forbidden: failed quota: team: must specify limits.cpu for: wait': (
        "quota",
        True,
        "wants limits",
        "LimitRange",
    ),
    'pods "a" is forbidden: status unknown for quota: team, resources: limits.cpu': ("quota", False, "team", "wait"),
    'pods "a" is forbidden: maximum memory usage per Container is 1Gi, but limit is 4Gi': (
        "limit-range",
        True,
        "at most 1Gi of memory per Container, and this asks for 4Gi",
        "GEOZARR_MEMORY=1Gi",
    ),
    'pods "a" is forbidden: [maximum cpu usage per Pod is 2, but limit is 4, maximum memory usage per Pod is 1Gi, but '
    "limit is 4294967296]": ("limit-range", True, "at most 2 of cpu per Pod", "GEOZARR_CPU=..."),
    'pods "a" is forbidden: minimum cpu usage per Container is 500m, but request is 100m': (
        "limit-range",
        True,
        "at least 500m of cpu",
        "GEOZARR_CPU=500m",
    ),
    'pods "a" is forbidden: maximum memory usage per Container is 2Gi, but no limit is specified': (
        "limit-range",
        True,
        "names none",
        "GEOZARR_MEMORY=2Gi",
    ),
    'persistentvolumeclaims "c" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, but request is '
    "5Gi": ("limit-range", True, "of storage", "describe limitrange"),
    'pods "a" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000': (
        "limit-range",
        True,
        "ratio",
        "describe limitrange",
    ),
    ENDING: ("namespace-ending", True, "namespace team is being deleted", "GEOZARR_NAMESPACE"),
    'pods "a" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false': (
        "policy",
        True,
        "restricted:latest",
        "no role",
    ),
    'admission webhook "validate.kyverno.svc-fail" denied the request: images have to come from registry.example': (
        "policy",
        True,
        "registry.example",
        "no role",
    ),
    'workflows "a" is forbidden: ValidatingAdmissionPolicy "p" with binding "b" denied request: no': (
        "policy",
        True,
        "binding",
        "no role",
    ),
    'pods "a" is forbidden: unable to validate against any security context constraint: []': (
        "policy",
        True,
        "constraint",
        "no role",
    ),
}
ROLE = 'workflows.argoproj.io is forbidden: User "ada" cannot create resource "workflows" in API group "argoproj.io"'


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Api, ApiServer]]:
    monkeypatch.setattr(seam, "PATIENCE", 60.0)
    with ApiServer().running() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        yield Api("team"), server


@pytest.mark.parametrize(
    ("message", "told"), SAID.items(), ids=[f"{n}-{told[0]}" for n, told in enumerate(SAID.values())]
)
def test_a_refusal_that_is_no_matter_of_rights(
    api: tuple[Api, ApiServer], message: str, told: tuple[str, bool, str, str]
) -> None:
    code, lasting, words, remedy = told
    cause = forbidden(message, "team")
    assert cause is not None
    assert (cause.code, cause.lasting) == (code, lasting)
    api[1].on("POST", refuses(403, message, "Forbidden"))
    with pytest.raises(ClusterRefused) as caught:
        api[0].create(WORKFLOWS, {})
    assert words in caught.value.message
    assert remedy in caught.value.remedy
    assert "rbac.yaml" not in caught.value.remedy
    assert caught.value.retryable is not lasting
    assert len(api[1].asked) == 1, "it is told at once"


def test_a_right_that_is_missing_is_told_as_before(api: tuple[Api, ApiServer]) -> None:
    assert forbidden(ROLE, "team") is None
    api[1].on("POST", refuses(403, ROLE, "Forbidden"))
    with pytest.raises(ClusterDenied, match="you may not create workflows") as caught:
        api[0].create(WORKFLOWS, {})
    assert "rbac.yaml" in caught.value.remedy


@given(
    st.lists(
        st.sampled_from([*SAID, ROLE, "exceeded quota: ", "maximum memory usage per ", "=", "1Gi", ", "]), max_size=4
    )
)
def test_any_message_has_a_meaning_or_none(parts: list[str]) -> None:
    cause = forbidden(" ".join(parts), "team")
    assert cause is None or (cause.message and cause.remedy and len(cause.message) < 600)


@pytest.mark.parametrize(
    ("message", "words"), [(QUOTA, "quota team"), (next(m for m in SAID if "maximum memory" in m), "LimitRange")]
)
def test_a_job_whose_pod_is_refused_says_why(message: str, words: str) -> None:
    node = {"type": "Pod", "id": "a-1", "name": "a.main", "templateName": "convert", "message": message}
    thing = {"metadata": {"name": "a", "uid": "u"}, "spec": {}}
    freed: list[str] = []
    reasons = Reasons(MemoryCluster(), lambda: freed.append(message))  # type: ignore[arg-type]
    waits = Attempt({**thing, "status": {"phase": "Running", "nodes": {"n": {**node, "phase": "Pending"}}}})
    assert words in reasons.pending(waits)
    assert freed == ([message] if words == "quota team" else [])
    for status in ({"nodes": {"n": {**node, "phase": "Error"}}}, {"message": message}):
        failure = reasons.ended(Attempt({**thing, "status": {"phase": "Error", **status}}))
        assert words in failure.message
        assert failure.remedy
        assert failure.retryable is (words == "quota team")


def test_a_claim_that_is_being_deleted() -> None:
    for phase in ("Bound", "Pending"):
        ending = claim(phase)
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        cause = diagnostics.unbound(ending)
        assert cause is not None
        assert cause.code == "claim-ending"
    message = '0/1 nodes are available: persistentvolumeclaim "geozarr-pvc" is being deleted.'
    cause = diagnostics.waiting_reason(unscheduled(message))
    assert cause is not None
    assert cause.code == "claim-ending"
    assert "make pvc" in cause.remedy
    cluster = MemoryCluster()
    cluster.objects[CLAIMS]["geozarr-pvc"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    with pytest.raises(ClusterObjectMissing, match="is being deleted"):
        Readiness(cluster, Settings()).check("geozarr-pvc")  # type: ignore[arg-type]
