"""The Python code of the README and the documentation runs unchanged, page by page.

Fragments that are not executable on their own are marked `py` instead of `python`.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "docs/data.md",
    "docs/extending.md",
    "docs/gpu/rented-gpu.md",
    "docs/index.md",
    "docs/read-in-an-afternoon.md",
    "docs/threads.md",
    "docs/training/own-loop.md",
    "docs/training/resume.md",
    "docs/tutorial/first-network.md",
]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A reader in a folder that holds `photos/`, with two people in it."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (2, 2, 60, 60, 3), np.uint8)
    for name, pictures in zip(("ada", "ben"), noise, strict=True):
        Path("photos", name).mkdir(parents=True)
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(Path("photos", name, f"{number}.png"))


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_from_top_to_bottom(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        code = "\n" * line + block[1]  # so that a traceback shows the line of the page
        exec(compile(code, str(ROOT / page), "exec"), names)


def test_every_page_with_code_is_run():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    with_code = [page for page in pages if BLOCK.search(page.read_text(encoding="utf-8"))]
    assert sorted(page.relative_to(ROOT).as_posix() for page in with_code) == PAGES
