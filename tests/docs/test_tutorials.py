"""The Python code of the documentation runs as it stands, page by page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["docs/tutorial/first-network.md", "docs/data.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    assert BLOCK.search(text)
    names: dict[str, object] = {}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        code = "\n" * line + block[1]  # so that a traceback shows the line of the page
        exec(compile(code, str(ROOT / page), "exec"), names)


def test_every_page_with_code_is_run_or_has_none():
    pages = [
        path for path in (ROOT / "docs").rglob("*.md") if BLOCK.search(path.read_text("utf-8"))
    ]
    assert {path.relative_to(ROOT).as_posix() for path in pages} == set(PAGES)
