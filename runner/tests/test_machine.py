"""What a process may use is what its container lets it use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from geozarr_runner import machine


def test_without_a_limit_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert machine.cores(tmp_path) >= 1
    free = machine.free_memory(tmp_path)
    assert free is None or free > 1_000_000


@pytest.mark.parametrize(("quota", "cores"), [("100000 100000", 1), ("50000 100000", 1)])
def test_a_containers_cores_count(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert machine.cores(tmp_path) == cores


def test_no_quota_is_no_limit(tmp_path: Path) -> None:
    unlimited = machine.cores(tmp_path)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cores(tmp_path) == unlimited


def test_a_containers_memory_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000000 kB\nMemAvailable:    5000000 kB\n")
    assert machine.free_memory(tmp_path, meminfo) == 5_120_000_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert machine.free_memory(tmp_path, meminfo) == 5_120_000_000
    (tmp_path / "memory.max").write_text("1000\n")
    assert machine.free_memory(tmp_path, meminfo) == 900
    assert machine.free_memory(tmp_path, tmp_path / "none") == 900


def test_where_the_system_does_not_tell_nobody_knows(tmp_path: Path) -> None:
    assert machine.free_memory(tmp_path, tmp_path / "none") is None


def test_kept_buffers_cost_fewer_page_faults() -> None:
    """The same work in a process that keeps its buffers, and in one that does not."""
    work = (
        "import resource, numpy as np\n"
        "from geozarr_runner import machine\n"
        "{keep}\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"  # starting Python takes thousands of its own
        "for _ in range(20): np.ones(8_000_000)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    faults = [
        int(subprocess.run([sys.executable, "-c", work.format(keep=keep)], capture_output=True, check=True).stdout)
        for keep in ("", "machine.keep_buffers()")
    ]
    assert faults[1] < faults[0] / 2 or not sys.platform.startswith("linux")


def test_a_converter_has_the_threads_that_it_is_given() -> None:
    """Dask reads them where its own settings are read: from the environment."""
    program = "import dask; print(dask.config.get('num_workers'))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **machine.threads(3)}, capture_output=True, check=True
    )
    assert done.stdout == b"3\n"
