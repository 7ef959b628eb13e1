"""The doctor of a real cluster; what is wrong with one, and how it is cured, is in test_troubleshooting.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import geozarr_nb as gz
from tests.cluster.support import Namespace

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in namespace.settings.items():
        monkeypatch.setenv(name, value)
    return namespace.settings


def test_a_healthy_cluster(settings: dict[str, str]) -> None:
    diagnosis = gz.doctor()
    assert diagnosis.ok, diagnosis
    # The tests' own template asks for less than the repository's.
    differing = [each.name for each in diagnosis.findings if each.verdict != "ok"]
    assert differing in ([], ["template"]), diagnosis


def test_in_a_shell(settings: dict[str, str]) -> None:
    command = [sys.executable, "-m", "geozarr_nb", "doctor", "--backend", "argo", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)
    assert document["ok"] is True
    assert {"cluster", "controller", "template", "claim", "image", "executor"} <= {
        finding["name"] for finding in document["findings"]
    }


def test_its_exit_code_is_for_scripts(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_NAMESPACE", "there-is-none")
    command = [sys.executable, "-m", "geozarr_nb", "doctor", "--backend", "argo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no namespace there-is-none" in done.stdout
    assert "remedy: kubectl create namespace there-is-none && make template pvc NAMESPACE=there-is-none" in done.stdout


def test_make_targets_on_a_cluster(namespace: Namespace) -> None:
    """Those that only look; what the others do is in test_troubleshooting.py."""
    for target, words in (("status", "job"), ("events", "REASON"), ("pod", "")):
        done = subprocess.run(
            ["make", target, f"NAMESPACE={namespace.name}"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
