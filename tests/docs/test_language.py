"""The vocabulary of the field, in American spelling: a short list of what not to write."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("tinynn", "docs", "examples", "benchmarks")
FILES = ("README.md", "CONTRIBUTING.md")  # the changelog names what was renamed
BRITISH = (
    r"\w*(?:normal|initial|optim|recogn|summar|synchron|serial|quant|general|regular|random|organ"
    r"|real|visual|minim|maxim|util|vector|parallel|token)is(?:e|ed|es|er|ing|ation)s?\b",
    r"colour|centre[ds]?\b|grey|licence|behaviour|neighbour|favour|artefact|catalogue|analyse",
    r"\w*(?:label|travel|model|cancel)l(?:ed|ing)\b",
)
INSTEAD = {  # pattern: what to write
    r"the way back": "backward pass",
    r"\bfigures\b": "results, metrics, values",
    r"\bby hand\b": "manually, hand-written",
    r"laid (down|apart)": "copied, packed",
    r"turned round": "flipped, rotated",
    r"\bglance[ds]?\b": "prefetch, check",
    r"speaks? for": "predicts",
    r"what arrives": "the upstream gradient",
    r"interpreter'?s lock": "GIL",
    r"\b(somebody|nobody|whoever)\b": "the caller, the user, the code that",
    r"a person sees": "the output",
    r"in parts of": "relative to",
    r"\bby turns\b": "in turn",
    r"\bfloors\b": "levels",
    r"pastime|toom.?cook": "the name of the algorithm",
    **dict.fromkeys(BRITISH, "the American spelling"),
}
TITLE = "Parameterisation of a stochastic model"  # of a paper


def texts() -> list[Path]:
    found = [ROOT / name for name in FILES]
    for folder in FOLDERS:
        for suffix in ("py", "cu", "md", "ipynb"):
            found += (ROOT / folder).rglob(f"*.{suffix}")
    return sorted(found)


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_language(path):
    text = path.read_text(encoding="utf-8")
    faults = [
        f"{path}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}: write {better}"
        for pattern, better in INSTEAD.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
        if not text.startswith(TITLE, match.start())
    ]
    assert not faults, "\n".join(faults)
