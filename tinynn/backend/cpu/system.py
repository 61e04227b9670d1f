"""Cores and memory that the operating system grants this process, by machine and by cgroup."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: its CPU affinity, limited by the quota of its container."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, round(min(cores, cpu_quota(_CGROUP, _own_group()))))


def _own_group() -> str:
    """The cgroup of this process as a path below the root of the hierarchy (version 2)."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")


def cpu_quota(root: Path, group: str) -> float:
    """Cores that cgroups grant (Linux, versions 1 and 2); infinite without a quota.

    A group never has more than its ancestors.
    """
    least = math.inf
    parts = [part for part in group.split("/") if part]
    for depth in range(len(parts) + 1):
        least = min(least, _quota(root.joinpath(*parts[:depth], "cpu.max")))
    return min(least, _quota(root / "cpu" / "cpu.cfs_quota_us"))


def _quota(file: Path) -> float:
    """quota / period, from one file (version 2) or two (version 1)."""
    values = _numbers(file)
    if len(values) == 1:
        values += _numbers(file.with_name("cpu.cfs_period_us"))
    return values[0] / values[1] if len(values) == 2 and min(values) > 0 else math.inf


def _numbers(*files: Path) -> list[int]:
    """The whole numbers in these files; none where one is missing or says "max"."""
    try:
        return [int(word) for file in files for word in file.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return []


def available_memory() -> int:
    """Bytes that new arrays can take, of the machine and of the cgroup."""
    return min(_machine_memory(Path("/proc/meminfo")), _group_memory(_CGROUP))


def _machine_memory(file: Path) -> int:
    """MemAvailable of Linux; elsewhere half of the physical memory."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) << 10
    except (OSError, StopIteration):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (AttributeError, OSError, ValueError):  # Windows
            return 4 << 30


def _group_memory(root: Path) -> int:
    """Limit minus usage (cgroup versions 2 and 1); practically infinite without a limit."""
    files = (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    )
    for names in files:
        values = _numbers(*(root / name for name in names))
        if len(values) == 2:
            return max(0, values[0] - values[1])
    return 1 << 62
