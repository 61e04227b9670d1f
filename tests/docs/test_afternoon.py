"""'Read the library in an afternoon' is true: line counts, reading order, size of the core.

``python tests/docs/test_afternoon.py`` writes the counts of today into the page.
"""

import ast
import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "read-in-an-afternoon.md"
LIMIT = 3800  # lines of code that one can read in an afternoon
ROW = re.compile(r"^\| `(tinynn/[\w/]+\.py)` \| ([\d,]+) \|", re.MULTILINE)
TOTAL = re.compile(r"\*\*([\d,]+) lines of code in ([\d,]+)\sfiles\*\*")
BEYOND = {  # of the packages that are read, what no forward or backward pass needs
    "tinynn/nn/fusion.py",
    "tinynn/nn/serialization.py",
    "tinynn/nn/summary.py",
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
    """The number of lines that hold code: not blank, not only a comment, not of a docstring."""
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


def counts() -> dict[str, int]:
    """Code lines of the files that the page names, in its order."""
    files = [row[1] for row in ROW.finditer(PAGE.read_text(encoding="utf-8"))]
    return {file: code_lines((ROOT / file).read_text(encoding="utf-8")) for file in files}


def as_it_should_be(page: str) -> str:
    """The page with every count as it is."""
    true = counts()
    page = ROW.sub(lambda row: f"| `{row[1]}` | {true[row[1]]} |", page)
    total = f"**{sum(true.values()):,} lines of code in {len(true)} files**"
    return TOTAL.sub(lambda old: total.replace(" files", old[0][-8] + "files"), page)


def test_code_lines():
    source = '"""Doc\nstring."""\n\n# comment\nx = """two\nlines"""  # and a comment\n\ny = 1\n'
    assert code_lines(source) == 3


def test_the_counts_on_the_page_are_true():
    page = PAGE.read_text(encoding="utf-8")
    assert page == as_it_should_be(page), "python tests/docs/test_afternoon.py mends the page"


def test_the_core_can_be_read_in_an_afternoon():
    assert sum(counts().values()) <= LIMIT


def test_no_file_of_the_core_is_left_out():
    packages = [ROOT / "tinynn" / name for name in ("functional", "nn", "optim")]
    files = {f.relative_to(ROOT).as_posix() for p in packages for f in p.glob("*.py")}
    assert files - BEYOND <= set(counts())
    assert files >= BEYOND, "a file that is left out does not exist"


if __name__ == "__main__":
    PAGE.write_text(as_it_should_be(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
