"""A mkdocstrings extension: docstrings written for a terminal, shown as Markdown."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):(?=`)")
_SHAPE = re.compile(r"^Shape:\n((?:[ ]+\S.*(?:\n|$))+)", re.MULTILINE)
_SESSION = re.compile(r"(?:^[ ]*(?:>>>|\.\.\. |\.\.\.$).*\n?)(?:^[ ]*\S.*\n?)*", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Removes the names of roles, fences interpreter sessions and names sections as Google does."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """The docstring with each ``>>>`` session in a fenced block of its own."""
    docstring = _ROLE.sub("", docstring)
    docstring = _SHAPE.sub(_shape, docstring)
    docstring = re.sub(r"^Example:$", "Examples:", docstring, flags=re.MULTILINE)
    return _SESSION.sub(_fence, docstring)


def _shape(section: re.Match[str]) -> str:
    """Shapes as a list, like the arguments."""
    lines = re.sub(r"^    (?=\S)", "- ", section[1], flags=re.MULTILINE)
    return f"**Shape:**\n\n{lines}"


def _fence(session: re.Match[str]) -> str:
    text = session[0].rstrip("\n")
    indent = text[: len(text) - len(text.lstrip(" "))]
    return f"{indent}```pycon\n{text}\n{indent}```\n"
