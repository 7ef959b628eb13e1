"""What a process may use is what its container lets it use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from geozarr_runner.planning import resources


def test_without_a_limit_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert resources.cores(tmp_path) >= 1
    free = resources.free_memory(tmp_path)
    assert free is None or free > 1_000_000


@pytest.mark.parametrize(("quota", "cores"), [("100000 100000", 1), ("50000 100000", 1)])
def test_a_containers_cores_count(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert resources.cores(tmp_path) == cores


def test_no_quota_is_no_limit(tmp_path: Path) -> None:
    unlimited = resources.cores(tmp_path)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert resources.cores(tmp_path) == unlimited


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/", {"cpu.max": "250000 100000"}, 2),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "100000 0"}, 8),
        ("0::/user.slice/job.scope", {"user.slice/job.scope/cpu.max": "300000 100000"}, 3),
        ("0::/user.slice/job.scope", {"user.slice/cpu.max": "200000 100000", "cpu.max": "900000 100000"}, 2),
        ("4:cpu,cpuacct:/pod\n0::/", {"cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"}, 5),
        ("4:cpu,cpuacct:/p", {"cpu/p/cpu.cfs_quota_us": "400000", "cpu/p/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("4:cpuset:/\nnonsense\n::\n0::/../../x", {"x/cpu.max": "junk"}, 8),
    ],
)
def test_the_quota_of_every_group_above_counts(tmp_path: Path, own: str, files: dict[str, str], cores: int) -> None:
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    assert resources.cores(tmp_path, tmp_path / "own") == cores


def test_the_memory_of_an_old_container_counts(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("4:memory:/pod\n")
    folder = tmp_path / "memory" / "pod"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("1000\n")
    (folder / "memory.usage_in_bytes").write_text("900\n")
    assert resources.free_memory(tmp_path, tmp_path / "none", tmp_path / "own") == 100
    (folder / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 300\n")
    assert resources.free_memory(tmp_path, tmp_path / "none", tmp_path / "own") == 400, "files give way"


def test_a_containers_memory_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000000 kB\nMemAvailable:    5000000 kB\n")
    assert resources.free_memory(tmp_path, meminfo) == 5_120_000_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert resources.free_memory(tmp_path, meminfo) == 5_120_000_000
    (tmp_path / "memory.max").write_text("1000\n")
    assert resources.free_memory(tmp_path, meminfo) == 900
    assert resources.free_memory(tmp_path, tmp_path / "none") == 900


def test_where_the_system_does_not_tell_nobody_knows(tmp_path: Path) -> None:
    assert resources.free_memory(tmp_path, tmp_path / "none") is None


def test_kept_buffers_cost_fewer_page_faults() -> None:
    """The same work in a process that keeps its buffers, and in one that does not."""
    work = (
        "import resource, numpy as np\n"
        "from geozarr_runner.planning import resources as machine\n"
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
        [sys.executable, "-c", program], env={**os.environ, **resources.threads(3)}, capture_output=True, check=True
    )
    assert done.stdout == b"3\n"
