"""Whatever comes back from where the API server should be: calls refuse it, and a watch goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geozarr_nb.cluster import answers
from geozarr_nb.cluster import client as seam
from geozarr_nb.cluster import watch as watching_module
from geozarr_nb.cluster.client import Api
from geozarr_nb.cluster.kinds import PODS, WORKFLOWS
from geozarr_nb.cluster.watch import Watch
from geozarr_nb.errors import ClusterError
from tests.unit.api_server import ApiServer, Reply, change, hangs_up, listing, refuses, says, sends, thing, watching

PATH = "/apis/argoproj.io/v1alpha1/namespaces/team/workflows"
LIST, WATCH = f"GET {PATH}?labelSelector", f"GET {PATH}?watch"
PAGE = b"<html><body>Log in to the network of the hotel</body></html>"
GOOD = json.dumps(change("ADDED", thing("c", 11))).encode()

# What proxies, gateways, login pages, restarts and broken lines send in place of an answer.
ODD: dict[str, Reply] = {
    "502 with a page": sends(b"<h1>502 Bad Gateway</h1>", 502),
    "a page with 200": sends(PAGE),
    "nothing with 200": sends(b""),
    "nothing with 204": sends(b"", 204),
    "null": sends(b"null\n"),
    "a number": sends(b"7\n"),
    "a list": sends(b"[]\n"),
    "a text": sends(b'"ok"\n'),
    "an empty document": sends(b"{}\n"),
    "a redirection": sends(b"", 302),
    "half a document": sends(b'{"kind": "List", "items": [{"metad'),
    "no UTF-8": sends(b"\xff\xfe{}\n"),
    "endless depth": sends(b"[" * 200_000),
    "hung up": hangs_up,
    "401": refuses(401, "Unauthorized", "Unauthorized"),
    "403": refuses(403, "no", "Forbidden"),
    "404": refuses(404, "the server could not find the requested resource", "NotFound"),
    "a status of odd details": sends(b'{"kind": "Status", "details": [1], "message": {}, "code": "x"}', 500),
    "500": refuses(500, "etcdserver: request timed out"),
}
# Lines in the middle of a watch.
ODD_LINES = {
    "null": b"null",
    "a list": b"[1]",
    "half a line": GOOD[: len(GOOD) // 2],
    "a page": PAGE,
    "no object": b'{"type": "ADDED"}',
    "an object that is null": b'{"type": "ADDED", "object": null}',
    "no metadata": b'{"type": "MODIFIED", "object": {}}',
    "no name": b'{"type": "DELETED", "object": {"metadata": {"resourceVersion": "12"}}}',
    "a type that is none": b'{"type": ["ADDED"], "object": {"metadata": {"name": "a", "resourceVersion": "12"}}}',
    "an error without a code": b'{"type": "ERROR", "object": {"message": "storage is reinitialising"}}',
    "an error of an odd code": b'{"type": "ERROR", "object": {"code": "many"}}',
    "an error that is null": b'{"type": "ERROR", "object": null}',
}


@pytest.fixture
def api(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
    for name in ("PATIENCE", "FIRST_PATIENCE"):
        monkeypatch.setattr(seam, name, 0.0)
    return Api("team")


@pytest.fixture
def watched(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """A watch of short pauses, whose thread leaves with the test."""
    monkeypatch.setattr(watching_module, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(watching_module, "LONGEST_PAUSE", 0.05)
    watch = Watch(api, WORKFLOWS, "a=b")
    yield watch
    watch._idle_seconds = 0


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def names(watch: Watch) -> set[str]:
    return {str(each["metadata"]["name"]) for each in watch.objects()}


def heals(server: ApiServer, watch: Watch) -> None:
    """Have the server answer again, and see that the watch shows it."""
    end = threading.Event()
    server.on(WATCH, watching([change("ADDED", thing("c", 51))], then=end.wait))
    server.on(LIST, listing(50, thing("a", 9), thing("b", 40)))
    until(lambda: names(watch) >= {"a", "c"} and watch.trouble is None)
    end.set()


CALLS: dict[str, Callable[[Api], object]] = {
    "get": lambda api: api.get(WORKFLOWS, "x"),
    "list": lambda api: api.list(PODS),
    "create": lambda api: api.create(WORKFLOWS, {}),
    "patch": lambda api: api.patch(WORKFLOWS, "x", {}),
    "watch": lambda api: list(api.watch(WORKFLOWS, "1")),
    "version": Api.version,
    "resources": lambda api: api.resources("apis/x/v1"),
    "is_allowed": lambda api: api.is_allowed("get", PODS),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_has_no_other_error_than_ours(api: Api, server: ApiServer, call: str) -> None:
    for reply in ODD.values():
        for method in ("GET", "POST", "PATCH"):
            server.on(method, reply)
        with suppress(ClusterError):
            CALLS[call](api)


@pytest.mark.parametrize("name", ["a page with 200", "null", "a redirection", "half a document", "nothing with 200"])
def test_what_is_no_answer_of_an_api_server_is_said(api: Api, server: ApiServer, name: str) -> None:
    server.on("GET", ODD[name])
    with pytest.raises(ClusterError) as caught:
        api.list(PODS)
    assert caught.value.retryable, "something in between may pass"
    assert "HTTPS_PROXY" in caught.value.remedy
    assert server.url in str(caught.value.given)


@pytest.mark.parametrize("name", ODD)
def test_a_watch_goes_on_whatever_comes_back(watched: Watch, server: ApiServer, name: str) -> None:
    cut = threading.Event()
    server.on(LIST, listing(10, thing("a", 9)))
    server.on(WATCH, watching([], then=cut.wait, cut=True))
    watch = watched
    assert names(watch) == {"a"}
    server.on(WATCH, ODD[name])
    server.on(LIST, ODD[name])
    before = len(server.asked)
    cut.set()
    until(lambda: len(server.asked) >= before + 4)
    assert names(watch) == {"a"}, "what is known stays known"
    until(lambda: watch.trouble is not None)  # whoever reads a status can see that it is old
    heals(server, watch)


@pytest.mark.parametrize("name", ["nothing with 200", "half a document", "404", "null"])
def test_it_is_fresh_while_only_watching_is_impossible(watched: Watch, server: ApiServer, name: str) -> None:
    server.on(LIST, listing(10, thing("a", 9)))
    server.on(WATCH, ODD[name])
    watch = watched
    assert names(watch) == {"a"}
    server.on(LIST, listing(50, thing("b", 40)))
    until(lambda: names(watch) == {"b"})


def test_pauses_grow_and_end(api: Api, server: ApiServer) -> None:
    assert watching_module.LONGEST_PAUSE <= 5, "what is there again is seen within seconds"
    server.on(LIST, listing(10, thing("a", 9)))
    server.on(WATCH, sends(b""))
    watch = Watch(api, WORKFLOWS, "a=b")
    watch.objects()
    time.sleep(2)
    watch._idle_seconds = 0
    assert len(server.asked) < 12, "it does not ask without a pause"


@pytest.mark.parametrize("line", ODD_LINES)
def test_a_watch_goes_on_after_an_odd_line(watched: Watch, server: ApiServer, line: str) -> None:
    server.on(LIST, listing(10, thing("a", 9)))
    server.on(WATCH, sends(GOOD + b"\n" + ODD_LINES[line] + b"\n"))
    watch = watched
    assert "a" in names(watch)
    until(lambda: sum(asked.startswith(WATCH) for asked in server.asked) >= 3)
    heals(server, watch)


def test_a_fault_of_ours_does_not_end_a_watch(
    watched: Watch, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Watch, change: object) -> None:
        raise KeyError("of ours")

    server.on(LIST, listing(10, thing("a", 9)))
    server.on(WATCH, watching([change("ADDED", thing("b", 11))]))
    with monkeypatch.context() as patch:
        patch.setattr(Watch, "_take", fails)
        watch = watched
        assert names(watch) == {"a"}
        troubles = []
        until(lambda: troubles.append(watch.trouble) or any(troubles))  # type: ignore[func-returns-value]
    _, error = next(filter(None, troubles))
    assert "of ours" in error.message
    heals(server, watch)


def test_a_watch_whose_thread_is_gone_begins_again(watched: Watch, server: ApiServer) -> None:
    """As in a child process, which has a copy of the object and not of its thread."""
    server.on(LIST, listing(10, thing("a", 9)))
    server.on(WATCH, watching([], then=threading.Event().wait))
    watch = watched
    watch._thread = threading.Thread()
    assert names(watch) == {"a"}


JSON = st.recursive(
    st.sampled_from([None, True, 0, -1.5, "", "a", "12"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "name"]), inner, max_size=2),
    max_leaves=3,
)
METADATA = st.fixed_dictionaries({}, optional={"name": JSON | st.just("a"), "resourceVersion": JSON, "labels": JSON})
THING = st.fixed_dictionaries({}, optional={"metadata": JSON | METADATA, "code": JSON, "status": JSON})
TYPES = st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"])
CHANGE = st.fixed_dictionaries({}, optional={"type": TYPES | JSON, "object": THING | JSON})


@given(CHANGE.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40))
def test_every_line_is_a_change_or_an_error_of_ours(line: bytes) -> None:
    try:
        told = answers.change(line, "https://host")
    except ClusterError:
        return
    watch = Watch(api=None, kind=WORKFLOWS, labels="")  # type: ignore[arg-type]
    if told["type"] != "ERROR":
        watch._take(told)
    assert all(isinstance(name, str) for name in watch._objects)


@given(st.fixed_dictionaries({}, optional={"items": JSON | st.lists(THING, max_size=3), "metadata": JSON}))
def test_every_page_of_a_list_is_objects_or_an_error_of_ours(page: dict[str, Any]) -> None:
    try:
        things, version, more = answers.page(page, "https://host")
    except ClusterError:
        return
    assert all(isinstance(each["metadata"]["name"], str) for each in things)
    assert isinstance(version, str)
    assert isinstance(more, str)


def test_one_odd_object_does_not_hide_the_others(api: Api, server: ApiServer) -> None:
    server.on("GET", says({"metadata": {"resourceVersion": "5"}, "items": [None, {}, thing("b", 2), []]}))
    things, version = api.list(WORKFLOWS)
    assert ([each["metadata"]["name"] for each in things], version) == (["b"], "5")
