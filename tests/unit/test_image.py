"""What the image is made of, read from its files; and the script that builds and loads it, with builders of paper."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
IMAGE = "eopf-geozarr:dev"


def pins(name: str) -> dict[str, str]:
    """Return the version of each package in a file of requirements."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return {canonicalize_name(found[1]): found[2] for found in re.finditer(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)}


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their arguments."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    return [(found[1], " ".join(found[2].split())) for found in re.finditer(r"^([A-Z]+) (.*)$", text, re.MULTILINE)]


def stage(last: int) -> list[tuple[str, str]]:
    """Return one stage's instructions, counted like a list's items."""
    starts = [index for index, (name, _) in enumerate(instructions()) if name == "FROM"]
    return instructions()[slice(starts[last], None if last == -1 else starts[last + 1])]


# -- the pins ---------------------------------------------------------------------------------------------------------


def test_the_image_has_what_the_runner_asks_for() -> None:
    project = tomllib.loads((ROOT / "runner" / "pyproject.toml").read_text())["project"]
    pinned = pins("runner")
    for text in [*project["dependencies"], *project["optional-dependencies"]["convert"]]:
        asked = Requirement(text)
        assert asked.specifier.contains(pinned[canonicalize_name(asked.name)]), text


def test_the_runners_wheel_is_built_with_what_it_asks_for() -> None:
    build = tomllib.loads((ROOT / "runner" / "pyproject.toml").read_text())["build-system"]
    for text in build["requires"]:
        assert Requirement(text).specifier.contains(pins("build")[canonicalize_name(Requirement(text).name)]), text


@pytest.mark.parametrize("name", ["runner", "build"])
def test_what_is_tested_is_what_runs(name: str) -> None:
    tested = pins("dev")
    assert {package: version for package, version in pins(name).items() if tested.get(package) != version} == {}


@pytest.mark.parametrize("name", ["runner", "build"])
def test_every_pin_has_a_hash(name: str) -> None:
    blocks = re.split(r"^(?=\S)", (ROOT / "requirements" / f"{name}.txt").read_text(), flags=re.MULTILINE)
    pinned = [block for block in blocks if block.strip() and not block.startswith("#")]
    assert len(pinned) == len(pins(name))
    assert [block.split()[0] for block in pinned if "--hash=sha256:" not in block] == []


def test_packages_come_from_where_the_builder_gets_them() -> None:
    """No file of the image says where packages or base images are: a mirror works by the builder's own settings."""
    files = [DOCKERFILE, ROOT / "docker" / "install", *(ROOT / "requirements").glob("*.txt")]
    for path in files:
        assert not re.search(r"https?://|-index|find-links|trusted-host", path.read_text().replace("--no-index", "")), (
            path
        )
    base = dict(argument.split("=", 1) for name, argument in instructions() if name == "ARG" and "=" in argument)[
        "BASE"
    ]
    assert base == "python:3.13-slim"
    assert {argument.split()[0] for name, argument in instructions() if name == "FROM"} == {"${BASE}", "dependencies"}


# -- the image --------------------------------------------------------------------------------------------------------


def test_the_last_stage_runs_no_installer_and_no_compiler_of_ours() -> None:
    commands = " ".join(argument for name, argument in stage(-1) if name == "RUN")
    assert not re.search(r"\bpip\b|\bg\+\+|\bgcc\b|binutils|-dev\b", commands)
    # The one thing it may install is what docker/install found rasterio to need.
    assert re.search(r"if \[ -s (\S+/system-packages) \].*<\1 .*rm -rf /var/lib/apt/lists", commands)


def test_the_image_is_an_ordinary_users_and_describes_itself() -> None:
    last = stage(-1)
    assert ("USER", "1000:1000") in last
    labels = " ".join(argument for name, argument in last if name == "LABEL")
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels
    for argument in ("VERSION", "REVISION"):
        assert f'"${{{argument}}}"' in labels
        assert any(name == "ARG" and text.startswith(f"{argument}=") for name, text in last)


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    admitted = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines
    copied = [
        argument.split()[0].rstrip("/")
        for name, argument in instructions()
        if name == "COPY" and "--from" not in argument
    ]
    for path in copied:
        assert (ROOT / path).exists()
        assert any(path == entry or path.startswith(f"{entry}/") for entry in admitted), path
    for entry in admitted:
        assert any(path == entry or path.startswith(f"{entry}/") for path in [*copied, *map(_folder, copied)]), entry
    assert any(fnmatch.fnmatch("runner/tests", line) for line in lines)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


# -- what is taken out of the environment -----------------------------------------------------------------------------

KEPT = (
    "botocore/data/endpoints.json",
    "botocore/data/s3/2006-03-01/service-2.json.gz",
    "botocore/data/sts/2011-06-15/service-2.json.gz",
    "jinja2/tests.py",
    "numpy/testing/__init__.py",
    "numpy-2.0.dist-info/licenses/numpy/_core/include/LICENSE.h",
    "rasterio/proj_data/proj.db",
)
GONE = (
    "botocore/data/ec2/2016-11-15/service-2.json.gz",
    "numpy/_core/include/numpy/ndarrayobject.h",
    "numpy/_core/lib/libnpymath.a",
    "numpy/__init__.pyi",
    "pandas/tests/frame/test_api.py",
    "tornado/test/util.py",
)


@pytest.fixture
def slim() -> Callable[[Path], str]:
    def run(site: Path) -> str:
        command = [sys.executable, str(ROOT / "docker" / "slim.py"), str(site)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr

    return run


def test_only_what_a_conversion_never_uses_is_taken_out(slim: Callable[[Path], str], tmp_path: Path) -> None:
    for name in (*KEPT, *GONE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    said = slim(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(KEPT)
    assert [line.split("MiB  ")[1].split(":")[0] for line in said.splitlines()] == [
        "tests",
        "AWS services",
        "sources of extensions",
        "type stubs",
        "symbols",
    ]


# -- scripts/image ----------------------------------------------------------------------------------------------------


class Desk:
    """A PATH with tools of paper, which write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder / "calls"
        for tool in ("awk", "bash", "dirname", "env", "git", "grep", "mktemp", "rm", "sed", "xargs", "echo"):
            if path := shutil.which(tool):
                (folder / tool).symlink_to(path)

    def put(self, tool: str, script: str = "") -> None:
        """Put a tool there, which does what the lines of shell say."""
        path = self.folder / tool
        path.write_text(f'#!/usr/bin/env bash\necho "{tool} $*" >>"{self.calls_file}"\n{script}\n')
        path.chmod(0o755)

    def image(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        environment = {"PATH": str(self.folder), "HOME": os.environ.get("HOME", "/")}
        command = [str(ROOT / "scripts" / "image"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    @property
    def calls(self) -> list[str]:
        """How the tools were called, looks at their state left out."""
        if not self.calls_file.exists():
            return []
        looks = re.compile(r"\w+ (info|image inspect|inspect|cluster list|get clusters)\b")
        return [call for call in self.calls_file.read_text().splitlines() if not looks.match(call)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize("there", [("docker", "podman", "buildah"), ("podman", "buildah"), ("buildah",)])
def test_the_image_is_built_with_whichever_builder_is_there(desk: Desk, there: tuple[str, ...]) -> None:
    for tool in there:
        desk.put(tool)
    assert desk.image("build", IMAGE, "--build-arg", "BASE=mirror/python:3.13-slim").returncode == 0
    (call,) = desk.calls
    assert call.startswith(f"{there[0]} build --file docker/Dockerfile ")
    version = tomllib.loads((ROOT / "runner" / "pyproject.toml").read_text())["project"]["version"]
    assert f"--build-arg VERSION={version} --build-arg REVISION=" in call
    assert call.endswith(f"--tag {IMAGE} --build-arg BASE=mirror/python:3.13-slim .")


def test_a_builder_that_does_not_answer_is_passed_over(desk: Desk) -> None:
    desk.put("docker", "exit 1")
    desk.put("buildah")
    assert desk.image("build", IMAGE).returncode == 0
    assert [call.split()[0] for call in desk.calls] == ["buildah"]


def test_without_a_builder_the_remedy_is_told(desk: Desk) -> None:
    desk.put("docker", "exit 1")
    done = desk.image("build", IMAGE)
    assert done.returncode == 1
    assert done.stderr == (
        "build: nothing here builds images: docker is installed, but 'docker info' fails; podman is not installed; "
        "buildah is not installed: start docker, or install podman or buildah "
        "('apt install podman', 'dnf install podman', 'brew install podman')\n"
    )


def test_a_build_that_fails_ends_with_a_remedy(desk: Desk) -> None:
    desk.put("podman", '[ "$1" = info ] || { echo "no space left on device" >&2; exit 125; }')
    done = desk.image("build", IMAGE)
    assert done.returncode == 1
    assert "no space left on device" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("where the disk is full, 'podman system prune'")


def test_docker_s_image_is_imported_by_its_name(desk: Desk) -> None:
    desk.put("docker")
    desk.put("k3d", "[ $1 != cluster ] || echo 'geozarr 1/1 0/0 true'")
    assert desk.image("load-k3d", IMAGE, "geozarr").returncode == 0
    assert desk.calls == [f"k3d image import --cluster geozarr {IMAGE}"]


@pytest.mark.parametrize("tool", ["podman", "buildah"])
def test_another_builders_image_is_imported_as_a_file_under_its_own_name(desk: Desk, tool: str) -> None:
    desk.put(tool)
    desk.put("kind", "[ $1 != get ] || echo mine")
    assert desk.image("load-kind", IMAGE, "mine").returncode == 0
    push, load = desk.calls
    archive = push.rpartition("docker-archive:")[2].removesuffix(f":{IMAGE}")
    assert push == f"{tool} push --quiet {IMAGE} docker-archive:{archive}:{IMAGE}"
    assert load == f"kind load image-archive --name mine {archive}"
    assert not Path(archive).parent.exists()


@pytest.mark.parametrize(
    ("kind", "remedy"), [("k3d", "install k3d (https://k3d.io)"), ("kind", "install kind (https://kind.sigs.k8s.io)")]
)
def test_without_the_tool_of_the_cluster_the_remedy_is_told(desk: Desk, kind: str, remedy: str) -> None:
    done = desk.image(f"load-{kind}", IMAGE, "geozarr")
    assert done.returncode == 1
    assert done.stderr.startswith(f"load-{kind}: {kind} is not installed: {remedy}")


def test_a_cluster_that_is_not_there_is_told_with_those_that_are(desk: Desk) -> None:
    desk.put("docker")
    desk.put("k3d", "printf 'geozarr-old 1/1\\nother 1/1\\n'")
    done = desk.image("load-k3d", IMAGE, "geozarr")
    assert done.returncode == 1
    assert done.stderr == (
        "load-k3d: k3d has no cluster geozarr (it has: geozarr-old other): "
        "k3d cluster create geozarr; or name another one: CLUSTER=NAME\n"
    )


def test_clusters_that_cannot_be_listed_are_an_error_of_their_own(desk: Desk) -> None:
    desk.put("k3d", "echo 'cannot connect to docker' >&2; exit 1")
    done = desk.image("load-k3d", IMAGE, "geozarr")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "cannot connect to docker",
        "load-k3d: k3d cannot list its clusters: its own words are above: start docker, then 'k3d cluster list'",
    ]


def test_an_image_that_was_not_built_is_told_with_how_to_build_it(desk: Desk) -> None:
    desk.put("docker", "[ $1 != image ]")
    desk.put("k3d", "echo geozarr")
    done = desk.image("load-k3d", "mine:1", "geozarr")
    assert done.returncode == 1
    assert done.stderr == "load-k3d: docker has no image mine:1: make build IMAGE=mine:1\n"


def test_k3d_makes_a_cluster_or_starts_the_one_that_is_there(desk: Desk) -> None:
    desk.put("k3d")
    assert desk.image("k3d", "mine", "v5.0.0").returncode == 0
    assert desk.calls == ["k3d cluster create mine --wait"]
    desk.put("k3d", "[ $2 != list ] || echo 'mine 1/1 0/0 true'")
    assert desk.image("k3d", "mine", "v5.0.0").returncode == 0
    assert desk.calls[1:] == ["k3d cluster start mine --wait"]


def test_k3d_is_fetched_in_that_version_where_it_is_missing(desk: Desk) -> None:
    desk.put("curl", "echo 'echo installed $TAG >&2; exit 1'")
    done = desk.image("k3d", "mine", "v5.0.0")
    assert [call for call in desk.calls if call.endswith("/k3d-io/k3d/v5.0.0/install.sh")]
    assert done.stderr.splitlines()[0] == "installed v5.0.0"
    desk.put("curl", "exit 6")
    assert "k3d is not installed, and could not be had: install k3d (https://k3d.io)" in desk.image(
        "k3d", "mine", "v5.0.0"
    ).stderr  # fmt: skip


def test_make_has_both_with_one_default_each(desk: Desk) -> None:
    def recipe(*arguments: str) -> str:
        make = ["make", "--no-print-directory", "--dry-run", *arguments]
        return subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    assert recipe("build") == f"scripts/image build {IMAGE}"
    assert re.fullmatch(r"scripts/image k3d geozarr v\d+\.\d+\.\d+", recipe("k3d"))
    assert recipe("load-k3d") == f"scripts/image load-k3d {IMAGE} geozarr"
    assert recipe("load-k3d", "IMAGE=a:b", "CLUSTER=c") == "scripts/image load-k3d a:b c"
