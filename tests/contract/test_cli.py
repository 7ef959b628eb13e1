"""The command line, as a shell sees it: what it prints where, and the exit code it ends with."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from geozarr_runner.errors import ExitCode
from tests.contract.support import GROUP, Place
from tests.places import empty, make_place

COMMAND = [sys.executable, "-m", "geozarr_nb"]


@dataclass(frozen=True)
class Shell:
    """A working directory, and a place for the jobs that are submitted from it."""

    place: Place
    environ: dict[str, str]

    @property
    def folder(self) -> Path:
        return self.place.scratch

    @property
    def source(self) -> str:
        """The sample product, as one would type it here."""
        return self.place.sample.removeprefix(f"{self.folder}/")

    def output(self, name: str) -> str:
        """Return an output, as one would type it here."""
        return self.place.output(name).removeprefix(f"{self.folder}/")

    def run(self, *arguments: str, code: int = ExitCode.SUCCESS) -> subprocess.CompletedProcess[str]:
        """Run one command, and see that it ends as expected and never with a traceback."""
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == code, done.stderr + done.stdout
        assert "Traceback" not in done.stderr + done.stdout
        return done

    def json(self, *arguments: str, code: int = ExitCode.SUCCESS) -> Any:
        """Run one command with --json, and return what it prints."""
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start one command."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def job_of(self, output: str, *statuses: str) -> str:
        """Wait until the job of an output has one of these statuses, and return its name."""
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            for job in self.json("jobs"):
                if job["output"].endswith(output) and job["status"] in statuses:
                    return str(job["name"])
        raise AssertionError(f"no job of {output} is {' or '.join(statuses)}: {self.json('jobs')}")


@pytest.fixture(scope="module")
def desk(request: pytest.FixtureRequest, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell for what has nothing to do with any backend."""
    return open_shell(make_place(request, "local", tmp_path_factory.mktemp("desk"), None), sample)


@pytest.fixture(scope="module")
def shell(
    request: pytest.FixtureRequest, backend: str, sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    """A shell for jobs of the backend under test."""
    made = open_shell(make_place(request, backend, tmp_path_factory.mktemp("shell"), None), sample)
    yield made
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.place.settings.items():
            patch.setenv(name, value)
        empty(made.place)


def open_shell(place: Place, sample: Path) -> Shell:
    (place.scratch / "s2.zarr").symlink_to(sample)
    place = replace(place, sample=place.product(place.scratch / "s2.zarr"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GEOZARR_", "ARGO_"))}
    return Shell(place, {**kept, **place.settings})


@pytest.fixture(scope="module")
def converted(shell: Shell) -> str:
    """Name of the job of the output `out`, which has succeeded."""
    done = shell.run("convert", shell.source, shell.output("out"), "--groups", GROUP)
    assert "publish" in done.stderr + done.stdout
    assert "geozarr-nb preview" in done.stdout
    assert "gz.open(" in done.stdout
    return shell.job_of("/out.zarr", "Succeeded")


def test_script_and_module_are_the_same_command(desk: Shell) -> None:
    script = Path(sysconfig.get_path("scripts")) / "geozarr-nb"
    said = subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"geozarr-nb \d+\.\d+\.\d+\n", said)
    assert desk.run("--version").stdout == said


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["--version"]])
def test_help_is_quick_to_come(arguments: list[str]) -> None:
    heavy = "{'xarray', 'zarr', 'numpy', 'rich', 'fsspec', 'eopf_geozarr'}"
    code = f"""
import sys
from geozarr_nb.cli import main
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code
assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "geozarr-nb" in done.stdout
    if "--help" in arguments:
        assert "example" in done.stdout
        assert "exit codes:" in done.stdout


def test_inspect(desk: Shell) -> None:
    assert GROUP in desk.run("inspect", "s2.zarr").stdout
    document = desk.json("inspect", "s2.zarr")
    assert document["kind"] == "Sentinel-2 L2A"
    assert document["groups"][GROUP]["shape"] == [60, 60]


@pytest.mark.parametrize("separator", [None, ",", ", "])
def test_validate_takes_groups_in_every_form(desk: Shell, separator: str | None) -> None:
    wanted = [GROUP.removesuffix("m"), "/x"]
    groups = [separator.join(wanted)] if separator else wanted
    report = desk.json("validate", "s2.zarr", "--groups", *groups, code=ExitCode.BAD_REQUEST)
    assert report["missing"] == wanted
    assert GROUP in report["suggestions"][wanted[0]]
    text = desk.run("validate", "s2.zarr", "--groups", *groups, code=ExitCode.BAD_REQUEST).stdout
    assert f"Missing: {wanted[0]}, /x" in text


def test_validate_what_is_there(desk: Shell) -> None:
    assert desk.json("validate", "s2.zarr", "--groups", GROUP)["ok"] is True
    assert desk.json("validate", "s2.zarr", "--groups", "0")["wanted"] == []


def test_estimate(desk: Shell) -> None:
    estimate = desk.json("estimate", "s2.zarr", "--groups", GROUP)
    assert estimate["groups"] == [GROUP]
    assert 0 < estimate["download_bytes"] < estimate["output_bytes"]
    assert "output: about" in desk.run("estimate", "s2.zarr").stdout


def test_jobs(shell: Shell, converted: str) -> None:
    job = next(job for job in shell.json("jobs") if job["name"] == converted)
    assert (job["status"], job["groups"], job["error"]) == ("Succeeded", [GROUP], None)
    assert job["result"]["bytes_written"] > 0
    listed = shell.run("jobs", "--status", "Succeeded").stdout
    assert converted in listed
    assert shell.place.output("out") in listed, "nothing is cut off in a pipe"
    assert shell.run("jobs", "--status", "Pending").stdout == "no jobs are Pending\n"


def test_logs(shell: Shell, converted: str) -> None:
    whole = shell.run("logs", converted).stdout.splitlines()
    assert any(line.startswith("  | ") for line in whole), "the converter's own lines are there"
    assert "verified" in whole[-1]
    assert shell.run("logs", "-n", "2", converted).stdout.splitlines() == whole[-2:]
    assert shell.run("logs", "--follow", "--tail", "2", converted).stdout.splitlines() == whole[-2:]


def test_logs_into_a_reader_that_leaves(shell: Shell, converted: str) -> None:
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run(
        [*COMMAND, "logs", converted], cwd=shell.folder, env=shell.environ, stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert (run.returncode, run.stderr) == (ExitCode.SUCCESS, b"")


def test_wait_for_what_has_finished(shell: Shell, converted: str) -> None:
    assert "Succeeded" in shell.run("wait", converted).stderr + shell.run("wait", converted).stdout
    assert shell.json("wait", converted)["status"] == "Succeeded"


def test_output_that_exists(shell: Shell, converted: str) -> None:
    request = ["convert", shell.source, shell.output("out"), "--groups", GROUP]
    refused = shell.run(*request, code=ExitCode.BAD_REQUEST)
    assert refused.stderr.startswith("error [output-exists]: ")
    assert "--if-exists skip" in refused.stderr
    before = shell.place.stamp("out")
    assert shell.json(*request, "--if-exists", "skip")["name"] == converted
    assert "nothing ran now" in shell.run(*request, "--if-exists", "skip").stderr
    assert shell.place.stamp("out") == before


@pytest.mark.parametrize("by", ["path", "job"])
def test_open(shell: Shell, converted: str, by: str) -> None:
    given = shell.output("out") if by == "path" else converted
    text = shell.run("open", given).stdout
    assert f"Group: {GROUP}" in text
    line = text.splitlines()[-1]
    run = subprocess.run(
        [sys.executable, "-c", f"{line}; print(tree.groups)"],
        cwd=shell.folder,
        env=shell.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert GROUP in run.stdout, "the line of Python works as it stands"
    document = shell.json("open", given, "--level", "coarsest")
    assert document["groups"][GROUP]["b04"] == {"y": 60, "x": 60}
    assert document["levels"] == {GROUP: [[60, 60]]}


def test_open_what_is_no_geozarr(desk: Shell) -> None:
    desk.run("open", "s2.zarr", code=ExitCode.BAD_REQUEST)
    assert "/quality/atmosphere/r20m" in desk.run("open", "s2.zarr", "--no-strict").stdout


def test_preview(shell: Shell, converted: str) -> None:
    shell.run(
        "preview", shell.output("out"), "a.png", "--bands", "b8a,b04", "b03", "--size", "90", "--stretch", "1", "99"
    )
    with Image.open(shell.folder / "a.png") as image:
        assert image.size == (90, 90)
    assert "b04" in shell.run("preview", converted).stdout
    assert (shell.folder / "preview.png").exists()


def test_doctor(desk: Shell) -> None:
    assert desk.run("doctor", "s2.zarr").stdout.splitlines()[-1].startswith("ready to convert")
    diagnosis = desk.json("doctor", "none.zarr", code=ExitCode.DEFECT)
    assert diagnosis["ok"] is False


def test_sample(desk: Shell) -> None:
    assert desk.json("sample", "tiny.zarr", "--size", "120")["size"] == 120
    assert "r60m" in desk.run("inspect", "tiny.zarr").stdout
    desk.run("sample", "tiny.zarr", "--size", "120", code=ExitCode.BAD_REQUEST)
    assert "geozarr-nb inspect tiny.zarr" in desk.run("sample", "tiny.zarr", "--size", "120", "--overwrite").stdout


BAD = {
    "no such product": (["inspect", "none.zarr"], "product-not-found", 3),
    "no server": (["inspect", "http://127.0.0.1:9/a.zarr"], "product-unreachable", 3),
    "unknown protocol": (["inspect", "nothing://a/b.zarr"], "product-unreachable", 3),
    "placeholder in params.json": (["convert"], "invalid-request", 2),
    "no group is left": (["convert", "s2.zarr", "a.zarr", "--groups", "r66m"], "groups-missing", 2),
    "one group is missing": (
        ["submit", "s2.zarr", "a.zarr", "--groups", GROUP, "r66m", "--validate-groups", "true"],
        "groups-missing",
        2,
    ),
    "output inside the input": (["submit", "s2.zarr", "s2.zarr/out.zarr", "--groups", GROUP], "invalid-request", 2),
    "unknown backend": (["submit", "s2.zarr", "a.zarr", "--groups", GROUP, "--backend", "moon"], "invalid-request", 2),
    "no such output": (["open", "nothing.zarr"], "invalid-request", 2),
    "sample of no kind": (["sample", "b.zarr", "--kind", "s9"], "invalid-request", 2),
}


@pytest.mark.parametrize(("arguments", "code", "exit_code"), BAD.values(), ids=BAD)
def test_errors(desk: Shell, arguments: list[str], code: str, exit_code: int) -> None:
    see_error(desk, arguments, code, exit_code)


@pytest.mark.parametrize("command", ["wait", "cancel", "retry"])
def test_no_such_job(shell: Shell, command: str) -> None:
    see_error(shell, [command, "nobody"], "job-not-found", 2)


def see_error(shell: Shell, arguments: list[str], code: str, exit_code: int) -> None:
    before = sorted(path.name for path in shell.folder.iterdir())
    document = json.loads((done := shell.run(*arguments, "--json", code=exit_code)).stdout)["error"]
    assert done.stderr.startswith(f"error [{code}]: {document['message']}\n")
    assert (document["code"], document["exit_code"]) == (code, exit_code)
    assert document["remedy"]
    assert f"  remedy: {document['remedy']}" in done.stderr
    assert sorted(path.name for path in shell.folder.iterdir()) == before, "nothing is left behind"


def test_without_json_errors_leave_standard_output_alone(shell: Shell) -> None:
    done = shell.run("logs", "nobody", code=ExitCode.BAD_REQUEST)
    assert done.stdout == ""
    assert "remedy: geozarr-nb jobs lists them" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["convert", "s2.zarr", "a.zarr", "--if-exists", "maybe"], ["submit", "--validate-groups", "perhaps"]],
)
def test_usage_errors_are_bad_requests(desk: Shell, arguments: list[str]) -> None:
    assert desk.run(*arguments, code=ExitCode.BAD_REQUEST).stderr.startswith("error [invalid-request]: geozarr-nb")
    assert desk.json(*arguments, code=ExitCode.BAD_REQUEST)["error"]["code"] == "invalid-request"


def test_conversion_that_fails(shell: Shell, sample: Path) -> None:
    broken = shutil.copytree(sample, shell.folder / "broken.zarr")
    chunk = broken / GROUP[1:] / "b01" / "0.0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:16] + b"\xff" * (len(whole) - 16))  # as long as it says, so the converter meets it first
    run = subprocess.run(
        [*COMMAND, "convert", shell.place.product(broken), shell.output("a"), "--groups", GROUP, "--json"],
        cwd=shell.folder,
        env=shell.environ,
        capture_output=True,
        text=True,
    )
    error = json.loads(run.stdout)["error"]
    assert run.returncode == error["exit_code"]
    assert run.returncode in (ExitCode.PRODUCT_UNREACHABLE, ExitCode.CONVERTER_FAILED)
    assert f"error [{error['code']}]: " in run.stderr
    assert "last lines:" in run.stderr
    assert not shell.place.exists("a")


def test_interrupted_wait_leaves_the_job_and_says_how_to_come_back(shell: Shell) -> None:
    with shell.place.held_product() as address:
        interrupt_a_wait(shell, address)


def interrupt_a_wait(shell: Shell, address: str) -> None:
    run = shell.start("convert", address, shell.output("left"), "--groups", GROUP, "--json")
    name = shell.job_of("/left.zarr", "Running")
    run.send_signal(signal.SIGINT)
    stdout, stderr = run.communicate()
    assert run.returncode == ExitCode.INTERRUPTED
    assert json.loads(stdout)["error"]["code"] == "interrupted"
    assert f"geozarr-nb wait {name}" in stderr
    assert f"geozarr-nb cancel {name}" in stderr
    assert "Traceback" not in stderr

    assert shell.json("jobs", "--status", "Running")[0]["name"] == name, "the job goes on"
    assert shell.run("wait", name, "--timeout", "0.1", code=ExitCode.INTERRUPTED).stderr.startswith("error [wait-")
    cancelled = shell.json("cancel", name)
    assert cancelled["status"] == "Failed"
    assert "cancel" in cancelled["reason"]
    assert not shell.place.exists("left")
    assert "\nerror [" in shell.run("wait", name, code=cancelled["error"]["exit_code"]).stderr
    assert shell.json("retry", name)["attempt"] == 2
    shell.run("cancel", name)


def test_submit_returns_at_once(shell: Shell) -> None:
    with shell.place.held_product() as address:  # a quick one would have ended before it can be joined
        said = shell.run("submit", address, shell.output("later"), "--groups", GROUP).stdout
        name = shell.job_of("/later.zarr", "Pending", "Running")
        assert f"geozarr-nb wait {name}" in said
        joined = shell.json("submit", address, shell.output("later"), "--groups", GROUP)
        assert joined["name"] == name, "the same request joins its job"
        shell.run("cancel", name)


def test_table_in_a_terminal(shell: Shell, converted: str) -> None:
    main, side = pty.openpty()
    environ = {**shell.environ, "COLUMNS": "100", "TERM": "xterm-256color"}
    run = subprocess.Popen([*COMMAND, "jobs"], cwd=shell.folder, env=environ, stdout=side, stderr=side)
    os.close(side)
    said = b""
    try:
        while block := os.read(main, 4096):
            said += block
    except OSError:  # how Linux says that the other side was closed
        pass
    os.close(main)
    assert run.wait() == ExitCode.SUCCESS
    assert b"\x1b[32m" in said, "success is green"
    assert converted[:20].encode() in said
