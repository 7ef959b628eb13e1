"""The Makefile's targets for a cluster: their defaults, and what they say where a tool or the cluster is missing.

`kubectl`, `docker` and `geozarr-nb` are small scripts here, which write down how they were called.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from geozarr_nb.settings import Settings

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
# What the recipes and scripts need besides the tools that may be missing.
BASICS = (
    "awk",
    "bash",
    "cat",
    "cp",
    "dirname",
    "env",
    "grep",
    "head",
    "make",
    "mktemp",
    "rm",
    "sed",
    "sh",
    "sort",
    "tail",
    "touch",
    "xargs",
)
ON_A_CLUSTER = ("argo-install", "template", "pvc", "pod", "events", "logs", "cluster-gc")
THROUGH_THE_SDK = ("submit", "status", "logs", "doctor")


class Tools:
    """A PATH of its own, with the basics and what a test puts there.

    Attributes
    ----------
    calls
        Every call of a tool that a test put there, as it was typed.
    """

    def __init__(self, folder: Path) -> None:
        self.bin, self._calls = folder / "bin", folder / "calls"
        self.bin.mkdir()
        self._calls.touch()
        for name in BASICS:
            if found := shutil.which(name):
                (self.bin / name).symlink_to(found)
        self.environ = {"PATH": str(self.bin), "HOME": str(folder), "TMPDIR": str(folder)}
        # The environment of the tests' own stands for one that `make setup` made.
        self.venv = folder / "venv"
        (self.venv / "bin").mkdir(parents=True)
        for name in (".ready", ".jupyter", ".supply"):
            (self.venv / name).touch()

    def put(self, name: str, script: str, folder: Path | None = None) -> None:
        """Make a tool of some lines of shell."""
        path = (folder or self.bin) / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self._calls}"\n{script}\n')
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """What was called."""
        return self._calls.read_text().splitlines()

    def make(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run make with the tools there are."""
        return subprocess.run(
            ["make", f"VENV={self.venv}", *arguments],
            cwd=ROOT,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


def remedy(run: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a failed target says, before make's own."""
    assert run.returncode != 0, run.stdout
    lines = [line for line in run.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1, run.stderr
    assert run.stdout == ""
    return lines[0]


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path)


def default(name: str) -> str:
    found = re.findall(rf"^{name} \?= (.*)$", MAKEFILE, flags=re.MULTILINE)
    assert len(found) == 1, f"{name} has {len(found)} defaults"
    return str(found[0])


TRIED = """case "$*" in
    *import*) printf 'tests/a.py::one\ntests/b.py::two[x y]\n' ;;
    *--last-failed*) exit {second} ;;
    *) exit {first} ;;
esac"""


@pytest.mark.parametrize(
    ("again", "first", "second", "calls", "passes"),
    [
        ("", 0, 0, 1, True),
        ("", 1, 0, 1, False),
        ("1", 0, 0, 1, True),
        ("1", 1, 0, 2, True),
        ("1", 1, 1, 2, False),
        ("1", 2, 0, 1, False),
    ],
)
def test_what_is_tried_again_is_told(
    tools: Tools, again: str, first: int, second: int, calls: int, passes: bool
) -> None:
    tools.put("python", TRIED.format(first=first, second=second), tools.venv / "bin")
    done = tools.make("test", f"TEST_AGAIN={again}", "PYTEST_OPTIONS=-x")
    assert (done.returncode == 0) == passes, done.stderr
    runs = [call for call in tools.calls if call.startswith("python -m pytest")]
    assert len(runs) == calls
    assert all(call.endswith(" -x") for call in runs)
    assert [" -n 2 --dist loadscope" in call for call in runs] == [True, False][:calls]
    told = "failed at first, and tried once more (2):\n  tests/a.py::one\n  tests/b.py::two[x y]\n"
    assert done.stdout.endswith(told) == (calls == 2)
    assert ("failed at first" in done.stdout) == (calls == 2)


def test_the_defaults_are_those_of_the_settings() -> None:
    settings = Settings()
    assert default("NAMESPACE") == settings.namespace
    assert default("IMAGE") == "eopf-geozarr:dev"
    assert default("PVC_NAME") == settings.pvc_name
    assert default("CLUSTER") == "geozarr"
    assert default("ARGO_VERSION") == "v3.6.5"
    assert default("ARGO_NAMESPACE") == "argo"


def test_help_has_every_target_for_a_cluster(tools: Tools) -> None:
    said = tools.make("help").stdout
    words = set(re.findall(r"[\w-]+", said))
    assert words >= {*ON_A_CLUSTER, *THROUGH_THE_SDK}
    assert default("ARGO_VERSION") in said


@pytest.mark.parametrize("target", ON_A_CLUSTER)
def test_without_kubectl(tools: Tools, target: str) -> None:
    said = remedy(tools.make(target))
    assert "kubectl is not installed: get it from https://" in said


@pytest.mark.parametrize("target", ON_A_CLUSTER)
def test_without_a_cluster(tools: Tools, target: str) -> None:
    tools.put("kubectl", 'echo "The connection to the server localhost:8080 was refused" >&2; exit 1')
    said = remedy(tools.make(target))
    assert "no cluster answers (The connection to the server localhost:8080 was refused)" in said
    assert "k3d cluster start geozarr" in said


def test_another_clusters_name_is_in_the_remedy(tools: Tools) -> None:
    tools.put("kubectl", "exit 1")
    assert "k3d cluster start mine" in remedy(tools.make("pvc", "CLUSTER=mine"))


def test_without_argo(tools: Tools) -> None:
    tools.put("kubectl", 'case "$*" in *argoproj*) echo "Error from server (NotFound)" >&2; exit 1;; esac')
    assert remedy(tools.make("template")) == "template: Argo Workflows is not on this cluster: make argo-install"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ('Error from server (NotFound): namespaces "team" not found', "kubectl create namespace team"),
        ('Error: pvc is forbidden: User "a" cannot patch resource "x"', "ask whoever runs the cluster"),
        ("error: something else", "the cluster refused it: error: something else"),
    ],
)
def test_what_the_cluster_refuses(tools: Tools, answer: str, words: str) -> None:
    tools.put("kubectl", f"case \"$*\" in *apply*) cat >/dev/null; echo '{answer}' >&2; exit 1;; esac")
    assert words in remedy(tools.make("pvc", "NAMESPACE=team"))


def test_the_context_is_passed_on(tools: Tools) -> None:
    tools.put("kubectl", "")
    tools.make("events", "CONTEXT=other")
    assert tools.calls
    assert all(call.startswith("kubectl --context other ") for call in tools.calls)


def test_the_claim_may_have_another_name(tools: Tools) -> None:
    tools.put("kubectl", 'case "$*" in *apply*) cat;; esac')
    assert "name: other" in tools.make("pvc", "PVC_NAME=other").stdout
    assert "name: geozarr-pvc" in tools.make("pvc").stdout


@pytest.mark.parametrize(
    ("there", "code", "words"),
    [
        ("Bound 100Gi ", 0, "the claim geozarr-pvc is there (Bound 100Gi): it stays as it is"),
        ("Bound 100Gi 2026-01-01T00:00:00Z", 2, "the claim geozarr-pvc is being deleted"),
    ],
)
def test_a_claim_that_is_there_stays(tools: Tools, there: str, code: int, words: str) -> None:
    tools.put("kubectl", f"""case "$*" in *"get pvc"*) printf '{there}';; *apply*) exit 1;; esac""")
    done = tools.make("pvc")
    assert done.returncode == code
    assert words in done.stdout + done.stderr


def test_the_template_of_a_helm_release_is_not_written_over(tools: Tools) -> None:
    """Its limit of jobs at once would be gone."""
    tools.put("kubectl", """case "$*" in *"get workflowtemplate"*) printf mine;; *apply*) exit 1;; esac""")
    assert "helm upgrade mine charts/geozarr --namespace argo --reuse-values" in remedy(tools.make("template"))


def test_manifests_are_applied_to_the_namespace(tools: Tools) -> None:
    tools.put("kubectl", 'case "$*" in *apply*) cat;; esac')
    applied = tools.make("template", "NAMESPACE=team").stdout
    assert "namespace: team" in applied
    assert not re.search(r"^ *namespace: argo$", applied, flags=re.MULTILINE)
    assert applied.count("kind: WorkflowTemplate") == 1
    assert "kubectl apply --namespace team --filename -" in tools.calls


def test_a_job_without_a_pod(tools: Tools) -> None:
    tools.put("kubectl", "")
    assert "make events JOB=a-1" in remedy(tools.make("pod", "JOB=a-1"))


def test_logs_without_a_job(tools: Tools) -> None:
    tools.put("kubectl", "")
    assert remedy(tools.make("logs")) == "newest: there is no job in namespace argo yet: make submit"


def test_logs_are_the_newest_jobs(tools: Tools) -> None:
    tools.put("kubectl", 'case "$*" in *"get workflows"*) printf "old\\nnew\\n";; esac')
    tools.put("geozarr-nb", "", tools.venv / "bin")
    assert tools.make("logs").returncode == 0
    assert tools.calls[-1] == "geozarr-nb logs --follow new"
    assert tools.make("logs", "JOB=mine").returncode == 0
    assert tools.calls[-1] == "geozarr-nb logs --follow mine"


@pytest.mark.parametrize("target", ["submit", "status", "doctor"])
def test_the_sdk_gets_what_make_was_given(tools: Tools, target: str) -> None:
    shown = 'echo "$GEOZARR_BACKEND $GEOZARR_NAMESPACE [$GEOZARR_KUBE_CONTEXT] [$GEOZARR_IMAGE]"'
    tools.put("geozarr-nb", shown, tools.venv / "bin")
    assert tools.make(target).stdout == "argo argo [] []\n"
    assert tools.make(target, "NAMESPACE=team", "CONTEXT=c").stdout == "argo team [c] []\n"
    assert tools.make(target, GEOZARR_KUBE_CONTEXT="d").stdout == "argo argo [d] []\n"
    if target != "status":
        assert tools.make(target, "IMAGE=a:1").stdout == "argo argo [] [a:1]\n"


@pytest.mark.parametrize("target", ["submit", "status", "doctor"])
def test_the_sdks_own_error_is_what_is_said(tools: Tools, target: str) -> None:
    tools.put("geozarr-nb", 'echo "error [cluster-unreachable]: no cluster" >&2; exit 8', tools.venv / "bin")
    assert remedy(tools.make(target)) == "error [cluster-unreachable]: no cluster"


# argo-install

ARGO = """case "$*" in
  *"get deployments"*) echo '{deployments}';;
  *"get deployment/"*) echo 'quay.io/argoproj/workflow-controller:{version}';;
  *rollout*) {rollout};;
  *--filename\\ -*) cat >/dev/null;;
  *--filename\\ *) cat "${{*##* --filename }}" >>"$HOME/applied";;
esac"""


def argo(tools: Tools, deployments: str = "", version: str = "v3.6.5", rollout: str = "true") -> Path:
    """Put a kubectl that has such an Argo, and return a release's manifest."""
    tools.put("kubectl", ARGO.format(deployments=deployments, version=version, rollout=rollout))
    manifest = tools.bin.parent / "install.yaml"
    manifest.write_text("subjects:\n- namespace: argo\nimage: quay.io/argoproj/workflow-controller:v3.6.5\n")
    return manifest


def test_argo_is_applied_server_side_waited_for_and_verified(tools: Tools) -> None:
    manifest = argo(tools)
    run = tools.make("argo-install", f"ARGO_MANIFEST={manifest}")
    assert run.returncode == 0, run.stderr
    assert run.stdout == "Argo Workflows v3.6.5 is ready in namespace argo\n"
    assert all("--server-side" in call for call in tools.calls if " apply " in call)
    waited = [call for call in tools.calls if "condition=Established" in call]
    assert [name for name in ("workflows", "workflowtemplates", "workflowtaskresults") if f"crd/{name}." in str(waited)]
    assert any("rollout status deployment/workflow-controller" in call for call in tools.calls)


def test_argo_in_another_namespace(tools: Tools) -> None:
    manifest = argo(tools)
    assert tools.make("argo-install", f"ARGO_MANIFEST={manifest}", "ARGO_NAMESPACE=flows").returncode == 0
    assert "namespace: flows" in (tools.bin.parent / "applied").read_text()
    assert "namespace: argo\n" in manifest.read_text(), "the given file is left as it is"


def test_a_second_argo_that_watches_everything_is_refused(tools: Tools) -> None:
    manifest = argo(tools, 'flows quay.io/argoproj/workflow-controller:v3.6.5 ["--loglevel", "debug"]')
    said = remedy(tools.make("argo-install", f"ARGO_MANIFEST={manifest}"))
    assert "make argo-install ARGO_NAMESPACE=flows" in said
    assert not [call for call in tools.calls if " apply " in call], "nothing was changed"


def test_a_controller_of_one_namespace_stands_in_nobodys_way(tools: Tools) -> None:
    manifest = argo(tools, 'team quay.io/argoproj/workflow-controller:v3.6.5 ["--namespaced"]')
    assert tools.make("argo-install", f"ARGO_MANIFEST={manifest}").returncode == 0


def test_without_the_right_to_see_what_is_there_nothing_is_installed(tools: Tools) -> None:
    tools.put("kubectl", 'case "$*" in *"get deployments"*) echo "Error: forbidden" >&2; exit 1;; esac')
    assert "ask whoever runs the cluster" in remedy(tools.make("argo-install", "ARGO_MANIFEST=params.json"))


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("none.yaml", "there is no file none.yaml"),
        ("params.json", "params.json is not Argo v3.6.5"),
        ("http://127.0.0.1:9/install.yaml", "curl is not installed"),
    ],
)
def test_a_manifest_that_cannot_be_used(tools: Tools, manifest: str, words: str) -> None:
    argo(tools)
    assert words in remedy(tools.make("argo-install", f"ARGO_MANIFEST={manifest}"))
    assert not [call for call in tools.calls if " apply " in call]


def test_a_network_that_is_closed(tools: Tools) -> None:
    argo(tools)
    tools.put("curl", "exit 6")
    assert "make argo-install ARGO_MANIFEST=install.yaml" in remedy(tools.make("argo-install"))
    assert default("ARGO_MANIFEST").replace("$(ARGO_VERSION)", "v3.6.5") in tools.calls[-1]


def test_a_controller_that_does_not_start(tools: Tools) -> None:
    manifest = argo(tools, rollout="exit 1")
    said = remedy(tools.make("argo-install", f"ARGO_MANIFEST={manifest}", "ARGO_TIMEOUT=3s"))
    assert "did not start within 3s: kubectl -n argo describe pods -l app=workflow-controller" in said


def test_a_controller_of_another_version(tools: Tools) -> None:
    manifest = argo(tools, version="v3.5.0")
    assert "is v3.5.0, not v3.6.5" in remedy(tools.make("argo-install", f"ARGO_MANIFEST={manifest}"))


# cluster-gc

NODES = """case "$*" in
  *role=server*) echo 1234;;
  *"crictl images"*) printf '%s\\n' "IMAGE TAG IMAGE-ID SIZE" "eopf-geozarr dev aaa 1" "eopf-geozarr <none> bbb 1";;
  *df*) printf 'Filesystem Size Used Avail\\n/dev/a 10G 4G 6G\\n';;
esac"""


def test_cluster_gc_removes_what_lost_its_name(tools: Tools) -> None:
    tools.put("kubectl", 'case "$*" in *current-context*) echo k3d-mine;; esac')
    tools.put("docker", NODES)
    run = tools.make("cluster-gc")
    assert run.returncode == 0, run.stderr
    assert "label=k3d.cluster=mine" in str(tools.calls)
    assert [call for call in tools.calls if "rmi" in call] == ["docker exec 1234 crictl rmi bbb"]
    assert "node 1234: 6G free of 10G" in run.stdout


def test_cluster_gc_removes_finished_pods_that_have_their_log_on_the_volume(tools: Tools) -> None:
    tools.put("kubectl", 'case "$*" in *current-context*) echo other;; esac')
    assert tools.make("cluster-gc", "NAMESPACE=team").returncode == 0
    deleted = [call for call in tools.calls if " delete pods " in call]
    assert all(call.startswith("kubectl --namespace team ") for call in deleted)
    assert "status.phase=Succeeded" in deleted[0]
    assert not [call for call in deleted if "Failed" in call and "geozarr-reader" not in call]


@pytest.mark.parametrize(
    ("docker", "words"),
    [(None, "docker is not installed"), ("exit 1", "docker does not answer"), ("", "k3d cluster start mine")],
)
def test_cluster_gc_without_nodes(tools: Tools, docker: str | None, words: str) -> None:
    tools.put("kubectl", 'case "$*" in *current-context*) echo k3d-mine;; esac')
    if docker is not None:
        tools.put("docker", docker)
    assert words in remedy(tools.make("cluster-gc"))
