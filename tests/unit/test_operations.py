"""What docs/operations.md says agrees with manifests, chart, Makefile and the measured figures."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
TARGETS = set(" ".join(re.findall(r"^([a-z0-9 -]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)).split())


def part(heading: str) -> str:
    [found] = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
    return str(found)


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table below its head."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def test_every_value_that_is_named_is_one_of_the_charts() -> None:
    values: dict[str, Any] = yaml.safe_load((ROOT / "charts" / "geozarr" / "values.yaml").read_text())
    named = set(re.findall(r"\b((?:job|claim|rbac)\.[A-Za-z]+)\b", PAGE)) | {"parallelism"}
    assert len(named) > 8
    for name in named:
        first, _, rest = name.partition(".")
        assert first in values, name
        assert not rest or rest in values[first], name


def test_every_target_that_is_named_is_there() -> None:
    named = " ".join(re.findall(r"`make ([a-z0-9 -]+)", PAGE)).split()
    assert {"template", "pvc", "audit"} <= set(named) <= TARGETS


def test_every_permission_is_explained() -> None:
    """Each resource of a role is in the table, with what it is for; the verbs are there where they are few."""
    text = "\n".join(" ".join(row) for row in rows(part("Who may do what")))
    documents = yaml.safe_load_all((ROOT / "workflows" / "rbac.yaml").read_text())
    for role in (one for one in documents if one["kind"] == "Role"):
        assert f"`{role['metadata']['name']}`" in text
        for rule in role["rules"]:
            for resource in rule["resources"]:
                assert f"`{resource}`" in text, resource


def test_what_kubernetes_is_given_is_yaml() -> None:
    found = [
        one["kind"]
        for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
        for one in yaml.safe_load_all(block)
    ]
    assert found == ["ResourceQuota", "LimitRange", "CronJob", "ConfigMap"]


def test_only_what_is_old_is_swept(tmp_path: Path) -> None:
    """The command of the page, on files of this machine."""
    [block] = [each for each in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) if "CronJob" in each]
    [container] = yaml.safe_load(block)["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    days = {
        "old.zarr": 91,
        "old.zarr.log.jsonl": 91,
        "old.zarr.stac.json": 91,
        "old.zarr.tar.gz": 91,
        "old.zarr.tar.gz.sha256": 91,
        "team/old.zarr": 91,
        ".killed.zarr.partial": 8,
        "young.zarr": 89,
        "young.zarr.log.jsonl": 89,
        ".running.zarr.partial": 6,
        "notes.txt": 400,
    }
    for name, age in days.items():
        inside = tmp_path / name / "old.zarr"
        inside.mkdir(parents=True)
        for path, old in ((inside, 400), (inside.parent, age)):
            os.utime(path, (time.time() - old * 24 * 3600,) * 2)
    command = [tmp_path if each == "/data" else each for each in [*container["command"], *container["args"]]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    gone = {name for name in days if not (tmp_path / name).exists()}
    beside = {f"old.zarr.{ending}" for ending in ("log.jsonl", "stac.json", "tar.gz", "tar.gz.sha256")}
    assert gone == {"old.zarr", *beside, "team/old.zarr", ".killed.zarr.partial"}
    assert {str(Path(line).relative_to(tmp_path)) for line in done.stdout.splitlines()} >= gone
    assert (tmp_path / "young.zarr" / "old.zarr").is_dir()
