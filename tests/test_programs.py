"""Programs whose output cannot be written still write their reports."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinynn.errors import TinynnError
from tinynn.gpucheck import __main__ as gpucheck
from tinynn.messages import printable, say, show

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted(
    path for folder in ("benchmarks", "tinynn") for path in (ROOT / folder).rglob("*.py")
)
# standard output and error: closed, a full disk, a pipe without a reader, ASCII
OUTPUTS = {
    "closed": ">&- 2>&-",
    "full": ">/dev/full 2>/dev/full",
    "no reader": "2>&1 | true",
    "head": "2>&1 | head -n 1 >/dev/null",
    "ASCII": ">/dev/null 2>&1",
}


def test_output_goes_through_messages() -> None:
    """``show`` and ``say`` do not fail; ``print`` does, where there is no reader."""
    found = [
        f"{path}:{node.lineno}"
        for path in PROGRAMS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert not found, f"use tinynn.messages.show or say: {found}"


def run(output: str, *command: str) -> int:
    """The exit code of a Python program whose output goes where a shell sends it."""
    shell = f'set -o pipefail; "$@" {OUTPUTS[output]}'
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    settings |= {"CPUCUDA_DEVICES": "0"} | (
        {"PYTHONIOENCODING": "ascii"} if output == "ASCII" else {}
    )
    return subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, *command], cwd=ROOT, env=settings, check=False
    ).returncode


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_report_of_a_program(output: str, tmp_path: Path) -> None:
    file = tmp_path / "größe\x1b[31m.json"
    assert run(output, "-m", "tinynn.gpucheck", "--json", str(file)) == 2
    assert json.loads(file.read_bytes())["verdict"] == "no usable GPU"


def test_the_report_of_a_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    options = "--device cpu --models maxpool --work inference --batch-sizes 1 --rounds 1"
    command = ["benchmarks/cpu_vs_gpu.py", *options.split(), "--json", str(file)]
    assert run("head", *command) == 0
    assert len(json.loads(file.read_bytes())["rows"]) == 1


def test_a_disk_that_is_full_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpucheck._finish(Path("/dev/full"), {}, "OK", 0) == 1
    printed = capsys.readouterr()
    assert "OK" in printed.out
    assert "NOT WRITTEN: [Errno 28] No space left on device: '/dev/full'" in printed.err


PATHS = ["", "absent/file.json", "folder", "file.json/below", "n" * 256, "a\0b"]


@pytest.mark.parametrize("name", PATHS)
def test_a_report_that_cannot_be_written_is_an_error_before_the_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import cpu_vs_gpu
    import vs_pytorch

    (tmp_path / "folder").mkdir()
    (tmp_path / "file.json").touch()
    monkeypatch.chdir(tmp_path)
    for parse in (cpu_vs_gpu.parse, vs_pytorch.parse_arguments, gpucheck._parser().parse_args):
        for option in ("--json", *(["--plot"] if parse is cpu_vs_gpu.parse else [])):
            with pytest.raises(SystemExit):
                parse([option, name])
            assert f"argument {option}: cannot write" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.json", "folder"]


def test_errors_do_not_control_the_terminal() -> None:
    def error_types(base: type[TinynnError]) -> set[type[TinynnError]]:
        below = base.__subclasses__()
        return {base, *below}.union(*map(error_types, below))

    found = error_types(TinynnError)
    assert len(found) > 10
    for kind in found:
        text = str(kind("cannot read \x1b]0;owned\x07\x9b31m\r\u202e\udcff.png\nas äß”漢"))
        assert text == "cannot read \\x1b]0;owned\\x07\\x9b31m\\r\\u202e\\udcff.png\nas äß”漢"


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://name:{}@host/a", "s3://{}@bucket/a", "s3://name:{}@bucket", "s3://a:b{}@c@d/e"),
        *("http://host/a?token={}", "https://name:{}@host/a?token={}&b={}", "x::ftp://:{}@h/a"),
        *("(see http://host/?{})", "http://name:a/{}@host", "'http://host/a?b={}', and so on"),
    ],
)
def test_secrets_of_urls_are_not_printed(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"cannot write {url.replace('{}', 'secret')} as there is no space"
    say(text)
    show(text)
    for shown in (str(TinynnError(text)), *capsys.readouterr()):
        assert "secret" not in shown
        assert "://***" in shown or "?***" in shown
        assert "as there is no space" in shown


@pytest.mark.parametrize(
    "text",
    ["s3://bucket/a@b", "http://host:80/a", "see https://a.b/c (d@e?)", "a@b?c=d", "file:///a"],
)
def test_other_text_is_printed_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_printable() -> None:
    assert printable("äß”漢\U0001f600") == "äß”漢\U0001f600"
