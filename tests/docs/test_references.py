"""Files, commands and names of the library that the documentation mentions exist."""

import importlib
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILES = [
    path.relative_to(ROOT).as_posix()
    for folder in ("tinynn", "tests", "examples", "benchmarks", "docs")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".cu", ".md", ".ipynb", ".json"}
]
SPAN = re.compile(r"```.*?```|`([^`\n]+)`", re.DOTALL)
PATH = re.compile(r"(?<![\w/.])[\w/]+\.(?:py|cu|ipynb)\b|\b(?:tests|tinynn|docs)/[\w/]+(?:\.\w+)?")
NAME = re.compile(r"tinynn(?:\.\w+)+")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


def mentioned(page: Path, pattern: re.Pattern[str]) -> set[str]:
    """Matches in the code spans of a page; code blocks are run by other tests."""
    spans = SPAN.finditer(page.read_text(encoding="utf-8"))
    return {found for span in spans if span[1] for found in pattern.findall(span[1])}


def resolves(name: str) -> bool:
    """Whether a dotted name is a module or an attribute."""
    path, *attributes = name.split(".")
    found = importlib.import_module(path)
    for attribute in attributes:
        path = f"{path}.{attribute}"
        if not hasattr(found, attribute) and find_spec(path) is None:
            return False
        found = getattr(found, attribute, None) or importlib.import_module(path)
    return True


@each_page
def test_files_exist(page):
    missing = {
        path
        for path in mentioned(page, PATH)
        if not (ROOT / path).exists() and not any(f"/{file}".endswith(f"/{path}") for file in FILES)
    }
    assert not missing


@each_page
def test_names_exist(page):
    missing = {name for name in mentioned(page, NAME) if not resolves(name)}
    assert not missing
