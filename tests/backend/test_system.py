"""Limits of nested control groups, for cores and for memory."""

import math
from pathlib import Path

import pytest

from tinynn.backend.cpu import system
from tinynn.backend.cpu.system import cpu_quota, group_memory

GIB = 1 << 30
NO_LIMIT = {1: "9223372036854771712", 2: "max"}
# hierarchy, folder of its root, what it is
HIERARCHIES = [
    (1, "memory", "version 1"),
    (1, "cpu,memory", "version 1, joint"),
    (2, "", "version 2"),
    (2, "unified", "hybrid"),
]
# the group of the process, and where its limit is below the root of the hierarchy
PLACES = [
    ("", ""),
    ("/", ""),
    ("/a", "a"),
    ("/a/b/c", "a"),
    ("/a/b/c", "a/b"),
    ("/a/b/c", "a/b/c"),
    ("/../a/b", "a"),
    ("/host/docker/a/b", "a"),
    ("/host/docker/a", ""),
]


def write(folder: Path, version: int, limit: str, used: int, cached: int = 0) -> None:
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        2: ("memory.max", "memory.current"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(names[version], (limit, str(used)), strict=True):
        (folder / name).write_text(text + "\n")
    prefix = "total_" if version == 1 else ""
    counts = {"anon": 5, f"{prefix}inactive_file": cached, f"{prefix}active_file": 7}
    text = "".join(f"{name} {number}\n" for name, number in counts.items())
    (folder / "memory.stat").write_text(text)


@pytest.mark.parametrize(("version", "hierarchy"), [h[:2] for h in HIERARCHIES], ids=str)
@pytest.mark.parametrize(("group", "place"), PLACES)
def test_memory(version: int, hierarchy: str, group: str, place: str, tmp_path: Path) -> None:
    root = tmp_path / hierarchy
    own = group.removeprefix("/host/docker").replace("..", "").strip("/")
    for folder in (root, *(root / own).parents, root / own):
        if folder.is_relative_to(root):
            write(folder, version, NO_LIMIT[version], 100)
    write(root / place, version, str(2 * GIB), GIB, cached=1000)
    (tmp_path / "stranger").mkdir()
    write(root / "stranger", version, "1000", 0)
    assert group_memory(tmp_path, group) == GIB + 1007


def test_the_least_counts(tmp_path: Path) -> None:
    write(tmp_path, 2, str(8 * GIB), GIB)
    write(tmp_path / "a", 2, str(4 * GIB), 5 * GIB)
    assert group_memory(tmp_path, "/a") == 0
    write(tmp_path / "a", 2, "max", GIB)
    (tmp_path / "a" / "memory.high").write_text(f"{3 * GIB}\n")
    assert group_memory(tmp_path, "/a") == 2 * GIB + 7


@pytest.mark.parametrize("text", ["", "max", "nonsense", "-", "\xff\xfe"])
def test_without_a_limit(text: str, tmp_path: Path) -> None:
    assert group_memory(tmp_path / "missing", "/a") == 1 << 62
    write(tmp_path, 2, text, 0)
    assert group_memory(tmp_path, "/a") == 1 << 62


@pytest.mark.parametrize(("group", "place"), PLACES)
def test_cores(group: str, place: str, tmp_path: Path) -> None:
    own = group.removeprefix("/host/docker").replace("..", "").strip("/")
    for hierarchy in (tmp_path, tmp_path / "cpu", tmp_path / "cpu,cpuacct"):
        (hierarchy / own).mkdir(parents=True, exist_ok=True)
    assert cpu_quota(tmp_path, group) == math.inf
    for folder, cores in ((tmp_path / "cpu,cpuacct", 3), (tmp_path / "cpu", 2)):
        (folder / place / "cpu.cfs_quota_us").write_text(f"{cores}00000\n")
        (folder / place / "cpu.cfs_period_us").write_text("100000\n")
        assert cpu_quota(tmp_path, group) == cores
    (tmp_path / place / "cpu.max").write_text("150000 100000\n")
    assert cpu_quota(tmp_path, group) == 1.5


def test_memory_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   5 kB\n")
    assert system._machine_memory(tmp_path / "meminfo") == 5 << 10
    monkeypatch.setattr(system, "_physical_memory", lambda: 8 * GIB)  # macOS
    assert system._machine_memory(tmp_path / "missing") == 4 * GIB
    monkeypatch.setattr(system, "_physical_memory", lambda: None)  # Windows
    assert system._machine_memory(tmp_path / "missing") > 1 << 60


def test_groups_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["4:memory:/m", "3:cpu,cpuacct:/c:d", "2:cpuset:/s", "1:name=systemd:/n", "0::/u"]
    monkeypatch.setattr(system, "_lines", lambda path: lines)
    assert system._own_groups("memory") == ["/m", "/u"]
    assert system._own_groups("cpu") == ["/c:d", "/u"]
