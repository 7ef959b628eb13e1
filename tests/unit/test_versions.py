"""The image of a job is older than the workflow template or the request: the job says so, and what to do."""

from __future__ import annotations

import io
import json

import pytest

from geozarr_nb.backends.argo.backend import ArgoBackend
from geozarr_nb.cluster import manifests
from geozarr_nb.cluster.kinds import WORKFLOWS
from geozarr_nb.settings import Settings
from geozarr_runner.cli import _parser
from geozarr_runner.errors import InvalidRequest
from geozarr_runner.events import Reporter
from tests.contract.support import until
from tests.unit.memory_cluster import MemoryCluster
from tests.unit.test_argo import unsigned
from tests.unit.test_workflows import filled


@pytest.fixture
def backend(cluster: MemoryCluster) -> ArgoBackend:
    return ArgoBackend(cluster, Settings(image="registry/eopf-geozarr:old"))  # type: ignore[arg-type]


def told_by_the_runner(*more: str) -> str:
    """Return what a runner of this version says that gets more than it knows from the template."""
    [template] = manifests.template()["spec"]["templates"]
    words = [filled(word) for word in template["container"]["args"]]
    words = [word for word in words if not word.startswith("--options")]
    end = words.index("--")
    said = io.StringIO()
    try:
        options = _parser().parse_args([*words[:end], *more, *words[end:]])
        options.request(options)
    except InvalidRequest as refused:
        Reporter(said).error(refused)
    return said.getvalue().splitlines()[-1]


@pytest.mark.parametrize("word", ["--of-a-later-version=1", '--options={"of_a_later_version": 1}'])
def test_an_image_that_is_older_than_what_it_is_given(word: str, cluster: MemoryCluster, backend: ArgoBackend) -> None:
    text = told_by_the_runner(word)
    name = backend.submit(unsigned())
    outputs = {"exitCode": "2", "parameters": [{"name": "outcome", "value": text}]}
    node = {"type": "Pod", "id": "1", "templateName": "t", "name": name, "phase": "Failed", "outputs": outputs}
    cluster.patch(WORKFLOWS, name, {"spec": {}, "status": {"phase": "Failed", "nodes": {"1": node}}})
    until(lambda: backend.get(name).is_finished)
    state = backend.get(name)
    assert state.failure is not None
    assert (state.status, state.failure.code, state.failure.exit_code) == ("Failed", "invalid-request", 2)
    assert state.reason.startswith("the image registry/eopf-geozarr:old is older than what submitted the job")
    assert "later" in state.reason.replace("-", "_").partition("of_a_")[2]
    assert state.failure.remedy.startswith("make build load-k3d IMAGE=registry/eopf-geozarr:old")
    assert "usage" not in state.failure.remedy


def test_another_refusal_of_a_runner_is_told_as_it_is(cluster: MemoryCluster, backend: ArgoBackend) -> None:
    text = told_by_the_runner("--options=[]")
    name = backend.submit(unsigned())
    outputs = {"exitCode": "2", "parameters": [{"name": "outcome", "value": text}]}
    node = {"type": "Pod", "id": "1", "templateName": "t", "name": name, "phase": "Failed", "outputs": outputs}
    cluster.patch(WORKFLOWS, name, {"spec": {}, "status": {"phase": "Failed", "nodes": {"1": node}}})
    until(lambda: backend.get(name).is_finished)
    assert backend.get(name).reason == json.loads(text)["message"]
