"""An mkdocs hook: a warning (an error if strict) for public names that no API page documents."""

import importlib
import logging
import re
from pathlib import Path
from typing import Any

log = logging.getLogger("mkdocs.hooks.complete_api")

PACKAGES = {
    "tinynn.html": "tinynn",
    "functional.html": "tinynn.functional",
    "nn.html": "tinynn.nn",
    "optim.html": "tinynn.optim",
    "data.html": "tinynn.data",
    "training.html": "tinynn.training",
    "vision.html": "tinynn.vision",
    "backend.html": "tinynn.backend",
}


def on_post_build(*, config: Any) -> None:
    """Compare the headings of each API page with ``__all__`` of its package."""
    for page, package in PACKAGES.items():
        html = (Path(config.site_dir) / "api" / page).read_text(encoding="utf-8")
        headings = {name.rpartition(".")[2] for name in re.findall(r'id="(tinynn[\w.]+)"', html)}
        missing = public_names(package) - headings
        if missing:
            log.warning(f"api/{page} does not document {sorted(missing)} of {package}")


def public_names(package: str) -> set[str]:
    """The classes and functions in ``__all__``, an alias by the name that it was defined with."""
    module = importlib.import_module(package)
    values = (getattr(module, name) for name in module.__all__)
    return {
        value.__name__
        for value in values
        if callable(value) and getattr(value, "__module__", "").startswith("tinynn")
    }
