"""The installed package: fast to import, one version, the right name on PyPI."""

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


def test_the_version_is_that_of_the_distribution():
    assert tinynn.__version__ == PROJECT["version"]


def test_importing_reads_nothing_but_modules():
    code = """
import sys, numpy
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import tinynn
modules = (".py", ".pyc", ".so")
print([name for name in opened if not name.endswith(modules) and ".pyc." not in name])
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_importing_leaves_the_upper_levels_for_later():
    code = "import sys, tinynn; print('tinynn.nn' in sys.modules, tinynn.nn.__name__)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "False tinynn.nn\n"


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
def test_no_page_installs_the_other_tinynn(path):
    text = path.read_text(encoding="utf-8")
    assert "pip install tinynn" not in text
    assert "tinynn[" not in text
