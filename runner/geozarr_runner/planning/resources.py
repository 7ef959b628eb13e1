"""What this process may use: cores and memory, also where a container has less than its machine.

And how it uses memory: glibc maps every large buffer anew and unmaps it after use. Page faults of that cost the
converter up to a third of its time, and verification half. Other C libraries pass over what is said to glibc here.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
OLD_QUOTA, OLD_PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"  # of version 1; -1 is no quota
SMALLEST_BUFFER = 64_000_000
# mallopt's names for its parameters, from malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST_INT = 2**31 - 1


def cores(cgroup: Path = CGROUP, own: Path = OWN_CGROUP) -> int:
    """Return the number of cores that this process may keep busy, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _folders(cgroup, own, "cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        quota, period = (quota, period) if quota else (_read(folder / OLD_QUOTA), _read(folder / OLD_PERIOD))
        if quota.isdecimal() and period.isdecimal() and int(period):
            allowed = min(allowed, int(quota) // int(period))
    return max(allowed, 1)


def free_memory(cgroup: Path = CGROUP, meminfo: Path = Path("/proc/meminfo"), own: Path = OWN_CGROUP) -> int | None:
    """Return the bytes that this process can still use without swapping; None where the system does not tell."""
    found = [line.split()[1] for line in _read(meminfo).splitlines() if line.startswith("MemAvailable:")]
    free = [int(found[0]) * 1024] if found else []
    for folder in _folders(cgroup, own, "memory"):
        for names in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, used = (_read(folder / name) for name in names)
            if limit.isdecimal() and used.isdecimal():
                free.append(max(int(limit) - int(used) + _reclaimable(folder), 0))
    return min(free, default=None)


def _reclaimable(folder: Path) -> int:
    """Return the bytes of files that a group keeps in memory as long as nobody else needs it."""
    lines = [line.split() for line in _read(folder / "memory.stat").splitlines()]
    told = {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdecimal()}
    return told.get("total_inactive_file", told.get("inactive_file", 0))


def _folders(cgroup: Path, own: Path, controller: str) -> Iterator[Path]:
    """Yield where limits of this process may stand: in its own group's folder, and in those of all groups above it.

    A container sees its own group as the root. Version 1 has a hierarchy for each controller, version 2 one for all.
    """
    for line in ["0::/", f"0:{controller}:/", *_read(own).splitlines()]:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroup / controller if controllers else cgroup
        steps = [step for step in path.split("/") if step not in ("", "..")]
        for count in range(len(steps), -1, -1):
            yield root.joinpath(*steps[:count])


def allocator(largest: int) -> dict[str, str]:
    """Return the variables that make a child process keep its large buffers.

    Parameters
    ----------
    largest
        Bytes of the largest buffer that is used again and again.
    """
    largest = max(largest, SMALLEST_BUFFER)
    return {
        "MALLOC_ARENA_MAX": "1",  # only the first arena can hold buffers of more than 64 MB
        "MALLOC_MMAP_THRESHOLD_": str(2 * largest),
        "MALLOC_TRIM_THRESHOLD_": str(8 * largest),
    }


def threads(count: int) -> dict[str, str]:
    """Return the variables that give a converter this many threads; its own default is one for each core."""
    return {"DASK_NUM_WORKERS": str(count)}


def read_at_once(size: int) -> dict[str, str]:
    """Return the variables that make a converter read this many bytes at once, decoded."""
    return {"DASK_ARRAY__CHUNK_SIZE": f"{size}B"}


def share_buffers() -> None:
    """Make threads that this process starts from here on use the memory that can keep large buffers: all the same."""
    _tell_allocator(M_ARENA_MAX, 1)


def keep_buffers() -> None:
    """Make this process keep its large buffers from here on, in the threads that `share_buffers` came before."""
    share_buffers()
    _tell_allocator(M_MMAP_THRESHOLD, LARGEST_INT)
    _tell_allocator(M_TRIM_THRESHOLD, LARGEST_INT)


def _tell_allocator(parameter: int, value: int) -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(parameter, value)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
