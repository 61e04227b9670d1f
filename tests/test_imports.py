"""Imports go down the levels without cycles, and programs use public names only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted(
    path for folder in ("examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)


def test_imports_go_down():
    """The contracts of setup.cfg hold."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """Modules of the library that a file imports, also in functions and under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in modules else f"{node.module}")
    return found & modules


def import_graph(package: Path) -> dict[str, set[str]]:
    """The imports between the modules of a package, by dotted name."""
    files = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: imports_of(path, set(files)) for name, path in files.items()}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module."""
    reachable = {}
    for start in graph:
        seen: set[str] = set()
        stack = [start]
        while stack:
            new = graph[stack.pop()] - seen
            seen |= new
            stack.extend(new)
        reachable[start] = seen
    components = {
        frozenset({a} | {b for b in reachable[a] if a in reachable[b]}) for a in reachable
    }
    return sorted(sorted(component) for component in components if len(component) > 1)


def test_no_import_cycle() -> None:
    """Lazy imports and imports for types do not close a cycle either."""
    assert cycles(import_graph(ROOT / "tinynn")) == []


def test_a_lazy_import_closes_a_cycle(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("from package import a, c")
    (package / "a.py").write_text("from package.b import thing")
    (package / "b.py").write_text("def f():\n    from package import a\n")
    (package / "c.py").write_text("from package.a import other")
    assert cycles(import_graph(package)) == [["package.a", "package.b"]]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_programs_use_public_names(program):
    for node in ast.walk(ast.parse(program.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tinynn"):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            assert not [name for name in names if name.startswith("_")], f"line {node.lineno}"
