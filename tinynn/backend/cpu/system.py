"""The CPU, and the cores and memory that the operating system grants this process."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_CGROUP = Path("/sys/fs/cgroup")
_QUOTA = "cpu.cfs_quota_us"
_MEMORY_FILES = (  # limits, usage and the prefix of counts of descendants in memory.stat
    (("memory.max", "memory.high"), "memory.current", ""),
    (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_"),
)


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
    return max(1, round(min(cores, cpu_quota(_CGROUP, *_own_groups("cpu")))))


def cpu_quota(root: Path, *groups: str) -> float:
    """Cores that cgroups grant (Linux, versions 1 and 2); infinite without a quota.

    A group never has more than its ancestors.
    """
    folders = _with_ancestors(root, "cpu", groups)
    return min(_quota(folder / name) for folder in folders for name in ("cpu.max", _QUOTA))


def _quota(file: Path) -> float:
    """quota / period, from one file (version 2) or two (version 1)."""
    values = _numbers(file)
    if len(values) == 1:
        values += _numbers(file.with_name("cpu.cfs_period_us"))
    return values[0] / values[1] if len(values) == 2 and min(values) > 0 else math.inf


def _own_groups(controller: str) -> list[str]:
    """The cgroups of this process, as paths in the hierarchies of version 2 and the controller."""
    lines = [line.split(":", 2) for line in _lines(Path("/proc/self/cgroup"))]
    return [path for _, names, path in lines if not names or controller in names.split(",")]


def _with_ancestors(root: Path, controller: str, groups: Sequence[str]) -> list[Path]:
    """The folders of these cgroups and of all groups above them, which limit them, too."""
    version_1 = [path for path in root.glob("*") if controller in path.name.split(",")]
    found = []
    for base in (root, root / "unified", *version_1):
        for group in groups or ("",):
            parts = [part for part in group.split("/") if part not in ("", "..")]
            # a container may see its own group as the root, and the path from the host's root
            while parts and not (base / parts[0]).is_dir():
                del parts[0]
            found += [base.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    return found


def _numbers(file: Path) -> list[int]:
    """The whole numbers in a file; none if it contains "max"."""
    try:
        return [int(word) for line in _lines(file) for word in line.split()]
    except ValueError:
        return []


def _lines(file: Path) -> list[str]:
    """The lines of a file of the Linux kernel; none if it does not exist."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def available_memory() -> int:
    """Bytes available for new arrays, limited by the machine and by the cgroups."""
    groups = _own_groups("memory")
    return min(_machine_memory(Path("/proc/meminfo")), group_memory(_CGROUP, *groups))


def _machine_memory(file: Path) -> int:
    """MemAvailable of Linux; elsewhere half of the physical memory.

    Without a limit on Windows, which refuses memory instead of killing the process.
    """
    kibibytes = [line.split()[1] for line in _lines(file) if line.startswith("MemAvailable")]
    return int(kibibytes[0]) << 10 if kibibytes else (_physical_memory() or 1 << 63) // 2


def _physical_memory() -> int | None:
    """Bytes of the machine's memory; None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def group_memory(root: Path, *groups: str) -> int:
    """Bytes that cgroups grant beyond what they use (versions 1 and 2); huge without a limit.

    The kernel frees cached contents of files when a group reaches its limit.
    """
    free = [1 << 62]
    for folder in _with_ancestors(root, "memory", groups):
        for limits, usage, prefix in _MEMORY_FILES:
            most = [number for name in limits for number in _numbers(folder / name)]
            used = _numbers(folder / usage)
            if most and used:
                counts = [line.split() for line in _lines(folder / "memory.stat")]
                cached = (f"{prefix}inactive_file", f"{prefix}active_file")
                freed = sum(int(words[1]) for words in counts if words[0] in cached)
                free.append(max(0, min(most) - used[0] + freed))
    return min(free)
