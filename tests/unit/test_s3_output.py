"""Jobs of this machine whose output lies in an object store: the same calls as for a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import s3fs

import geozarr_nb as gz
from geozarr_nb.cluster import manifests
from geozarr_nb.errors import ConversionFailed, InvalidRequest, OutputExists, StorageDenied, StorageFailed
from geozarr_nb.request import request_for
from geozarr_nb.settings import Settings
from geozarr_runner.inspection.reader import open_product
from tests.s3_proxy import s3_proxy
from tests.unit.api_server import ApiServer, refuses, says
from tests.unit.conftest import Options

R60M = "/measurements/reflectance/r60m"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for everything that is written on this machine."""
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    gz.list_jobs("local").cancel()


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_from_the_product_to_a_picture(sample: Path, bucket: str, s3_options: Options, place: Path) -> None:
    job = gz.convert(sample, f"{bucket}/out//r60m.zarr/", groups=[R60M], progress=False)
    assert job.output == f"{bucket}/out/r60m.zarr"
    assert job.result is not None
    assert job.result["path"] == job.output
    with job.open() as tree, gz.open(job.output, level="coarsest") as small:
        assert R60M in tree.groups
        assert float(tree[f"{R60M}/b02"].mean()) > 0
        assert small.groups
    assert gz.preview(job).size
    assert gz.preview(job.output).size
    assert job.output in repr(job)
    # The log of a job is in its own folder; what it leaves in the store is the output alone, and what belongs to it.
    keys = s3fs.S3FileSystem(**s3_options, use_listings_cache=False).find(bucket)
    beside = {key.partition("/")[2] for key in keys if "/r60m.zarr/" not in key}
    assert beside == {"out/r60m.zarr.manifest.json", "out/r60m.zarr.stac.json"}
    assert job.logs()
    assert left_in(place / "scratch") == []

    with pytest.raises(OutputExists, match="the output exists"):
        gz.submit(sample, job.output, groups=[R60M])
    again = gz.submit(sample, job.output, groups=[R60M], if_exists="skip")
    assert (again.name, again.state.attempt) == (job.name, 1)
    with pytest.raises(OutputExists, match="another request"):
        gz.submit(sample, job.output, groups=["/measurements/reflectance/r20m"], if_exists="skip")
    replaced = gz.convert(sample, job.output, groups=[R60M], if_exists="overwrite", progress=False)
    assert (replaced.name, replaced.state.attempt) == (job.name, 2)


def test_from_a_shell(sample: Path, bucket: str) -> None:
    command = [sys.executable, "-m", "geozarr_nb"]
    output = f"{bucket}/r60m.zarr"
    made = subprocess.run(
        [*command, "convert", str(sample), output, "--groups", R60M, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(made.stdout)["output"] == output
    shown = subprocess.run([*command, "open", output, "--json"], capture_output=True, text=True, check=True)
    assert R60M in json.loads(shown.stdout)["groups"]
    refused = subprocess.run(
        [*command, "convert", str(sample), output, "--groups", R60M], capture_output=True, text=True
    )
    assert (refused.returncode, "output-exists" in refused.stderr) == (2, True)
    assert "not-a-secret" not in made.stdout + made.stderr + refused.stderr


def test_what_can_not_be_written_is_refused_at_once(sample: Path, bucket: str, s3_options: Options) -> None:
    with pytest.raises(StorageFailed, match="no such bucket"):
        gz.submit(sample, "s3://no-such-bucket/a.zarr", groups=[R60M])
    s3fs.S3FileSystem(**s3_options).pipe_file(f"{bucket}/a.zarr/mine", b"")
    with pytest.raises(OutputExists, match="not be touched"):
        gz.submit(sample, f"{bucket}/a.zarr", groups=[R60M], if_exists="overwrite")
    assert len(gz.list_jobs()) == 0


def test_without_the_right_to_read_it_is_denied_at_once(
    sample: Path, bucket: str, s3_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_proxy(s3_options) as (options, proxy):
        monkeypatch.setitem(fsspec.config.conf, "s3", options)
        proxy.refuse = lambda method, path: (403, "AccessDenied")
        with pytest.raises(StorageDenied, match="refuses") as caught:
            gz.submit(sample, f"{bucket}/a.zarr", groups=[R60M])
    assert "AWS_*" in caught.value.remedy


def test_a_job_that_was_killed_is_run_again(
    sample: Path, bucket: str, s3_options: Options, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is left on this machine, and what it left in the store is no output for anybody."""
    with s3_proxy(s3_options) as (options, proxy):
        monkeypatch.setenv("FSSPEC_S3", json.dumps(options))
        proxy.holds = lambda method, path: method == "PUT" and path.endswith("/c/0/0")
        job = gz.submit(sample, f"{bucket}/a.zarr", groups=[R60M])
        assert proxy.held.acquire(timeout=600)
        assert job.stage == "publish"
        with pytest.raises(InvalidRequest, match="was interrupted"):
            gz.open(job.output)
        _kill(place / "state" / "jobs" / job.name)
        with pytest.raises(ConversionFailed):
            job.wait(timeout=20).raise_for_status()
        assert left_in(place / "scratch") == []
        proxy.holds = lambda method, path: False
        proxy.go_on.set()
        job.retry().wait(timeout=600).raise_for_status()
    job.open().close()


def _kill(folder: Path) -> None:
    import psutil

    psutil.Process(json.loads((folder / "claim.json").read_text())["pid"]).kill()


def test_equal_outputs_are_one_request_however_they_are_spelled(sample: Path) -> None:
    product = open_product(sample)
    requests = [
        request_for(product, f"{text}", groups=[R60M], settings=Settings())
        for text in ("s3a://b/a.zarr", "s3://b//a.zarr/")
    ]
    assert requests[0] == requests[1]
    assert requests[0].output == "s3://b/a.zarr"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster that has what jobs need."""
    with ApiServer().running() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        monkeypatch.setenv("GEOZARR_BACKEND", "argo")
        server.on("GET /apis/argoproj.io/v1alpha1/namespaces/argo/workflowtemplates/", says(manifests.template()))
        server.on("GET /api/v1/namespaces/argo/persistentvolumeclaims/", says({"metadata": {"name": "geozarr-pvc"}}))
        server.on("GET /api/v1/nodes", refuses(403, "nodes is forbidden", "Forbidden"))
        yield


@pytest.mark.usefixtures("cluster")
def test_what_a_cluster_is_asked_for_is_looked_at_from_here(
    sample: Path, bucket: str, s3_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this machine may; what it may not, the job's pod may."""
    s3 = s3fs.S3FileSystem(**s3_options)
    s3.put(str(sample), f"{bucket}/in.zarr", recursive=True)
    product = gz.inspect(f"{bucket}/in.zarr")
    assert gz.check(product, f"{bucket}/out/a.zarr/", groups=[R60M]).output == f"{bucket}/out/a.zarr"
    s3.pipe_file(f"{bucket}/out/a.zarr/zarr.json", b'{"zarr_format": 3, "node_type": "group"}')
    for if_exists in ("error", "skip"):
        with pytest.raises(OutputExists):
            gz.check(product, f"{bucket}/out/a.zarr", groups=[R60M], if_exists=if_exists)  # type: ignore[arg-type]
    gz.check(product, f"{bucket}/out/a.zarr", groups=[R60M], if_exists="overwrite")
    with s3_proxy(s3_options) as (options, proxy):
        monkeypatch.setitem(fsspec.config.conf, "s3", options)
        proxy.refuse = lambda method, path: (403, "AccessDenied")
        gz.check(product, f"{bucket}/out/a.zarr", groups=[R60M])
