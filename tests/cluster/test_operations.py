"""What docs/operations.md says of quotas and of clearing up, done as it is written there."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.support import IMAGE, ClusterPlace, FolderVolume, Namespace, fresh_namespace
from tests.contract.support import until

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
DAY = 24 * 3600

pytestmark = pytest.mark.cluster


def manifest(kind: str, **replaced: str) -> str:
    """Return the page's YAML that has an object of a kind."""
    [found] = [
        each
        for each in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        if f"kind: {kind}" in each
    ]
    for before, after in replaced.items():
        assert before in found
        found = found.replace(before, after)
    return str(found)


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """A namespace of its own: a quota would be felt by others."""
    with fresh_namespace() as made:
        yield made


def test_a_job_runs_within_a_quota_and_one_that_does_not_fit_says_of_what(
    place: ClusterPlace, namespace: Namespace
) -> None:
    namespace.kubectl("apply", "-f", "-", given=manifest("ResourceQuota"))
    assert place.submit("a").wait(timeout=90).status == "Succeeded"
    large = place.submit("b", cpu="9")
    until(lambda: "quota" in large.reason)
    assert "requests.cpu" in large.reason
    large.cancel()
    namespace.kubectl("delete", "-f", "-", given=manifest("ResourceQuota"))


def test_the_reader_pod_gives_way_to_a_job_that_waits_for_its_quota(place: ClusterPlace, namespace: Namespace) -> None:
    """A submission looks at its output through a pod, which stays for the next read."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "one"}, "spec": {"hard": {"pods": "1"}}}
    namespace.kubectl("delete", "pods", "--all", "--grace-period=1")
    namespace.apply(quota)
    try:
        job = place.submit("a", if_exists="skip")
        assert namespace.objects("pods", "-l", "app.kubernetes.io/name=geozarr-reader"), (
            "it is there, and has the quota"
        )
        assert job.wait(timeout=120).status == "Succeeded"
    finally:
        namespace.kubectl("delete", "resourcequota", "one")


def test_what_is_old_is_swept_and_nothing_else(place: ClusterPlace, namespace: Namespace) -> None:
    assert place.submit("new").wait(timeout=90).status == "Succeeded"
    assert isinstance(place.volume, FolderVolume), "the test changes times of files"
    folder = place.volume.root / place.folder
    for name, days in {
        "old.zarr": 91,
        "young.zarr": 89,
        ".killed.zarr.partial": 8,
        ".running.zarr.partial": 6,
    }.items():
        (folder / name / "inside.zarr").mkdir(parents=True)
        for path in (folder / name / "inside.zarr", folder / name):
            os.chown(path, 1000, 1000)
            os.utime(path, (time.time() - days * DAY,) * 2)
    os.utime(folder / "young.zarr" / "inside.zarr", (0, 0))
    beside = ("old.zarr.log.jsonl", "old.zarr.stac.json")
    for name in beside:
        (folder / name).touch()
        os.utime(folder / name, (0, 0))

    namespace.kubectl("apply", "-f", "-", given=manifest("CronJob", **{"eopf-geozarr:dev": IMAGE}))
    namespace.kubectl("create", "job", "sweep", "--from=cronjob/geozarr-sweep")
    namespace.kubectl("wait", "--for=condition=Complete", "job/sweep", "--timeout=60s", seconds=70)
    said = namespace.kubectl("logs", "job/sweep").split()
    gone = ("old.zarr", ".killed.zarr.partial", *beside)
    assert sorted(said) == sorted(f"/data/{place.folder}/{name}" for name in gone)
    new = {"new.zarr", "new.zarr.log.jsonl", "new.zarr.stac.json"}
    assert set(place.files()) == {*new, "young.zarr", ".running.zarr.partial"}
    assert (folder / "young.zarr" / "inside.zarr").is_dir()
    assert json.loads(place.volume.text(f"{place.path('new')}/zarr.json"))["node_type"] == "group"


def test_a_volume_whose_owner_is_nobody_says_which_user_lacks_what(place: ClusterPlace) -> None:
    """As one of a server of NFS that takes root for nobody: who made the claim cannot give its folder away."""
    root = getattr(place.volume, "root", None)
    if root is None:
        pytest.skip("the volumes are on another machine")
    before = root.stat()
    os.chown(root, 65534, 65534)
    root.chmod(0o755)
    try:
        job = place.submit("nobody/a").wait(timeout=120)
    finally:
        os.chown(root, before.st_uid, before.st_gid)
        root.chmod(before.st_mode & 0o7777)
    assert job.state.failure is not None
    assert job.state.failure.code == "storage-denied"
    assert "given to user 1000 (group 1000)" in job.state.failure.remedy
    assert place.submit("nobody/a").wait(timeout=120).status == "Succeeded"
