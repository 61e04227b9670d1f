"""What a stranger installs: light to import, one version, nobody sent to another project."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tinynn

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXTS = [
    path
    for pattern in (
        "*.md",
        "tinynn/**/*.py",
        "examples/**/*.py",
        "benchmarks/**/*.py",
        "docs/**/*.md",
    )
    for path in ROOT.glob(pattern)
]


def seconds_to_import(module: str) -> float:
    """The shortest of several, each in a new interpreter: CPU time, whoever else is computing."""
    code = f"import time; t = time.process_time(); import {module}; print(time.process_time() - t)"
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
        for _ in range(7)
    ]
    return min(float(run.stdout) for run in runs)


def test_the_version_is_that_of_the_distribution():
    assert tinynn.__version__ == PROJECT["version"]


def test_importing_takes_little_more_than_numpy():
    assert seconds_to_import("tinynn") <= 1.5 * seconds_to_import("numpy")


@pytest.mark.parametrize(
    "package", ["PIL", "tqdm", "safetensors", "threadpoolctl", "matplotlib", "cupy"]
)
def test_importing_imports_no_other_package(package):
    code = f"import sys, tinynn, tinynn.data, tinynn.vision; print({package!r} in sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_each_dependency_says_what_it_is_for():
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    for requirement in PROJECT["dependencies"]:
        (line,) = (line for line in lines if f'"{requirement}"' in line)
        assert "#" in line


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nobody_is_told_to_install_the_other_tinynn(path):
    text = path.read_text(encoding="utf-8")
    assert "pip install tinynn" not in text
    assert "tinynn[" not in text
