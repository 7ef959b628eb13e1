"""What this process may use: cores and memory, also where a container has less than its machine.

And how it uses memory: glibc maps every large buffer anew and unmaps it after use. Page faults of that cost the
converter up to a third of its time, and verification half. Other C libraries pass over what is said to glibc here.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
SMALLEST_BUFFER = 64_000_000
# mallopt's names for its parameters, from malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST_INT = 2**31 - 1


def cores(cgroup: Path = CGROUP) -> int:
    """Return the number of cores that this process may keep busy, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        allowed = min(allowed, int(quota) // int(period))
    return max(allowed, 1)


def free_memory(cgroup: Path = CGROUP, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return the bytes that this process can still use without swapping; None where the system does not tell."""
    found = [line.split()[1] for line in _read(meminfo).splitlines() if line.startswith("MemAvailable:")]
    free = [int(found[0]) * 1024] if found else []
    limit, used = _read(cgroup / "memory.max"), _read(cgroup / "memory.current")
    if limit.isdigit() and used.isdigit():
        free.append(max(int(limit) - int(used), 0))
    return min(free, default=None)


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
