"""A hook of mkdocs: ``:class:`Tensor``` in a docstring becomes plain code on the page."""

import re
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """Removes the names of roles, which Markdown does not know, from before the code they mark."""
    return re.sub(r":(?:class|func|meth|mod|data|attr):(?=<code)", "", html)
