"""`make e2e`: the cluster that it makes is deleted whatever happens on it. Docker, k3d and kind are scripts here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASICS = ("awk", "bash", "cat", "dirname", "env", "false", "git", "grep", "mktemp", "rm", "sed", "xargs")


class Machine:
    """A PATH of its own, whose tools write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.bin, self._calls = folder / "bin", folder / "calls"
        self.bin.mkdir()
        for name in BASICS:
            if found := shutil.which(name):
                (self.bin / name).symlink_to(found)
        for name in ("docker", "make", "python"):
            self.put(name)

    def put(self, tool: str, script: str = "") -> None:
        path = self.bin / tool
        path.write_text(f'#!/usr/bin/env bash\necho "{tool} $* in ${{KUBECONFIG:-}}" >>"{self._calls}"\n{script}\n')
        path.chmod(0o755)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        given = {"PYTHON": str(self.bin / "python"), "IMAGE": "eopf-geozarr:dev", "HOME": os.environ.get("HOME", "/")}
        command = [str(ROOT / "scripts" / "e2e"), *arguments]
        environ = {"PATH": str(self.bin), **given, **variables}
        return subprocess.run(command, capture_output=True, text=True, env=environ, check=False)

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def with_clusters(self, tool: str) -> None:
        self.put(tool, 'case "$*" in *list*|*"get clusters"*) echo geozarr-e2e;; esac')


MAKE = {"k3d": "k3d cluster create geozarr-e2e", "kind": "kind create cluster --name geozarr-e2e"}
DELETE = {"k3d": "k3d cluster delete geozarr-e2e", "kind": "kind delete cluster --name geozarr-e2e"}


@pytest.mark.parametrize("tool", DELETE)
@pytest.mark.parametrize("code", [0, 1])
def test_the_tests_run_on_a_cluster_of_their_own_which_is_deleted(tool: str, code: int, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.with_clusters(tool)
    machine.put("python", f"exit {code}")
    done = machine.run()
    assert done.returncode == code, done.stderr
    places = [
        next(number for number, call in enumerate(machine.calls) if call.startswith(words))
        for words in (MAKE[tool], "make argo-install template pvc", "python -m pytest")
    ]
    assert places == sorted(places)
    assert machine.calls[-1].startswith(DELETE[tool])
    [used] = {call.partition(" in ")[2] for call in machine.calls[places[0] + 1 :]}
    assert used.endswith("/kubeconfig"), "the person's own cluster is not touched"


def test_it_can_be_kept(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.with_clusters("kind")
    done = machine.run("kind", KEEP="1")
    assert "export KUBECONFIG=" in done.stdout
    assert not machine.calls[-1].startswith(DELETE["kind"])


@pytest.mark.parametrize(
    ("given", "there", "words"),
    [
        ((), (), "neither k3d nor kind is installed"),
        (("kind",), ("k3d",), "kind is not installed"),
        (("minikube",), ("k3d",), "make e2e ON=k3d, or ON=kind"),
    ],
)
def test_what_is_missing_is_told(given: tuple[str, ...], there: tuple[str, ...], words: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for tool in there:
        machine.put(tool)
    done = machine.run(*given)
    assert done.returncode != 0
    assert words in done.stderr
    assert machine.calls == []


def test_without_docker(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.put("k3d")
    (machine.bin / "docker").unlink()
    assert "docker is not installed" in machine.run().stderr
