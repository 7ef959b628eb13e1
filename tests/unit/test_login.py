"""Who asks a cluster, and which way: logins that end and are renewed, proxies, several kubeconfigs."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from geozarr_nb.cluster import client as seam
from geozarr_nb.cluster import connection, kubeconfig
from geozarr_nb.cluster.client import Api
from geozarr_nb.cluster.kinds import PODS, WORKFLOWS
from geozarr_nb.cluster.refusals import LoggedOut
from geozarr_nb.cluster.watch import Watch
from geozarr_nb.errors import ClusterDenied, ClusterUnreachable
from tests.unit.api_server import ApiServer, Reply, change, listing, refuses, thing, watching

ANONYMOUS = 'workflows.argoproj.io is forbidden: User "system:anonymous" cannot list resource "workflows"'
REFUSALS = {
    "401": refuses(401, "Unauthorized", "Unauthorized"),
    "anonymous": refuses(403, ANONYMOUS, "Forbidden"),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATIENCE", "FIRST_PATIENCE"):
        monkeypatch.setattr(seam, name, 0.0)
    monkeypatch.setattr(connection, "SECONDS_BETWEEN_LOGINS", 0.05)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def write(path: Path, url: str, user: dict[str, Any], **cluster: str) -> None:
    contexts = [{"name": "here", "context": {"cluster": "fake", "user": "me"}}]
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "me", "user": user}],
        "contexts": contexts,
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(document))


class Login:
    """A way to log in: what says who somebody is, which may change."""

    def __init__(self, folder: Path, server: ApiServer, how: str) -> None:
        self.config, self.secret, self.runs = folder / "config", folder / "token", folder / "runs"
        self._server = server
        plugin = folder / "plugin"
        plugin.write_text(
            f"#!{sys.executable} -SE\nimport json\nopen({str(self.runs)!r}, 'a').write('x')\n"
            f"token = open({str(self.secret)!r}).read()\n"
            "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential',"
            " 'status': {'token': token}}))\n"
        )
        plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
        run = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
        self._user: dict[str, Any] = {"token file": {"tokenFile": str(self.secret)}, "plugin": {"exec": run}}.get(
            how, {}
        )

    def is_as(self, token: str) -> None:
        self.secret.write_text(token)
        write(self.config, self._server.url, self._user or {"token": token})


@pytest.fixture(params=["kubeconfig", "token file", "plugin"])
def login(request: pytest.FixtureRequest, tmp_path: Path, server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Login:
    made = Login(tmp_path, server, request.param)
    made.is_as("old")
    monkeypatch.setenv("KUBECONFIG", str(made.config))
    return made


def knows(token: str, reply: Reply, refusal: Reply = REFUSALS["401"]) -> Reply:
    """Answer whoever has a token, and refuse everybody else."""

    def choose(handler: Any) -> None:
        (reply if handler.headers["Authorization"] == f"Bearer {token}" else refusal)(handler)

    return choose


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_new_login_is_used_at_the_next_call(server: ApiServer, login: Login, refusal: str) -> None:
    server.on("GET", knows("old", listing(1)))
    api = Api("team")
    assert api.list(PODS)[0] == []
    server.on("GET", knows("new", listing(2, thing("a", 1)), REFUSALS[refusal]))
    with pytest.raises(LoggedOut, match="does not know who is asking") as caught:
        api.list(PODS)
    assert "log in again" in caught.value.remedy
    assert "rbac.yaml" not in caught.value.remedy, "no right helps whom nobody knows"
    assert caught.value.code == ClusterDenied.code
    login.is_as("new")
    assert len(api.list(PODS)[0]) == 1


def test_a_watch_goes_on_with_a_new_login(server: ApiServer, login: Login) -> None:
    ended = threading.Event()
    server.on("GET /apis", knows("old", listing(1)))
    server.on("GET /apis/argoproj.io/v1alpha1/namespaces/team/workflows?watch", REFUSALS["401"])
    watch = Watch(Api("team"), WORKFLOWS, "a=b")
    assert list(watch.objects()) == []
    told = watching([change("ADDED", thing("b", 12))], then=ended.wait)
    server.on("GET /apis", knows("new", listing(10, thing("a", 9))))
    server.on("GET /apis/argoproj.io/v1alpha1/namespaces/team/workflows?watch", knows("new", told))
    login.is_as("new")
    deadline = time.monotonic() + 60
    while "b" not in {each["metadata"]["name"] for each in watch.objects()} or watch.trouble is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    watch._idle_seconds = 0
    ended.set()


def test_a_plugin_is_not_run_for_every_call(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SECONDS_BETWEEN_LOGINS", 1.0)
    made = Login(tmp_path, server, "plugin")
    made.is_as("old")
    monkeypatch.setenv("KUBECONFIG", str(made.config))
    server.on("GET", REFUSALS["401"])
    api = Api("team")
    start = time.monotonic()

    def ask() -> None:
        with pytest.raises(LoggedOut):
            api.list(PODS)

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ask()
    assert len(made.runs.read_text()) <= 2 + (time.monotonic() - start)


def test_a_new_login_never_leads_to_another_cluster(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = server.kubeconfig(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(path))
    api = Api("team")
    document = yaml.safe_load(path.read_text())
    document["clusters"].append({"name": "other", "cluster": {"server": "https://192.0.2.1"}})
    document["contexts"].append({"name": "there", "context": {"cluster": "other", "user": "me"}})
    document["current-context"] = "there"
    path.write_text(yaml.safe_dump(document))
    server.on("GET", REFUSALS["401"])
    with pytest.raises(LoggedOut):
        api.list(PODS)
    assert (api.context, api.server) == ("here", server.url)


@pytest.mark.parametrize("content", ["", "a: [", "{}"])
def test_a_kubeconfig_that_is_just_being_written_does_no_harm(server: ApiServer, login: Login, content: str) -> None:
    server.on("GET", knows("new", listing(1)))
    api = Api("team")
    login.config.write_text(content)
    with pytest.raises(LoggedOut):
        api.list(PODS)
    login.is_as("new")
    assert api.list(PODS)[0] == []


def test_a_login_that_fails_in_its_own_way_is_an_error_of_ours(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object) -> None:
        raise RuntimeError("invalid_grant")

    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
    api = Api("team")
    monkeypatch.setattr(type(api._connection.client), "update_params_for_auth", fails)
    with pytest.raises(LoggedOut, match="invalid_grant"):
        api.list(PODS)


# The way there

OWN = ["127.0.0.1:6443", "localhost:6443", "[::1]:6443", "0.0.0.0:40000", "127.1.2.3", "k3d.localhost:6443"]
PROXY = "http://192.0.2.7:3128"
VARIABLES = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]


def chosen_proxy(folder: Path, monkeypatch: pytest.MonkeyPatch, host: str, **cluster: str) -> object:
    write(folder / "config", f"https://{host}", {"token": "x"}, **cluster)
    monkeypatch.setenv("KUBECONFIG", str(folder / "config"))
    return Api("team")._connection.client.configuration.proxy


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*VARIABLES, "NO_PROXY", "no_proxy"]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("variable", VARIABLES)
def test_a_proxy_never_stands_before_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, PROXY)
    for host in OWN:
        assert chosen_proxy(tmp_path, monkeypatch, host) is None, host


@pytest.mark.usefixtures("no_proxies")
def test_a_proxy_stands_before_every_other_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    for host in ("192.0.2.1:6443", "k8s.example", "localhost.example"):
        assert chosen_proxy(tmp_path, monkeypatch, host) == PROXY


@pytest.mark.usefixtures("no_proxies")
def test_the_proxy_of_a_kubeconfig_counts_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a tunnel to the machine whose 127.0.0.1 is meant."""
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    tunnel = {"proxy-url": "http://127.0.0.1:1080"}
    assert chosen_proxy(tmp_path, monkeypatch, "127.0.0.1:6443", **tunnel) == "http://127.0.0.1:1080"


@pytest.mark.usefixtures("no_proxies")
def test_a_call_reaches_this_machine(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
    server.on("GET", listing(1))
    assert Api("team").list(PODS)[0] == []


EMPTY: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_text(""),
    "spaces": lambda path: path.write_text("\n  \n"),
    "comments": lambda path: path.write_text("# nothing yet\n---\n"),
    "not there": lambda path: None,
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("kind", EMPTY)
def test_an_empty_kubeconfig_is_left_out(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, order: int
) -> None:
    EMPTY[kind](tmp_path / "empty")
    paths = [str(tmp_path / "empty"), str(server.kubeconfig(tmp_path))][::order]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join([*paths, ""]))
    assert Api("team").context == "here"


def test_only_empty_kubeconfigs_are_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").write_text("")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "empty"))
    with pytest.raises(ClusterUnreachable, match="cannot be used"):
        Api("team")
    assert kubeconfig.is_this_machine("https://[::1]:6443")
