"""How much memory this process may still take: what the machine has, and what its group grants."""

from __future__ import annotations

import os
from pathlib import Path


def available_memory() -> int:
    """Bytes of memory that new arrays can take, of the machine and of the control group."""
    return min(_of_machine(Path("/proc/meminfo")), _of_group(Path("/sys/fs/cgroup")))


def _of_machine(file: Path) -> int:
    """MemAvailable of Linux; elsewhere half of what there is."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) << 10
    except (OSError, StopIteration):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (AttributeError, OSError, ValueError):  # Windows
            return 4 << 30


def _of_group(root: Path) -> int:
    """Limit less use (Linux, cgroup versions 2 and 1); endless without a limit."""
    files = (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    )
    for limit, used in files:
        try:
            numbers = [int((root / name).read_text(encoding="ascii")) for name in (limit, used)]
            return max(0, numbers[0] - numbers[1])
        except (OSError, ValueError):  # there is no such file, or it says "max"
            continue
    return 1 << 62
