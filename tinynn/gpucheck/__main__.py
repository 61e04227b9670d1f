"""Check that a GPU computes what the CPU computes, and measure its limits.

    python -m tinynn.gpucheck [--device cuda:1] [--json gpucheck.json]

Exit codes: 0 all checks passed, 1 a check failed, 2 no usable GPU, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import tinynn
from tinynn.backend import Backend, get_backend
from tinynn.errors import TinynnError
from tinynn.files import write_atomically
from tinynn.gpucheck import limits, parity

_STEPS = 20


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser.error(f"--json: there is no folder {options.json.resolve().parent}")
    machine = tinynn.devices()
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.platform()}"
    _print(f"tinynn.gpucheck, {versions}\n\n{machine}\n")
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "devices": [device._asdict() for device in machine],
        "why_no_cuda": machine.why_no_cuda,
    }
    try:
        backend = get_backend(options.device)
    except TinynnError as error:
        _print(f"NO GPU: {error}")
        return _finish(options.json, report, "no usable GPU", 2)
    name = "cuda:0" if backend.device == "cuda" else backend.device
    emulated = any(found.name == name and found.emulated for found in machine)
    report |= {"device": backend.device, "emulated": emulated}
    if emulated:
        _print("EMULATED: the CPU emulates a GPU. Results are valid, timings are omitted.\n")
    try:
        failures = _check_all(backend, options.quick, not emulated, report)
    except KeyboardInterrupt:
        return _finish(options.json, report, "INTERRUPTED: some checks did not run", 130)
    verdict = f"OK: all results of {name} agree with the float64 reference on the CPU"
    if failures:
        verdict = f"FAILED: {failures} of the checks; attach the output of --json to a bug report"
    return _finish(options.json, report, verdict + " (EMULATED)" * emulated, 1 if failures else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tinynn.gpucheck",
        description="Compare every kernel, every function and its gradients, and a training run on "
        "a GPU with a float64 reference on the CPU; then measure the limits of the GPU.",
        epilog="Exit code: 0 all checks passed, 1 a check failed, 2 no GPU, 130 interrupted.",
    )
    parser.add_argument(
        "--device", metavar="NAME", default="cuda", help="cuda (default), cuda:1, ... or cpu"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all results to a file")
    parser.add_argument("--quick", action="store_true", help="check kernels in float32 only")
    return parser


def _check_all(backend: Backend, quick: bool, timed: bool, report: dict[str, Any]) -> int:
    """Run all checks, add their results to the report, and return the number of failures."""
    for key, table in parity.TABLES.items():
        report[key] = _check(table, backend, table.dtypes[:1] if quick else table.dtypes, timed)
    report["training"] = _check_training(backend.device)
    if timed and backend.device != "cpu":
        report["limits"] = _measure(backend.device)
    return sum(not row["ok"] for key in (*parity.TABLES, "training") for row in report[key])


# -- checks ---------------------------------------------------------------------------------------


def _check(
    table: parity.Table, backend: Backend, dtypes: tuple[str, ...], timed: bool
) -> list[dict[str, Any]]:
    """Print and return one row for each name in the table and each dtype."""
    times = f"{'device us':>12}{'CPU us':>12}   (per case, with transfers)" if timed else ""
    _print(f"\n{table.title:<34}{'dtype':<9}{'cases':>5}{'rel. error':>12}{'tolerance':>11}{times}")
    rows = []
    for name in dict.fromkeys(case.name for case in table.cases):
        for dtype in dtypes:
            rows.append({"name": name, "dtype": dtype, **_compare(table, name, backend, dtype)})
            if timed and rows[-1]["ok"]:
                rows[-1] |= _time(table, name, backend, dtype)
            _print_row(rows[-1])
    return rows


def _compare(table: parity.Table, name: str, backend: Backend, dtype: str) -> dict[str, Any]:
    """The largest error over the cases of that name."""
    errors = []
    try:
        for case in table.named(name):
            expected = table.run(case, table.reference, "float64")
            errors.append(parity.error(table.run(case, backend, dtype), expected))
    except Exception as failure:  # any failure belongs in the report
        return {"error": None, "ok": False, "raised": f"{type(failure).__name__}: {failure}"}
    largest = max(errors)
    return {"cases": len(errors), "error": largest, "ok": largest < parity.TOLERANCE[dtype]}


def _time(table: parity.Table, name: str, backend: Backend, dtype: str) -> dict[str, float]:
    """The mean time of a case of that name on the device and on the CPU."""
    cases = table.named(name)

    def seconds(backend: Backend) -> float:
        total = limits.seconds(backend, lambda: [table.run(c, backend, dtype) for c in cases])
        return total / len(cases)

    return {"device_seconds": seconds(backend), "cpu_seconds": seconds(get_backend("cpu"))}


def _check_training(device: str) -> list[dict[str, Any]]:
    """Train the face CNN twice on the device: it agrees with float64 and repeats bit for bit."""
    _print(f"\nface CNN, {_STEPS} steps of SGD with momentum, batch size 8, float32")
    try:
        first, second = (parity.train_face_cnn(device, "float32", _STEPS) for _ in range(2))
    except Exception as error:  # any failure belongs in the report
        _print(f"  FAIL: {type(error).__name__}: {error}")
        return [{"name": "training", "ok": False, "raised": repr(error)}]
    expected = parity.train_face_cnn("cpu", "float64", _STEPS)
    rows = []
    for name, arrays in first.items():
        distance = parity.error(arrays, expected[name])
        rows.append({"name": name, "error": distance, "ok": distance < parity.TRAINING_TOLERANCE})
    change = max(parity.error(arrays, second[name]) for name, arrays in first.items())
    rows.append({"name": "second run: bit-identical", "error": change, "ok": change == 0})
    for row in rows:
        _print(f"  {row['name']:<34}{row['error']:>10.1e}  {'ok' if row['ok'] else 'FAIL'}")
    return rows


def _measure(device: str) -> dict[str, float | None]:
    """Measure and print the limits of a real device."""
    _print("\ndevice limits, measured")
    found = {}
    for name, measure in limits.LIMITS.items():
        try:
            found[name] = measure(device)
            _print(f"  {name:<46}{found[name]:>12.3g}")
        except Exception as error:  # such as out of memory: go on with the others
            _print(f"  {name:<46}not measured: {type(error).__name__}: {error}")
    return found


# -- output ---------------------------------------------------------------------------------------


def _print_row(row: dict[str, Any]) -> None:
    text = f"{row['name']:<34}{row['dtype']:<9}"
    if "raised" in row:
        text += row["raised"]
    else:
        tolerance = parity.TOLERANCE[row["dtype"]]
        text += f"{row['cases']:>5}{row['error']:>12.1e}{tolerance:>11.0e}"
    text += "  ok  " if row["ok"] else "  FAIL"
    times = (row[key] for key in ("device_seconds", "cpu_seconds") if key in row)
    _print(text + "".join(f"{seconds * 1e6:>12.0f}" for seconds in times))


def _finish(path: Path | None, report: dict[str, Any], verdict: str, code: int) -> int:
    _print(f"\n{verdict}")
    if path is not None:
        content = json.dumps(report | {"verdict": verdict}, indent=1, default=str)
        write_atomically(path, content.encode())
        _print(f"wrote {path}")
    return code


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
