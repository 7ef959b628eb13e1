"""The seam to the API server, against one that does what a test tells it to."""

from __future__ import annotations

import math
import socket
import threading
import time
from pathlib import Path

import pytest

from geozarr_nb.cluster import client as seam
from geozarr_nb.cluster import retries
from geozarr_nb.cluster.client import Api, Expired
from geozarr_nb.cluster.kinds import PODS, WORKFLOWS
from geozarr_nb.cluster.refusals import silence
from geozarr_nb.cluster.watch import Watch
from geozarr_nb.errors import (
    ClusterDenied,
    ClusterError,
    ClusterObjectExists,
    ClusterObjectMissing,
    ClusterRefused,
    ClusterUnreachable,
    InvalidRequest,
)
from tests.unit.api_server import ApiServer, change, hangs_up, listing, refuses, says, thing, watching

PATH = "/apis/argoproj.io/v1alpha1/namespaces/team/workflows"
LIST, WATCH = f"GET {PATH}?labelSelector", f"GET {PATH}?watch"
LABELS = "a=b"


@pytest.fixture
def api(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
    for name in ("PATIENCE", "FIRST_PATIENCE"):
        monkeypatch.setattr(seam, name, 60.0)
    return Api("team")


def until(condition: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


REFUSALS = {
    "unknown caller": (refuses(401, "Unauthorized", "Unauthorized"), ClusterDenied, "does not know who is asking"),
    "forbidden": (refuses(403, "no, no", "Forbidden"), ClusterDenied, "you may not get workflows: no, no"),
    "missing": (refuses(404, 'workflows "x" not found', "NotFound"), ClusterObjectMissing, 'workflows "x" not found'),
    "invalid": (refuses(422, "spec: too odd", "Invalid"), ClusterRefused, "HTTP 422"),
    "a proxy's own page": (lambda handler: _page(handler), ClusterRefused, "HTTP 502"),
}


def _page(handler: object) -> None:
    says({"kind": "Gateway", "message": "bad gateway"}, 502)(handler)  # type: ignore[arg-type]


@pytest.mark.parametrize(("reply", "kind", "text"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_says_what_was_asked_and_what_to_do(
    api: Api,
    server: ApiServer,
    reply: object,
    kind: type[ClusterError],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PATIENCE", "FIRST_PATIENCE"):
        monkeypatch.setattr(seam, name, 0.0)
    server.on("GET", reply)  # type: ignore[arg-type]
    with pytest.raises(kind) as caught:
        api.get(WORKFLOWS, "x")
    assert text in caught.value.message
    assert "here" in str(caught.value.given)
    assert "secret" not in str(caught.value)


def test_what_is_there_already_is_told_apart(api: Api, server: ApiServer) -> None:
    server.on("POST", refuses(409, 'workflows "x" already exists', "AlreadyExists"))
    with pytest.raises(ClusterObjectExists):
        api.create(WORKFLOWS, {})


def test_a_call_is_made_again_while_the_server_restarts(api: Api, server: ApiServer) -> None:
    server.on("GET", hangs_up, refuses(429, "busy"), refuses(503, "starting"), says(thing("x", 1)))
    assert api.get(WORKFLOWS, "x")["metadata"]["name"] == "x"
    assert len(server.asked) == 4


def test_a_server_that_keeps_silent_is_told_once(
    api: Api, server: ApiServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.on(
        "GET", refuses(503, "starting"), says(thing("w", 1)), *[refuses(503, "starting")] * 5, says(thing("x", 2))
    )
    api.get(WORKFLOWS, "w")
    assert caplog.messages == []
    monkeypatch.setattr(retries, "SECONDS_OF_SILENCE", 0.2)
    api.get(WORKFLOWS, "x")
    [told] = caplog.messages
    assert server.url in told
    assert "asked again for up to" in told


def test_an_address_where_nobody_is_is_given_up_soon(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was never reached: one that answered before gets all of the patience that there is."""
    monkeypatch.setattr(seam, "PATIENCE", 3600.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = server
        closed.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("KUBECONFIG", str(closed.kubeconfig(tmp_path)))
        api = Api("team")
        with pytest.raises(ClusterUnreachable) as caught:
            api.list(PODS)
    assert closed.url in str(caught.value.given)
    assert "kubectl config use-context" in caught.value.remedy


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ("k3d-mine", "start the cluster (k3d cluster start mine)"),
        ("kind-kind", "start the cluster (docker start kind-control-plane)"),
        ("minikube", "start the cluster (minikube start --profile minikube)"),
        ("docker-desktop", "start Docker Desktop"),
        ("arn:aws:eks:eu-west-1:1:cluster/eo", "your network leads there"),
        ("", "your network leads there"),
    ],
)
def test_a_silent_cluster_is_started_by_what_made_it(context: str, words: str) -> None:
    remedy = silence(OSError("refused"), "https://host", context).remedy
    assert words in remedy
    assert ("k3d" in remedy) is context.startswith("k3d-")


KUBECONFIGS = {
    "none": (None, "there is no kubeconfig"),
    "empty": ("", "cannot be used"),
    "no YAML": ("a: [", "cannot be used"),
    "no context": ("apiVersion: v1\nkind: Config\n", "cannot be used"),
}


@pytest.mark.parametrize(("content", "text"), KUBECONFIGS.values(), ids=KUBECONFIGS)
def test_a_kubeconfig_that_cannot_be_used_is_an_error_of_ours(
    content: str | None, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ClusterUnreachable, match=text) as caught:
        Api("team")
    assert str(path) in str(caught.value.given)
    assert caught.value.remedy


def test_long_lists_come_in_pages(api: Api, server: ApiServer) -> None:
    first = says({"metadata": {"resourceVersion": "5", "continue": "more"}, "items": [thing("a", 1)]})
    server.on("GET", first, listing(5, thing("b", 2)))
    items, version = api.list(WORKFLOWS)
    assert ([item["metadata"]["name"] for item in items], version) == (["a", "b"], "5")
    assert "continue=more" in server.asked[1]


def test_a_path_does_not_lead_out_of_a_pod(api: Api, server: ApiServer) -> None:
    with pytest.raises(InvalidRequest):
        api.proxy("pod", 80, "files/../../../secrets")
    assert server.asked == []


def test_calls_share_connections(api: Api, server: ApiServer) -> None:
    server.on("GET", says(thing("x", 1)))
    for _ in range(20):
        api.get(WORKFLOWS, "x")
    assert server.connections == 1


class TestWatch:
    """Objects kept up to date."""

    def names(self, watch: Watch) -> dict[str, str]:
        return {thing["metadata"]["name"]: thing["metadata"]["resourceVersion"] for thing in watch.objects()}

    def test_changes_are_taken_in(self, api: Api, server: ApiServer) -> None:
        server.on(LIST, listing(10, thing("a", 1), thing("b", 2)))
        changes = [
            change("ADDED", thing("c", 11)),
            change("MODIFIED", thing("a", 12)),
            change("DELETED", thing("b", 13)),
        ]
        server.on(WATCH, watching(changes), watching([], then=threading.Event().wait))
        watch = Watch(api, WORKFLOWS, LABELS)
        until(lambda: self.names(watch) == {"a": "12", "c": "11"})
        assert "resourceVersion=10" in server.asked[1]
        until(lambda: len(server.asked) == 3)
        assert "resourceVersion=13" in server.asked[2], "it goes on where it ended, and lists only once"

    @pytest.mark.parametrize("how", ["ends", "cut off", "hung up"])
    def test_it_is_resumed_where_it_broke(self, api: Api, server: ApiServer, how: str) -> None:
        server.on(LIST, listing(10))
        first = watching([change("ADDED", thing("a", 11))], cut=how == "cut off")
        server.on(
            WATCH,
            first,
            *([hangs_up] if how == "hung up" else []),
            watching([change("ADDED", thing("b", 12))]),
            watching([], then=threading.Event().wait),
        )
        watch = Watch(api, WORKFLOWS, LABELS)
        until(lambda: self.names(watch) == {"a": "11", "b": "12"})
        until(lambda: "resourceVersion=12" in server.asked[-1])
        assert sum(line.startswith(LIST) for line in server.asked) == 1
        assert watch.trouble is None

    @pytest.mark.parametrize("as_status", [True, False])
    def test_an_expired_version_has_the_list_read_again(self, api: Api, server: ApiServer, as_status: bool) -> None:
        gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
        server.on(LIST, listing(10, thing("a", 1), thing("b", 2)), listing(90, thing("a", 80)))
        expired = refuses(410, "too old", "Expired") if as_status else watching([change("ERROR", gone)])
        server.on(WATCH, expired, watching([], then=threading.Event().wait))
        watch = Watch(api, WORKFLOWS, LABELS)
        until(lambda: self.names(watch) == {"a": "80"})
        until(lambda: "resourceVersion=90" in server.asked[-1])

    def test_an_old_state_never_takes_the_place_of_a_newer_one(self, api: Api, server: ApiServer) -> None:
        server.on(LIST, listing(10, thing("a", 9)))
        server.on(WATCH, watching([], then=threading.Event().wait))
        watch = Watch(api, WORKFLOWS, LABELS)
        watch.objects()
        watch.put(thing("a", 12))
        watch.put(thing("a", 11))
        watch.put(thing("b", 13))
        assert self.names(watch) == {"a": "12", "b": "13"}

    def test_what_was_put_is_not_taken_back_by_what_is_told_late(self, api: Api, server: ApiServer) -> None:
        is_put, is_told = threading.Event(), threading.Event()
        late = [change("MODIFIED", thing("a", 12)), change("DELETED", thing("b", 13))]
        bookmark = change("BOOKMARK", {"metadata": {"resourceVersion": "14"}})  # it has no name
        server.on(LIST, listing(10, thing("a", 9), thing("b", 8)))
        server.on(
            WATCH,
            watching([], then=is_put.wait),
            watching([*late, bookmark, change("ADDED", thing("c", 15))]),
            watching([], then=is_told.wait),
        )
        watch = Watch(api, WORKFLOWS, LABELS)
        watch.objects()
        watch.put(thing("a", 20))
        watch.put(thing("b", 21))  # made anew
        is_put.set()
        until(lambda: "c" in self.names(watch))
        is_told.set()
        assert self.names(watch) == {"a": "20", "b": "21", "c": "15"}

    def test_silence_is_told_and_ends(self, api: Api, server: ApiServer) -> None:
        back = threading.Event()
        server.on(LIST, listing(10, thing("a", 9)))
        server.on(WATCH, hangs_up)
        watch = Watch(api, WORKFLOWS, LABELS)
        assert self.names(watch) == {"a": "9"}
        until(lambda: watch.trouble is not None)
        assert self.names(watch) == {"a": "9"}, "what is known stays known"
        server.on(WATCH, watching([change("ADDED", thing("b", 11))]), watching([], then=back.wait))
        until(lambda: watch.trouble is None and "b" in self.names(watch))
        back.set()

    def test_a_list_that_never_came_is_an_error(self, api: Api, server: ApiServer) -> None:
        server.on(LIST, refuses(403, "no", "Forbidden"), listing(10))
        server.on(WATCH, watching([], then=threading.Event().wait))
        watch = Watch(api, WORKFLOWS, LABELS)
        with pytest.raises(ClusterDenied):
            watch.objects()
        assert watch.objects() == []

    def test_nobody_looks_nobody_watches(self, api: Api, server: ApiServer) -> None:
        server.on(LIST, listing(10), listing(20, thing("a", 15)))
        server.on(WATCH, watching([], then=lambda: time.sleep(0.05)))
        others = set(threading.enumerate())
        watch = Watch(api, WORKFLOWS, LABELS, idle_seconds=math.inf)
        assert watch.objects() == []
        own = [thread for thread in threading.enumerate() if thread not in others and "geozarr-watch" in thread.name]
        assert len(own) == 1
        watch._idle_seconds = 0
        until(lambda: not own[0].is_alive())
        assert self.names(watch) == {"a": "15"}, "the next look lists anew"

    def test_many_who_look_are_one_connection(self, api: Api, server: ApiServer) -> None:
        server.on(LIST, listing(10))
        server.on(WATCH, watching([], then=threading.Event().wait))
        watch = Watch(api, WORKFLOWS, LABELS)
        threads = [threading.Thread(target=watch.objects) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: len(server.asked) == 2)
        assert sum(line.startswith(LIST) for line in server.asked) == 1


def test_an_expired_watch_has_an_error_of_its_own(api: Api, server: ApiServer) -> None:
    server.on(WATCH, watching([change("ERROR", {"kind": "Status", "code": 410, "message": "too old"})]))
    with pytest.raises(Expired):
        list(api.watch(WORKFLOWS, "1"))
