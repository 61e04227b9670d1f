"""'Read the library in an afternoon': line counts, reading order, size of the core.

``python tests/docs/test_afternoon.py`` updates the counts on the page.
"""

import ast
import io
import re
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "tinynn"
PAGE = PACKAGE.parent / "docs" / "read-in-an-afternoon.md"
LIMIT = 3800  # lines of code that one can read in an afternoon
SECTION = re.compile(r"^## (\d)\. ", re.MULTILINE)
FILE = re.compile(r"^\| `([\w/]+\.py)` \| [\d,]+ \|", re.MULTILINE)
PART = re.compile(r"^(\| (\d)\. .*) \| [\d,]+ \|$", re.MULTILINE)
TOTAL = re.compile(r"\*\*[\d,]+ lines of code\*\* in \d+ files")
BEYOND = {  # files of these packages that no forward or backward pass needs
    "nn/fusion.py",
    "nn/serialization.py",
    "nn/summary.py",
}
IGNORED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """The number of lines that contain code, not only a comment or part of a docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in IGNORED:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstring_lines(source))


def docstring_lines(source: str) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(ast.Constant(str())) as docstring, *_]:
                    lines.update(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return lines


def counts(page: str) -> dict[str, int]:
    """Code lines of the files that a page lists, in its order."""
    files = FILE.findall(page)
    return {file: code_lines((PACKAGE / file).read_text(encoding="utf-8")) for file in files}


def refreshed(page: str) -> str:
    """The page with every count computed anew."""
    lines = counts(page)
    _, *sections = SECTION.split(page)
    parts = {
        number: sum(counts(text).values())
        for number, text in zip(sections[::2], sections[1::2], strict=True)
    }
    page = FILE.sub(lambda row: f"| `{row[1]}` | {lines[row[1]]} |", page)
    page = PART.sub(lambda row: f"{row[1]} | {parts[row[2]]:,} |", page)
    return TOTAL.sub(f"**{sum(lines.values()):,} lines of code** in {len(lines)} files", page)


def test_code_lines():
    source = '"""Doc\nstring."""\n\n# comment\nx = """two\nlines"""  # and a comment\n\ny = 1\n'
    assert code_lines(source) == 3


def test_the_counts_on_the_page_are_true():
    """Within 5 % or 5 lines, so that not every change of the code is a change of the page."""
    page = PAGE.read_text(encoding="utf-8")
    stated, counted = (
        [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text)]
        for text in (page, refreshed(page))
    )
    for said, true in zip(stated, counted, strict=True):
        assert abs(said - true) <= max(5, true // 20), (
            f"the page says {said}, now it is {true}: run `python tests/docs/test_afternoon.py`"
        )


def test_the_core_can_be_read_in_an_afternoon():
    assert sum(counts(PAGE.read_text(encoding="utf-8")).values()) <= LIMIT


def test_no_file_of_the_core_is_left_out():
    packages = [PACKAGE / name for name in ("functional", "nn", "optim")]
    files = {f.relative_to(PACKAGE).as_posix() for p in packages for f in p.glob("*.py")}
    assert files - BEYOND <= set(counts(PAGE.read_text(encoding="utf-8")))
    assert files >= BEYOND, "a file that is left out does not exist"


if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
