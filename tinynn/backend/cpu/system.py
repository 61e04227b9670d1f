"""The CPU, and the cores and memory that the operating system grants this process."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

import numpy as np

_CGROUP = Path("/sys/fs/cgroup")


def describe_cpu() -> tuple[str, int, int | None, tuple[str, ...]]:
    """Model name, usable cores, bytes of memory, and the versions of NumPy and its BLAS."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    versions = (f"NumPy {np.__version__}", f"{blas.get('name')} {blas.get('version')}")
    lines = [line for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    title = lines[0].partition(":")[2].strip() if lines else ""
    title = title or platform.processor() or platform.machine()
    return title, usable_cores(), _physical_memory(), versions


def usable_cores() -> int:
    """Cores that this process may use: its CPU affinity, limited by the quota of its container."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, round(min(cores, cpu_quota(_CGROUP, _own_group()))))


def _own_group() -> str:
    """The cgroup of this process as a path below the root of the hierarchy (version 2)."""
    lines = _lines(Path("/proc/self/cgroup"))
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
    """The whole numbers in these files; none if one contains "max"."""
    try:
        return [int(word) for file in files for line in _lines(file) for word in line.split()]
    except ValueError:
        return []


def _lines(file: Path) -> list[str]:
    """The lines of a file of the Linux kernel; none if it does not exist."""
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def available_memory() -> int:
    """Bytes available for new arrays, limited by the machine and by the cgroup."""
    return min(_machine_memory(Path("/proc/meminfo")), _group_memory(_CGROUP))


def _machine_memory(file: Path) -> int:
    """MemAvailable of Linux; elsewhere half of the physical memory."""
    kibibytes = [line.split()[1] for line in _lines(file) if line.startswith("MemAvailable")]
    return int(kibibytes[0]) << 10 if kibibytes else (_physical_memory() or 8 << 30) // 2


def _physical_memory() -> int | None:
    """Bytes of the machine's memory; None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


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
