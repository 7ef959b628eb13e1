"""The image where it runs: an ordinary user on a read-only root, with all that a conversion needs and little else."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml

from benchmarks.server import ProductServer
from geozarr_nb.samples.products import sample_product
from tests.cluster.support import IMAGE, WORKFLOWS, Namespace, node_address
from tests.s3_server import s3_server

pytestmark = pytest.mark.cluster

POD = "image-under-test"
MOST_MIB = 190
PINS = Path(__file__).parents[2] / "requirements" / "runner.txt"
IDLE = "trap exit TERM; sleep infinity & wait"

# Run in the image; each prints one Python literal.
STALE = """
import glob, importlib.util, os, struct
UNCHECKED_HASH = 1
def kind(path):
    cached = importlib.util.cache_from_source(path)
    if not os.path.exists(cached):
        return None
    return struct.unpack("<4sI", open(cached, "rb").read(8))[1]
sources = glob.glob("/opt/venv/lib/python3.*/**/*.py", recursive=True)
print([len(sources), [path for path in sources if kind(path) != UNCHECKED_HASH]])
"""
UNCACHED = """
import importlib.util, os, sys
import distributed, eopf_geozarr.cli, geozarr_runner.cli, geozarr_runner.run, rasterio.warp, s3fs
specs = [m.__spec__ for m in list(sys.modules.values()) if getattr(m, "__spec__", None)]
sources = [spec.origin for spec in specs if (spec.origin or "").endswith(".py")]
print([path for path in sources if not os.path.exists(importlib.util.cache_from_source(path))])
"""
VERSIONS = """
from importlib.metadata import distributions
print({d.metadata["Name"]: d.version for d in distributions()})
"""
LOST_LICENCES = """
from importlib.metadata import distributions
print([
    f"{d.metadata['Name']}: {name}"
    for d in distributions()
    for name in d.metadata.get_all("License-File") or ()
    if not any(str(file).endswith(name) and file.locate().exists() for file in d.files)
])
"""
UNLOADABLE = """
import ctypes, glob
import numpy
bad = []
paths = glob.glob("/opt/venv/lib/python3.*/site-packages/**/*.so*", recursive=True)
for path in paths:
    try:
        ctypes.CDLL(path)
    except OSError as error:
        bad.append(str(error))
print([len(paths), bad])
"""


@dataclass(frozen=True)
class Box:
    """A container of the image, as the template would run it."""

    namespace: Namespace

    def run(self, *command: str, seconds: float = 60) -> str:
        """Return what a command in the container prints."""
        return self.namespace.kubectl("exec", POD, "--", *command, seconds=seconds)

    def bash(self, script: str, *arguments: str, seconds: float = 60) -> str:
        """Return what a script in the container prints."""
        return self.run("/bin/bash", "-c", script, "bash", *arguments, seconds=seconds).strip()

    def python(self, code: str) -> Any:
        """Return the literal that code in the container prints."""
        return ast.literal_eval(self.run("python", "-W", "ignore", "-c", code).splitlines()[-1])

    def convert(self, *arguments: str, **environment: str) -> dict[str, Any]:
        """Convert a product in the container; returns the last event."""
        variables = [f"{name}={value}" for name, value in environment.items()]
        said = self.run("env", *variables, "geozarr-runner", "convert", *arguments, seconds=120)
        return dict(json.loads(said.splitlines()[-1]))


@pytest.fixture(scope="module")
def box(namespace: Namespace) -> Iterator[Box]:
    template = yaml.safe_load((WORKFLOWS / "geozarr-convert-template.yaml").read_text())["spec"]
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/bash", "-c", IDLE],
        "workingDir": "/data",
        "env": [{"name": "HOME", "value": "/scratch"}, {"name": "TMPDIR", "value": "/scratch"}],
        "securityContext": template["templates"][0]["container"]["securityContext"],
        "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in ("data", "scratch")],
    }
    spec = {
        "containers": [container],
        "volumes": [{"name": name, "emptyDir": {}} for name in ("data", "scratch")],
        "securityContext": template["securityContext"],
        "automountServiceAccountToken": False,
    }
    namespace.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD}, "spec": spec})
    namespace.kubectl("wait", "--for=condition=Ready", f"pod/{POD}", "--timeout=60s", seconds=70)
    yield Box(namespace)
    namespace.kubectl("delete", "pod", POD, "--grace-period=1")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A Sentinel-3 product in a bucket that pods reach, and the setting that leads there."""
    sample = sample_product(tmp_path_factory.mktemp("bucket") / "s3.zarr", size=240, kind="s3-olci")
    with s3_server(node_address()) as options:
        s3 = fsspec.filesystem("s3", **options)
        s3.mkdir("products")
        s3.put(str(sample), "products/s3.zarr", recursive=True)
        yield "s3://products/s3.zarr", json.dumps(options)


def test_its_commands_are_on_the_path_of_an_ordinary_user(box: Box) -> None:
    assert box.bash("id -u; id -g; pwd").split() == ["1000", "1000", "/data"]
    assert box.run("geozarr-runner", "--version").startswith("geozarr-runner ")
    assert "convert-s2-optimized" in box.run("eopf-geozarr", "--help")
    assert box.bash("type -P bash") in ("/bin/bash", "/usr/bin/bash")


def test_nothing_outside_its_volumes_can_be_written(box: Box) -> None:
    tried = "for d in / /opt/venv /usr/local /tmp /etc /data /scratch; do (: >$d/x) 2>/dev/null && echo $d; done; true"
    assert box.bash(tried).split() == ["/data", "/scratch"]


def test_nothing_in_it_gives_rights_or_is_everybodys_to_change(box: Box) -> None:
    """Folders that only root may enter hide nothing that this user could run."""
    seen = "find / -xdev -type f -perm -0004 2>/dev/null | wc -l"
    assert int(box.bash(seen)) > 2_000
    gives_rights = "find / -xdev -type f -perm /6000 2>/dev/null; true"
    assert box.bash(gives_rights) == ""
    of_the_pod = "-path /data -o -path /scratch"  # volumes
    writable = f"find / -xdev '(' -type f -o -type d -not -perm -1000 ')' -perm -0002 -not '(' {of_the_pod} ')'"
    assert box.bash(f"{writable} 2>/dev/null; true") == ""
    # And what runs is root's, whoever runs it.
    assert box.bash("find /opt /usr -xdev -not -user root 2>/dev/null; true") == ""


def test_no_compiler_installer_cache_or_test_of_ours_is_in_it(box: Box) -> None:
    assert box.bash("type -P gcc cc g++ c++ clang ld strip make hatchling /opt/venv/bin/pip; true") == ""
    assert box.bash("ls /var/lib/apt/lists /var/cache/pip /root/.cache /build 2>/dev/null | grep -v : | xargs") == ""
    leftovers = r"\( -type d -name tests -o -name '*.pyi' -o -name '*.a' -o -name '*.pyx' -o -name '*.h' \)"
    assert box.bash(f"find /opt/venv -not -path '*.dist-info/*' {leftovers}") == ""


def test_it_holds_the_pinned_versions_and_their_licences(box: Box) -> None:
    markers = re.findall(r"^([\w.-]+)==(\S+)( ;.*)?", PINS.read_text(), flags=re.MULTILINE)
    pinned = {_canonical(name): version for name, version, marker in markers if not marker}
    there = {_canonical(name): version for name, version in box.python(VERSIONS).items()}
    there.pop("geozarr-runner")
    assert there == pinned
    assert box.python(LOST_LICENCES) == []
    assert "Apache License" in box.bash("cat /usr/share/doc/geozarr-runner/LICENSE")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_all_bytecode_is_there_and_never_compared_with_its_source(box: Box) -> None:
    count, stale = box.python(STALE)
    assert count > 1000
    assert stale == []
    assert box.python(UNCACHED) == []


def test_every_shared_object_still_loads(box: Box) -> None:
    count, bad = box.python(UNLOADABLE)
    assert count > 100
    assert bad == []


def test_it_is_small(box: Box) -> None:
    """Packed again as a whole, quickly rather than well, since a node may keep its layers in any form."""
    packed = int(box.bash("tar -C / --one-file-system -cf - . 2>/dev/null | gzip -1 | wc -c", seconds=120))
    assert packed < MOST_MIB * 2**20


def test_a_radar_scene_is_converted_from_a_web_server(
    box: Box, product_server: ProductServer, served: Path, tmp_path: Path
) -> None:
    scene = sample_product(tmp_path / "s1.zarr", size=400, kind="s1-grd")
    event = box.convert(f"{product_server.url}/{scene.relative_to(served)}", "/data/s1.zarr", "--scratch=/scratch")
    assert event["type"] == "result"
    assert event["bytes_written"] > 0


def test_an_ocean_scene_is_converted_from_a_bucket(box: Box, bucket: tuple[str, str]) -> None:
    product, options = bucket
    event = box.convert(product, "/data/s3.zarr", "--scratch=/scratch", FSSPEC_S3=options)
    assert event["type"] == "result"
    assert event["bytes_written"] > 0


def test_a_tile_is_converted_by_dask_workers(
    box: Box, product_server: ProductServer, sample: Path, served: Path
) -> None:
    product = f"{product_server.url}/{sample.relative_to(served)}"
    group = "measurements/reflectance/r60m"
    event = box.convert(product, "/data/s2.zarr", "--scratch=/scratch", f"--groups={group}", "--dask-cluster")
    assert event["type"] == "result"
    assert event["groups"] == [f"/{group}"]


def test_a_refused_run_says_so_by_its_exit_code(box: Box) -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        box.convert("/data/nothing.zarr", "/data/out.zarr")
    assert raised.value.returncode == 3
