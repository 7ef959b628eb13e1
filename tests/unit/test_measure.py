"""What `benchmarks.measure` says of programs whose cost is known."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from benchmarks import measure as measure_module
from benchmarks.measure import measure, stored_bytes

MB = 1 << 20
BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"


def run_python(source: str, *arguments: str) -> list[str]:
    return [sys.executable, "-S", "-c", source, *arguments]


def test_streams_exit_code_and_environment() -> None:
    source = "import os, sys; print(os.environ['GIVEN']); print('err', file=sys.stderr); raise SystemExit(3)"
    done = measure(run_python(source), env={"GIVEN": "value"})
    assert (done.exit_code, done.stdout, done.stderr) == (3, "value\n", "err\n")
    assert done.command[0] == sys.executable
    assert done.bytes_written == 0


def test_signal_is_a_negative_exit_code() -> None:
    assert measure(run_python("import os; os.kill(os.getpid(), 15)")).exit_code == -15


def test_seconds() -> None:
    done = measure(run_python(f"{BURN.format(seconds=0.3)}print(time.process_time())"))
    told = float(done.stdout)
    assert told - 0.05 <= done.user + done.system < told + 0.5  # the processor's seconds, on a busy machine too
    assert done.wall >= 0.3


def test_seconds_of_descendants_count() -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {BURN.format(seconds=0.3)!r}])"
    done = measure(run_python(child))
    assert done.user + done.system >= 0.25


def test_memory_of_a_short_peak() -> None:
    ballast = bytearray(150 * MB)  # this process is large; that must not show in the other's figures
    small = measure(run_python(BURN.format(seconds=0.3)), interval=0.02)
    assert 0 < small.own_peak_rss <= small.peak_rss < 100 * MB
    del ballast
    source = "x = bytearray(b'x') * (300 << 20); del x\n" + BURN.format(seconds=0.5)
    large = measure(run_python(source), interval=0.02)
    assert 300 * MB <= large.own_peak_rss <= large.peak_rss < 400 * MB


def test_memory_of_the_tree() -> None:
    hold = "x = bytearray(b'x') * (100 << 20)\n"
    child = hold + BURN.format(seconds=0.4)
    parent = hold + f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])"
    done = measure(run_python(parent), interval=0.02)
    assert 200 * MB <= done.peak_rss < 300 * MB
    assert 100 * MB <= done.own_peak_rss < 150 * MB


def test_bytes_written(tmp_path: Path) -> None:
    output = tmp_path / "out"
    source = "import pathlib, sys; p = pathlib.Path(sys.argv[1], 'a', 'b'); p.mkdir(parents=True)\n"
    source += "(p / 'x').write_bytes(bytes(1000)); (p.parent / 'y').write_bytes(bytes(234))"
    assert measure(run_python(source, str(output)), output=output).bytes_written == 1234
    assert stored_bytes(output / "a" / "y") == 234
    assert stored_bytes(tmp_path / "nothing") == 0


def test_timeout_ends_the_whole_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes when the grandchild is there."""
    grandchild = tmp_path / "pid"
    child = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}, sys.argv[1]])"
    clock = SimpleNamespace(
        monotonic=lambda: float(grandchild.exists() and bool(grandchild.read_text())), perf_counter=time.perf_counter
    )
    monkeypatch.setattr(measure_module, "time", clock)
    with pytest.raises(TimeoutError, match=r"longer than 0\.8 s"):
        measure(run_python(parent, str(grandchild)), timeout=0.8)
    deadline = time.perf_counter() + 60
    pid = int(grandchild.read_text())
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.perf_counter() < deadline


def test_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        measure([tmp_path / "nothing"])
