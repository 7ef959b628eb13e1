"""Ended at any moment, a run leaves nothing half-written; what SIGKILL leaves, the next run cleans."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import s3fs

from benchmarks.server import ProductServer
from geozarr_runner.events import parse
from geozarr_runner.publishing.local import discard_leftovers
from runner.tests.support import R10M, R60M, RUNNER, alive, beside, data_groups, finish, run, start, until
from tests.s3_server import s3_server

type Install = Callable[[str], dict[str, str]]

MARK = "pathlib.Path(os.environ['MARK']).write_text(str(os.getpid()))\n"
SLEEPS = f"{MARK}time.sleep(600)"
WRITES = 'out.mkdir()\n(out / \'zarr.json\').write_text(\'{"zarr_format": 3, "node_type": "group"}\')'
# The runner with one of its stages replaced by one that never ends.
BLOCKED = """
import os, pathlib, sys, time
from geozarr_runner import cli, conversion, run
def block(*_, **__):
    pathlib.Path(os.environ["MARK"]).write_text(str(os.getpid()))
    while True:  # a signal that comes just before one long sleep would be heard only after it
        time.sleep(0.05)
if os.environ["BLOCK"] == "verify":
    assert conversion.verify
    conversion.verify = block
else:
    assert conversion.verify and run._provenance
    conversion.verify = lambda *_: None
    run._provenance = block
sys.exit(cli.main(sys.argv[1:]))
"""

# The runner that hears a signal in the moment in which its output has got its name.
NAMED = """
import os, pathlib, signal, sys
from geozarr_runner import cli, conversion
from geozarr_runner.publishing import bucket, local, remote_output
from geozarr_runner.verification.verify import Verified
number = getattr(signal, os.environ["SIGNAL"])
def then_signal(call):
    def called(*given, **options):
        result = call(*given, **options)
        if os.environ["OUTPUT"] in map(str, given) or remote_output.ROOT in given:
            os.kill(os.getpid(), number)
        return result
    return called
assert conversion.verify
conversion.verify = lambda *_: Verified(("/",), 0, 0)
pathlib.Path.rename = then_signal(pathlib.Path.rename)
local._exchange = then_signal(local._exchange)
bucket.ObjectStore.write = then_signal(bucket.ObjectStore.write)
sys.exit(cli.main(sys.argv[1:]))
"""


@contextmanager
def running(
    *arguments: object, env: dict[str, str], command: tuple[str, ...] = RUNNER
) -> Iterator[subprocess.Popen[str]]:
    """A run that is ended with the block, whatever happened in it."""
    process = start(*arguments, env=env, command=command)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def interrupted(process: subprocess.Popen[str], number: signal.Signals, output: Path) -> None:
    """Send a signal, and check what is left."""
    process.send_signal(number)
    done = finish(process, output)
    assert done.code == 7, done.stdout + done.stderr
    assert done.error["code"] == "interrupted"
    assert done.error["given"] == number.name
    assert done.error["remedy"]
    assert done.error["retryable"]
    assert done.stderr == ""
    assert beside(output) == set()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "out.zarr"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Written by whatever is to be interrupted, when it is there."""
    return tmp_path / "mark"


SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_while_the_product_is_read(number: signal.Signals, s2: Path, output: Path) -> None:
    with ProductServer(s2.parent, latency=600) as slow, running(f"{slow.url}/s2.zarr", output, env={}) as process:
        until(lambda: slow.counts.peak)
        interrupted(process, number, output)


@pytest.mark.parametrize("number", SIGNALS)
def test_while_objects_arrive(number: signal.Signals, s2: Path, output: Path) -> None:
    with (
        ProductServer(s2.parent, bandwidth=200_000) as slow,
        running(f"{slow.url}/s2.zarr", output, "--groups", R10M, env={}) as process,
    ):
        slow.hold(f"/s2.zarr{R10M}/", after=5)  # some arrive slowly, the others never
        until(lambda: slow.counts.data > 1)
        # The converter is being loaded meanwhile, and ends as well.
        (converter,) = psutil.Process(process.pid).children()
        interrupted(process, number, output)
        assert not converter.is_running()


@pytest.mark.parametrize("number", SIGNALS)
def test_while_the_converter_runs(
    number: signal.Signals, s2: Path, output: Path, mark: Path, fake_converter: Install
) -> None:
    """What the converter started, dask's workers say, ends with it."""
    child = "import subprocess\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    tell = "pathlib.Path(os.environ['MARK']).write_text(f'{os.getpid()} {child.pid}')\n"
    script = f"{child}out.mkdir()\n{tell}time.sleep(600)"
    env = {**fake_converter(script), "MARK": str(mark)}
    with running(s2, output, "--groups", R60M, env=env) as process:
        pids = [int(pid) for pid in until(lambda: mark.exists() and mark.read_text()).split()]
        assert len(pids) == 2
        interrupted(process, number, output)
    until(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize("stage", ["verify", "publish"])
@pytest.mark.parametrize("number", SIGNALS)
def test_while_the_output_is(
    number: signal.Signals, stage: str, s2: Path, output: Path, mark: Path, fake_converter: Install
) -> None:
    env = {**fake_converter("out.mkdir()"), "MARK": str(mark), "BLOCK": stage}
    command = (sys.executable, "-c", BLOCKED)
    with running(s2, output, "--groups", R60M, env=env, command=command) as process:
        until(mark.exists)
        interrupted(process, number, output)


@pytest.mark.parametrize("number", SIGNALS)
def test_what_has_its_name_is_told(number: signal.Signals, s2: Path, output: Path, fake_converter: Install) -> None:
    """Where an output is, the run says so, and nothing says that it was interrupted."""
    env = {**fake_converter(WRITES), "SIGNAL": number.name, "OUTPUT": str(output)}
    for _ in ("new", "replaced"):
        arguments = (s2, output, "--groups", R60M, "--if-exists", "overwrite")
        done = finish(start(*arguments, env=env, command=(sys.executable, "-c", NAMED)), output)
        assert done.code == 0, done.stdout + done.stderr
        assert done.result["path"] == str(output)
        assert beside(output) == {"out.zarr"}


def test_a_signal_with_the_answer_to_the_root_leaves_no_root(s2: Path, tmp_path: Path, fake_converter: Install) -> None:
    """An upload may hang, so it can be interrupted until the root's answer is there: then the root is taken away."""
    with s3_server() as options:
        s3 = s3fs.S3FileSystem(**options, skip_instance_cache=True)
        s3.mkdir("bucket")
        target = "s3://bucket/out.zarr"
        env = {**fake_converter(WRITES), "SIGNAL": "SIGTERM", "OUTPUT": target, "FSSPEC_S3": json.dumps(options)}
        arguments = (s2, target, "--groups", R60M, "--scratch", tmp_path)
        done = finish(start(*arguments, env=env, command=(sys.executable, "-c", NAMED)), tmp_path / "out.zarr")
        assert (done.code, done.error["code"]) == (7, "interrupted"), done.stdout + done.stderr
        assert not s3.exists("bucket/out.zarr/zarr.json")


def test_the_archive_of_what_has_its_name_can_be_interrupted(s2: Path, output: Path, fake_converter: Install) -> None:
    env = {**fake_converter(WRITES), "SIGNAL": "SIGTERM", "OUTPUT": str(output)}
    arguments = (s2, output, "--groups", R60M, "--archive")
    done = finish(start(*arguments, env=env, command=(sys.executable, "-c", NAMED)), output)
    assert done.code == 7, done.stdout + done.stderr
    assert done.error["message"].startswith("the output is there and verified, its archive is not")
    assert beside(output) == {"out.zarr"}


def test_a_second_signal_does_not_stop_the_cleaning(
    s2: Path, output: Path, mark: Path, fake_converter: Install
) -> None:
    """The converter takes its time to end."""
    ending, go_on = mark.with_name("ending"), mark.with_name("go-on")
    script = (
        "def end(*_):\n"
        f"    pathlib.Path({str(ending)!r}).touch()\n"
        f"    while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n"
        "    sys.exit(1)\n"
        f"signal.signal(signal.SIGTERM, end)\nout.mkdir()\n{SLEEPS}"
    )
    with running(s2, output, "--groups", R60M, env={**fake_converter(script), "MARK": str(mark)}) as process:
        pid = int(until(lambda: mark.exists() and mark.read_text()))
        process.send_signal(signal.SIGTERM)
        until(ending.exists)
        process.send_signal(signal.SIGTERM)
        go_on.touch()
        interrupted(process, signal.SIGTERM, output)
    assert not alive(pid)


def test_the_converter_ends_with_a_killed_runner(s2: Path, output: Path, mark: Path, fake_converter: Install) -> None:
    with running(s2, output, "--groups", R60M, env={**fake_converter(SLEEPS), "MARK": str(mark)}) as process:
        pid = int(until(lambda: mark.exists() and mark.read_text()))
        process.kill()
        process.wait()
        until(lambda: not alive(pid))
    assert beside(output) == {".out.zarr.partial", ".out.zarr.lock"}
    assert discard_leftovers(output)
    assert beside(output) == set()


def test_killed_in_any_stage_the_next_run_cleans_and_succeeds(s2: Path, output: Path) -> None:
    for stage in ("preflight", "stage", "convert", "verify", "publish"):
        with running(s2, output, "--groups", R60M, "--if-exists", "overwrite", env={}) as process:
            assert process.stdout is not None
            told = (parse(line) for line in process.stdout)
            assert any(event is not None and event.type == "stage" and event["stage"] == stage for event in told), stage
            process.kill()
            process.wait()
        assert not output.exists() or data_groups(output) == {R60M}, stage
    done = run(s2, output, "--groups", R60M, "--if-exists", "overwrite")
    assert done.result["groups"] == [R60M]
    assert beside(output) == {"out.zarr"}


def test_two_runs_for_one_output(s2: Path, output: Path, mark: Path, fake_converter: Install) -> None:
    env = {**fake_converter(SLEEPS), "MARK": str(mark)}
    with running(s2, output, "--groups", R60M, env=env) as first:
        until(mark.exists)
        second = run(s2, output, "--groups", R60M)
        assert second.code == 2
        assert second.error["code"] == "output-busy"
        assert second.error["retryable"]
        assert second.error["given"] == str(output)
        assert second.error["remedy"]
        assert first.poll() is None
        assert not discard_leftovers(output)
        assert (output.parent / ".out.zarr.partial").is_dir()
        interrupted(first, signal.SIGTERM, output)


def test_a_reader_that_goes_away_changes_nothing(s2: Path, output: Path, mark: Path, fake_converter: Install) -> None:
    gone = mark.with_name("gone")
    wait = f"while not os.path.exists({str(gone)!r}): time.sleep(0.01)"
    env = {**fake_converter(f"{MARK}{wait}\nsys.exit('OSError: enough')"), "MARK": str(mark)}
    process = start(s2, output, "--groups", R60M, env=env)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        until(mark.exists)
        process.stdout.close()
        gone.touch()
        assert process.stderr.read() == ""
        assert process.wait() == 4
    last = parse((output.parent / "out.zarr.log.jsonl").read_text().splitlines()[-1])
    assert last is not None
    assert last["code"] == "converter-failed"


def test_a_log_file_that_takes_nothing_ends_a_run_before_it_begins(s2: Path, output: Path) -> None:
    done = run(s2, output, "--groups", R60M, "--log", "/dev/full")
    assert done.code == 6
    assert done.error["code"] == "storage-full"
    assert done.error["remedy"]
    assert "convert" not in [event["stage"] for event in done.of("stage")]
    assert done.stderr == ""
    assert beside(output) == set()


def test_names_that_are_no_text(s2: Path, output: Path, fake_converter: Install) -> None:
    strange = output.with_name(os.fsdecode(b"out \xff \xc3\xbc.zarr"))
    done = run(s2, strange, "--groups", R60M, env=fake_converter("sys.exit('OSError: enough')"))
    assert done.code == 4
    assert done.error["code"] == "converter-failed"
    assert done.stderr == ""
