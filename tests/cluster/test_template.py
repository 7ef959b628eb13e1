"""The template alone, without the SDK: what Argo's own tools submit is converted, tried again and cleaned up."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.server import Kind, ProductServer
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.planning.estimate import estimate
from tests.cluster.support import (
    CLAIM,
    IMAGE,
    WORKFLOWS,
    FolderVolume,
    Namespace,
    Volume,
    fresh_namespace,
    node_address,
    said_of,
    volume_of,
)

pytestmark = pytest.mark.cluster

R20M, R60M = "/measurements/reflectance/r20m", "/measurements/reflectance/r60m"
SIGNATURE = "sv=1&sig=right-and-unread"
WRONG = "sv=1&sig=wrong-and-unread"
SECONDS = 180
PAUSE = 0.25  # seconds: each look at the cluster is a process
SIGNAL = """
for process in /proc/[0-9]*/stat; do
    read -r id _ _ parent _ <"$process"
    [ "$parent" != 1 ] || kill "$1" "$id"
done
"""
# What a person may give, and what Argo, Kubernetes, a shell, YAML, JSON or argparse would each make something of.
ODD = (
    "a \"b\" 'c' \\ d; $(ARGO_TEMPLATE) $(HOME) $$HOME $HOME `id` {} | & > <x> # % ü✓雪 {",
    "--groups=/etc -x",
    "$(SECRET_VALUE)",
    "$$$(HOME)$",
    "$(BRACE)",
    "{{",
    "}}",
    "{{{",
    "{{workflow.name}} {{pod.name}} {{inputs.parameters}}",
    "{{=1+1}}",
    "{{= workflow.parameters",
    "a\tb\nc",
    " before and after ",
    "\U0001f6f0 \u200b\u2028 \x7f",
    "\\u0041\\n",
    "%7B%20?a=b&c=d+e#f",
    "[a]: &b *c",
    "true",
)


def until[T](condition: Callable[[], T]) -> T:
    """Wait for something to become true; returns it."""
    deadline = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(PAUSE)
    return value


@dataclass(frozen=True)
class Flow:
    """A Workflow of the template."""

    namespace: Namespace
    name: str

    @property
    def found(self) -> dict[str, Any]:
        return dict(json.loads(self.namespace.kubectl("get", "workflow", self.name, "-o", "json")))

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.found.get("status", {}))

    @property
    def tries(self) -> list[dict[str, Any]]:
        """The status of each of its pods, the first one first."""
        nodes = [node for node in self.status.get("nodes", {}).values() if node["type"] == "Pod"]
        return sorted(nodes, key=lambda node: str(node["startedAt"]))

    def ended(self) -> dict[str, Any]:
        """Wait for its end; returns its status."""

        def end() -> dict[str, Any]:
            status = self.status
            return status if status.get("phase") in ("Succeeded", "Failed", "Error") else {}

        return until(end)

    def pod(self, number: int = 1) -> str:
        """Wait until a try's container runs; returns its pod."""
        selector = ("-l", f"workflows.argoproj.io/workflow={self.name}")

        def ready() -> str:
            pods = self.namespace.objects("pods", *selector)
            pods.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
            if len(pods) < number:
                return ""
            states = {one["name"]: one["state"] for one in pods[number - 1]["status"].get("containerStatuses", [])}
            return str(pods[number - 1]["metadata"]["name"]) if "running" in states.get("main", {}) else ""

        return until(ready)

    def signal(self, name: str) -> None:
        """Send a signal to the runner: the one child of what Argo runs it with."""
        self.namespace.kubectl("exec", self.pod(), "-c", "main", "--", "/bin/bash", "-c", SIGNAL, "bash", f"-{name}")


def outcome(node: dict[str, Any]) -> dict[str, Any]:
    """What a try's runner said last, from the Workflow's status; empty where it could say nothing."""
    [text] = [entry["value"] for entry in node["outputs"]["parameters"] if entry["name"] == "outcome"]
    return dict(json.loads(text)) if text else {}


@pytest.fixture(scope="module")
def own() -> Iterator[Namespace]:
    """A namespace that enforces the strictest standard for pods."""
    with fresh_namespace() as made:
        volume_of(made, CLAIM)  # if a pod has to show its files, it comes before the rule
        made.kubectl("label", "namespace", made.name, "pod-security.kubernetes.io/enforce=restricted")
        yield made


@pytest.fixture(scope="module")
def volume(own: Namespace) -> Volume:
    return volume_of(own, CLAIM)


@pytest.fixture(scope="module")
def product(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(sample, tmp_path_factory.mktemp("template") / "s2.zarr"))


@pytest.fixture(scope="module")
def server(product: Path) -> Iterator[ProductServer]:
    with ProductServer(product.parent, host=node_address()) as running:
        yield running


@pytest.fixture(scope="module")
def url(server: ProductServer) -> str:
    return f"{server.url}/s2.zarr"


@contextmanager
def held(product: Path) -> Iterator[ProductServer]:
    """A server that keeps some of the product's data back until `release`."""
    with ProductServer(product.parent, host=node_address()) as running:
        running.hold(f"/s2.zarr{R60M}/b09/")
        yield running


@pytest.fixture
def holding(product: Path) -> Iterator[ProductServer]:
    with held(product) as running:
        yield running


def submit(namespace: Namespace, name: str, template: str = "geozarr-convert", **parameters: str) -> Flow:
    """Create a Workflow."""
    given = {"image": IMAGE, **parameters}
    document = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name},
        "spec": {
            "workflowTemplateRef": {"name": template},
            "arguments": {"parameters": [{"name": key, "value": value} for key, value in given.items()]},
        },
    }
    namespace.kubectl("create", "-f", "-", given=json.dumps(document))
    return Flow(namespace, name)


def variant(namespace: Namespace, name: str, command: list[str]) -> str:
    """Make a template of its own in which another command gets the runner's arguments."""
    [template] = yaml.safe_load_all((WORKFLOWS / "geozarr-convert-template.yaml").read_text())
    template["metadata"]["name"] = name
    template["spec"]["templates"][0]["container"]["command"] = command
    namespace.apply(template)
    return name


def events(volume: Volume, output: str) -> list[dict[str, Any]]:
    """Every event in an output's log file."""
    return [json.loads(line) for line in volume.text(f"{output}.log.jsonl").splitlines()]


def left(volume: Volume, name: str) -> list[str]:
    """Whatever lies on the claim for an output."""
    return [found for found in volume.names("") if name in found]


def half_written(volume: Volume, name: str) -> None:
    """Wait until a run has begun with its output."""
    until(lambda: f".{name}.zarr.partial" in volume.names(""))


# --- plain argo submit -----------------------------------------------------------------------------------------------


def argo_submit(namespace: Namespace, name: str, **parameters: str) -> Flow:
    options = [word for key, value in parameters.items() for word in ("-p", f"{key}={value}")]
    command = ["argo", "submit", "-n", namespace.name, "--name", name, "--from", "workflowtemplate/geozarr-convert"]
    subprocess.run([*command, *options, "-p", f"image={IMAGE}"], check=True, capture_output=True, text=True)
    return Flow(namespace, name)


@pytest.fixture(scope="module")
def converted(own: Namespace, url: str) -> Flow:
    flow = argo_submit(
        own, "converted", stac_url=url, output_zarr="a/one.zarr", groups=f" {R60M[1:]},{R20M} {R60M}", identity="me"
    )
    flow.ended()
    return flow


def test_argo_submit_is_enough(converted: Flow, volume: Volume) -> None:
    status = converted.status
    assert status["phase"] == "Succeeded", status
    [node] = converted.tries
    result = outcome(node)
    assert (result["type"], result["path"], result["groups"]) == ("result", "/data/a/one.zarr", [R60M, R20M])
    assert result["identity"] == "me"
    assert "one.zarr" in volume.names("a")
    assert volume.names("a/one.zarr/measurements/reflectance") == ["r20m", "r60m", "zarr.json"]
    assert converted.found["metadata"]["labels"]["app.kubernetes.io/name"] == "geozarr-convert"


def test_what_the_server_counts_is_what_the_estimate_said(own: Namespace, product: Path) -> None:
    with ProductServer(product.parent, host=node_address()) as counting:
        url = f"{counting.url}/{product.name}"
        expected = estimate(open_product(url), [R20M, R60M])
        counting.reset()
        flow = submit(own, "counted", stac_url=url, output_zarr="counted.zarr", groups=f"{R20M} {R60M}")
        assert flow.ended()["phase"] == "Succeeded", flow.status
        counts = counting.counts
    data = {
        path: seen.bytes
        for path, seen in counts.paths.items()
        if Kind.DATA in seen.requests and not path.endswith(".zmetadata")
    }
    assert expected.download_bytes is not None
    compared = sum(data.values()) - expected.download_bytes  # a little of each variable, once it is there
    assert (len(data), 0 <= compared <= expected.download_bytes // 100) == (expected.requests, True)
    assert set(counts.repeated().values()) <= {2}
    assert outcome(flow.tries[0])["bytes_read"] == expected.download_bytes


def test_its_log_outlives_its_pod(converted: Flow, own: Namespace, volume: Volume) -> None:
    selector = ("-l", f"workflows.argoproj.io/workflow={converted.name}")
    until(lambda: not own.objects("pods", *selector))
    told = events(volume, "a/one.zarr")
    assert told[0]["type"] == "run"
    assert "converted-" in told[0]["id"]
    assert told[-1] == outcome(converted.tries[0])
    assert "converter" in {event["source"] for event in told if event["type"] == "log"}


def test_nobody_else_may_write_to_the_output(converted: Flow, volume: Volume) -> None:
    if not isinstance(volume, FolderVolume):
        pytest.skip("the volume's files are not on this machine")
    written = list((volume.root / "a").rglob("*"))
    assert written
    assert not [path for path in written if path.stat().st_mode & 0o022]


def test_the_same_again_is_refused_or_kept(converted: Flow, own: Namespace, url: str) -> None:
    where = {"stac_url": url, "output_zarr": "/data/a/one.zarr", "groups": f"{R60M} {R20M}"}
    refused, kept = submit(own, "refused", **where), submit(own, "kept", if_exists="skip", **where)
    assert refused.ended()["phase"] == "Failed"
    [node] = refused.tries
    assert outcome(node)["code"] == "output-exists"
    assert "[output-exists] the output exists" in node["message"]
    assert kept.ended()["phase"] == "Succeeded"
    assert outcome(kept.tries[0])["skipped"]


# --- what is given arrives -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def echo(own: Namespace) -> str:
    """The template with something else for a runner: it leaves its arguments as its outcome."""
    own.kubectl("create", "secret", "generic", "odd", "--from-literal=SECRET_VALUE=nobody-may-read-this")
    program = "import json, sys; open('/scratch/outcome.json', 'w').write(json.dumps(sys.argv[1:]))"
    return variant(own, "echo", ["python3", "-c", program])


def test_odd_values_arrive_unharmed(own: Namespace, echo: str) -> None:
    """All four of these parameters are handed on in the same words: see tests/unit/test_workflows.py."""
    small = {"cpu": "10m", "memory": "32Mi", "credentials": "odd"}
    several = list(batched(ODD, 3))
    flows = [
        submit(own, f"odd-{i}", echo, **small, stac_url=url, output_zarr=output, groups=groups, identity=url)
        for i, (url, output, groups) in enumerate(several)
    ]
    for flow, (url, output, groups) in zip(flows, several, strict=True):
        assert flow.ended()["phase"] == "Succeeded", flow.status
        [text] = [entry["value"] for entry in flow.tries[0]["outputs"]["parameters"]]
        arrived = json.loads(text)
        assert arrived[0] == "convert"
        assert f"--groups={groups}" in arrived
        assert f"--identity={url}" in arrived
        assert arrived[-3:] == ["--", url, output]
    # kubectl shows no object that holds some of these as YAML, and other tests look at all there are.
    own.kubectl("delete", "workflows", *(flow.name for flow in flows))


ODD_PRODUCT = "no \"such\" 'product' $(HOME); {x}.zarr"
AWAY = ("../out.zarr", "/scratch/out.zarr", "~/out.zarr", "/data")
WRONG_CHOICES = {"if_exists": "maybe", "validate_groups": "yes", "dask_cluster": "$(id)", "verbose": ""}
WRONG_QUANTITIES = ("1}", "1\n    privileged: true")


@pytest.fixture(scope="module")
def refused(own: Namespace, url: str, server: ProductServer) -> Callable[[str], Flow]:
    """Gives a run that is refused, once it is: all at once, for the controller looks at each only every ten seconds."""
    flows = [
        submit(own, "not-found", stac_url=f"{server.url}/absent.zarr", output_zarr="absent.zarr"),
        submit(own, "odd-product", stac_url=f"/data/{ODD_PRODUCT}", output_zarr="$(HOME).zarr"),
        *(submit(own, f"away-{i}", stac_url=url, output_zarr=output) for i, output in enumerate(AWAY)),
        *(
            submit(own, f"wrong-{name.replace('_', '-')}", stac_url=url, output_zarr=f"{name}.zarr", **{name: value})
            for name, value in WRONG_CHOICES.items()
        ),
        *(
            submit(own, f"quantity-{i}", stac_url=url, output_zarr=f"quantity-{i}.zarr", cpu=value)
            for i, value in enumerate(WRONG_QUANTITIES)
        ),
    ]

    def ended(name: str) -> Flow:
        [flow] = [flow for flow in flows if flow.name == name]
        assert flow.ended()["phase"] in ("Failed", "Error")
        return flow

    return ended


def test_the_runner_is_told_what_was_given(refused: Callable[[str], Flow]) -> None:
    [node] = refused("odd-product").tries
    assert (outcome(node)["code"], outcome(node)["given"]) == ("product-not-found", f"/data/{ODD_PRODUCT}")


@pytest.mark.parametrize("number", range(len(AWAY)), ids=AWAY)
def test_an_output_that_is_not_on_the_claim_is_refused(number: int, refused: Callable[[str], Flow]) -> None:
    [node] = refused(f"away-{number}").tries
    assert outcome(node)["code"] == "invalid-request"
    assert "/data" in outcome(node)["message"]


@pytest.mark.parametrize("name", WRONG_CHOICES)
def test_a_choice_that_there_is_not_is_refused(name: str, refused: Callable[[str], Flow]) -> None:
    option = name.replace("_", "-")
    [node] = refused(f"wrong-{option}").tries
    assert node["message"].startswith("Error (exit code 2): [invalid-request] ")
    assert f"--{option}" in outcome(node)["message"]


@pytest.mark.parametrize("number", range(len(WRONG_QUANTITIES)))
def test_a_quantity_stays_one(number: int, refused: Callable[[str], Flow]) -> None:
    """It is put into a part of the pod's specification, and can be nothing else there."""
    flow = refused(f"quantity-{number}")
    [node] = flow.tries
    assert "PodSpecPatch" in node["message"]
    assert flow.namespace.objects("pods", "-l", f"workflows.argoproj.io/workflow={flow.name}") == []


def test_what_cannot_get_better_is_tried_once(refused: Callable[[str], Flow], volume: Volume) -> None:
    [node] = refused("not-found").tries
    assert node["message"] == "Error (exit code 3): [product-not-found] there is no product here"
    error = outcome(node)
    assert (error["type"], error["code"], error["exit_code"]) == ("error", "product-not-found", 3)
    assert events(volume, "absent.zarr")[-1] == error


# --- one at a time ---------------------------------------------------------------------------------------------------


def test_a_second_run_of_an_output_waits_for_the_first(own: Namespace, holding: ProductServer, volume: Volume) -> None:
    what = {"stac_url": f"{holding.url}/s2.zarr", "groups": R60M}
    first = submit(own, "first", output_zarr="same.zarr", **what)
    first.pod()
    second = submit(own, "second", output_zarr="/data/a/../same.zarr", if_exists="skip", **what)
    other = submit(own, "other", output_zarr="other.zarr", **what)

    def waiting() -> list[dict[str, Any]]:
        return list(second.status.get("synchronization", {}).get("mutex", {}).get("waiting", []))

    [lock] = until(waiting)
    assert lock["mutex"] == f"{own.name}/Mutex/{CLAIM}/data/same.zarr"
    assert lock["holder"].split("/")[:2] == [own.name, "first"]
    other.pod()
    assert second.tries == []
    holding.release()
    assert first.ended()["phase"] == second.ended()["phase"] == other.ended()["phase"] == "Succeeded"
    assert outcome(second.tries[0])["skipped"]
    results = [event for event in events(volume, "same.zarr") if event["type"] == "result"]
    assert [result["skipped"] for result in results] == [False, True]


# --- again, or not ---------------------------------------------------------------------------------------------------


def test_runs_that_were_cut_off_run_again(own: Namespace, holding: ProductServer, volume: Volume) -> None:
    what = {"stac_url": f"{holding.url}/s2.zarr", "groups": R60M}
    flows = {name: submit(own, name, output_zarr=f"{name}.zarr", **what) for name in ("deleted", "lost", "interrupted")}
    for name, flow in flows.items():
        flow.pod()
        half_written(volume, name)
    # A pod that Argo misses in its first ten seconds it makes anew, as if there had been none.
    started = [datetime.fromisoformat(flow.tries[0]["startedAt"]) for flow in flows.values()]
    until(lambda: datetime.now(UTC) - max(started) > timedelta(seconds=11))
    own.kubectl("delete", "pod", flows["deleted"].pod(), "--wait=false")
    own.kubectl("delete", "pod", flows["lost"].pod(), "--wait=false", "--grace-period=0", "--force")
    flows["interrupted"].signal("TERM")
    until(lambda: all(len(flow.tries) == 2 for flow in flows.values()))
    holding.release()
    for name, flow in flows.items():
        assert flow.ended()["phase"] == "Succeeded"
        before, after = flow.tries
        # Whether Argo sees the end of a pod that is deleted, or only that it is gone, is a matter of luck.
        assert before["phase"] in {"lost": ["Error"], "interrupted": ["Failed"], "deleted": ["Failed", "Error"]}[name]
        assert after["phase"] == "Succeeded"
        assert left(volume, name) == [f"{name}.zarr", f"{name}.zarr.log.jsonl", f"{name}.zarr.stac.json"]
        told = events(volume, f"{name}.zarr")
        assert len({event["id"] for event in told if event["type"] == "run"}) == 2
        assert [event["type"] for event in told].count("result") == 1


def test_a_run_that_was_lost_after_its_end_is_not_done_again(own: Namespace, url: str) -> None:
    """As when a node goes away between publication and report: the second try finds the output of the first."""
    script = 'geozarr-runner "$@" && [[ $* == *--if-exists=skip* ]] || exit 7'
    variant(own, "lost-after-its-end", ["/bin/bash", "-c", script, "bash"])
    small = {"cpu": "0.1", "memory": "256Mi"}
    what = {"stac_url": url, "output_zarr": "once.zarr", "groups": R60M}
    flow = submit(own, "lost-after-its-end", "lost-after-its-end", **small, **what)
    assert flow.ended()["phase"] == "Succeeded"
    assert [outcome(node)["skipped"] for node in flow.tries] == [False, True]


def test_a_product_that_does_not_answer_is_tried_again(own: Namespace, server: ProductServer) -> None:
    """A run of its own tries five times to read a document: the first run ends, and the second one gets it."""
    server.fail("/silent.zarr/.zmetadata", 503, 100)
    flow = submit(own, "silent", stac_url=f"{server.url}/silent.zarr", output_zarr="silent.zarr")
    until(lambda: [node for node in flow.tries if node.get("finishedAt")])
    first = flow.tries[0]
    assert outcome(first)["code"] == "product-unreachable"
    assert "[product-unreachable]" in first["message"]
    until(lambda: len(flow.tries) == 2)
    flow.namespace.kubectl("patch", "workflow", flow.name, "--type=merge", "-p", '{"spec": {"shutdown": "Terminate"}}')
    assert flow.ended()["phase"] == "Failed"


# --- ended -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stuck(own: Namespace, product: Path, volume: Volume) -> Iterator[dict[str, Flow]]:
    """Runs that wait for data that does not come, each to be ended in its own way."""
    with held(product) as running:
        what = {"stac_url": f"{running.url}/s2.zarr", "groups": R60M}
        limits = {"killed": "14400", "ended": "14400", "late": "40"}  # time to begin, on a busy machine as well
        flows = {
            name: submit(own, name, output_zarr=f"{name}.zarr", time_limit=limit, **what)
            for name, limit in limits.items()
        }
        for name in flows:
            half_written(volume, name)
        flows["killed"].signal("KILL")
        subprocess.run(["argo", "terminate", "-n", own.name, "ended"], check=True, capture_output=True, text=True)
        yield flows


def test_a_killed_runner_is_not_run_again(stuck: dict[str, Flow], volume: Volume) -> None:
    """As a rule it was killed for its memory, and would be again."""
    assert stuck["killed"].ended()["phase"] == "Failed"
    [node] = stuck["killed"].tries
    assert "137" in node["message"]
    assert outcome(node) == {}
    assert "killed.zarr" not in volume.names("")


def test_a_terminated_run_leaves_nothing_half_written(stuck: dict[str, Flow], volume: Volume) -> None:
    assert stuck["ended"].ended()["phase"] == "Failed"
    until(lambda: left(volume, "ended") == ["ended.zarr.log.jsonl"])
    last = events(volume, "ended.zarr")[-1]
    assert (last["code"], last["given"]) == ("interrupted", "SIGTERM")
    assert len(stuck["ended"].tries) == 1


def test_a_run_that_takes_too_long_is_ended(stuck: dict[str, Flow], volume: Volume) -> None:
    assert stuck["late"].ended()["phase"] == "Failed"
    [node] = stuck["late"].tries
    assert node["message"] == "Pod was active on the node longer than the specified deadline"
    until(lambda: left(volume, "late") == ["late.zarr.log.jsonl"])


def test_progress_is_told_while_a_run_lives(own: Namespace) -> None:
    program = "import os, time; open(os.environ['ARGO_PROGRESS_FILE'], 'w').write('3/7'); time.sleep(60)"
    small = {"cpu": "10m", "memory": "32Mi"}
    template = variant(own, "progress", ["python3", "-c", program])
    flow = submit(own, "progress", template, stac_url="any", output_zarr="progress.zarr", **small)
    until(lambda: [node["progress"] for node in flow.tries] == ["3/7"])
    own.kubectl("delete", "workflow", flow.name)


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signed(product: Path) -> Iterator[ProductServer]:
    with ProductServer(product.parent, signature=SIGNATURE, host=node_address()) as running:
        yield running


type SecretOf = Callable[[str, str], None]


@pytest.fixture(scope="module")
def secret(own: Namespace) -> SecretOf:
    """Makes a Secret with the whole address of an input."""

    def make(name: str, address: str) -> None:
        document = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "stringData": {"GEOZARR_INPUT": address},
        }
        # Not by apply: it would keep the value in an annotation as well.
        own.kubectl("create", "-f", "-", given=json.dumps(document))

    return make


def test_a_signature_is_read_and_never_written(
    own: Namespace, signed: ProductServer, secret: SecretOf, volume: Volume
) -> None:
    own.clear()  # the logs of all pods are looked into
    shown = f"{signed.url}/s2.zarr"
    addresses = {
        "whole": f"{shown}?{SIGNATURE}",
        "denied": f"{shown}?{WRONG}",
        "another": f"{signed.url}/other.zarr?{SIGNATURE}",
    }
    what = {"stac_url": shown, "groups": R60M}
    flows = []
    for name, address in addresses.items():
        secret(f"{name}-address", address)
        flows.append(submit(own, name, output_zarr=f"{name}.zarr", credentials=f"{name}-address", **what))
    whole, denied, another = flows
    assert whole.ended()["phase"] == "Succeeded"
    for flow, code in ((denied, "product-denied"), (another, "invalid-request")):
        assert flow.ended()["phase"] == "Failed"
        [node] = flow.tries
        assert outcome(node)["code"] == code
    assert said_of(own, "and-unread") == []
    assert volume.holding("and-unread") == []
