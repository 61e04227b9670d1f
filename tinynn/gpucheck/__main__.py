"""Check that a GPU computes what the CPU computes, and measure its limits.

    python -m tinynn.gpucheck [--device cuda:1] [--json gpucheck.json]

Exit codes: 0 all checks passed, 1 a check failed or the report cannot be written, 2 no usable GPU,
130 interrupted.
"""

import argparse
import json
import math
import platform
import sys
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import tinynn
from tinynn.backend import Backend, get_backend
from tinynn.errors import TinynnError
from tinynn.files import output_file, write_report
from tinynn.gpucheck import limits, parity
from tinynn.gpucheck.cases import Case
from tinynn.messages import show


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    machine = tinynn.devices()
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.platform()}"
    show(f"tinynn.gpucheck, {versions}\n\n{machine}")
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "devices": [device._asdict() for device in machine],
        "why_no_cuda": machine.why_no_cuda,
    }
    try:
        backend = get_backend(options.device)
    except TinynnError as error:
        show(f"\nNO GPU: {error}")
        return _finish(options.json, report, "no usable GPU", 2)
    name = "cuda:0" if backend.device == "cuda" else backend.device
    emulated = any(found.name == name and found.emulated for found in machine)
    report |= {"device": backend.device, "emulated": emulated}
    if emulated:
        show("\nEMULATED: the CPU emulates a GPU. Results are valid, timings are omitted.")
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
        description="Compare every kernel, every function with its gradients, every optimizer and "
        "a training run on a GPU with a float64 reference on the CPU; then measure its limits.",
        epilog="Exit code: 0 all checks passed, 1 a check failed, 2 no GPU, 130 interrupted.",
    )
    parser.add_argument(
        "--device", metavar="NAME", default="cuda", help="cuda (default), cuda:1, ... or cpu"
    )
    parser.add_argument(
        "--json", metavar="FILE", type=output_file, help="write all results to a file"
    )
    parser.add_argument("--quick", action="store_true", help="check float32 only")
    return parser


def _check_all(backend: Backend, quick: bool, timed: bool, report: dict[str, Any]) -> int:
    """Run all checks, add their results to the report, and return the number of failures."""
    for key, table in parity.TABLES.items():
        report[key] = _check(table, backend, table.dtypes[:1] if quick else table.dtypes, timed)
    if timed and backend.device != "cpu":
        report["limits"] = _measure(backend)
    return sum(not row["ok"] for key in parity.TABLES for row in report[key])


def _check(
    table: parity.Table, backend: Backend, dtypes: tuple[str, ...], timed: bool
) -> list[dict[str, Any]]:
    """Print and return one row for each name in the table and each dtype."""
    times = f"{'device us':>12}{'CPU us':>12}   (per case, with transfers)" if timed else ""
    show(f"\n{table.title:<34}{'dtype':<9}{'cases':>5}{'rel. error':>12}{'tolerance':>11}{times}")
    rows = []
    for name, dtype in product(dict.fromkeys(case.name for case in table.cases), dtypes):
        cases = [case for case in table.cases if case.name == name]
        row: dict[str, Any] = {"name": name, "dtype": dtype, "cases": len(cases), "ok": False}
        text = f"{name:<34}{dtype:<9}{len(cases):>5}"
        try:
            error = max(table.error(case, backend, dtype) for case in cases)
            row["ok"] = error < table.tolerance[dtype]
            row["error"] = error if error < math.inf else str(error)  # JSON has no infinity
            text += f"{error:>12.1e}{table.tolerance[dtype]:>11.0e}"
        except Exception as failure:  # any failure belongs in the report
            row |= {"error": None, "raised": f"{type(failure).__name__}: {failure}"}
            text += f"  {row['raised']}"
        text += "  ok  " if row["ok"] else "  FAIL"
        if timed and row["ok"]:
            for key, where in (("device", backend), ("cpu", get_backend("cpu"))):
                row[f"{key}_seconds"] = _seconds(table, cases, where, dtype)
                text += f"{row[f'{key}_seconds'] * 1e6:>12.0f}"
        rows.append(row)
        show(text)
    return rows


def _seconds(table: parity.Table, cases: list[Case], backend: Backend, dtype: str) -> float:
    """The mean time of a case."""
    total = limits.seconds(backend, lambda: [table.run(case, backend, dtype) for case in cases])
    return total / len(cases)


def _measure(backend: Backend) -> dict[str, float | None]:
    """Measure and print the limits of a real device."""
    show("\ndevice limits, measured")
    found = {}
    for name, measure in limits.LIMITS.items():
        try:
            found[name] = measure(backend)
            show(f"  {name:<46}{found[name]:>12.3g}")
        except Exception as error:  # such as out of memory: go on with the others
            show(f"  {name:<46}not measured: {type(error).__name__}: {error}")
    return found


def _finish(path: Path | None, report: dict[str, Any], verdict: str, code: int) -> int:
    show(f"\n{verdict}")
    if path is not None:
        content = json.dumps(report | {"verdict": verdict}, indent=1, default=str)
        code = write_report(path, content.encode()) or code
    return code


if __name__ == "__main__":
    sys.exit(main())
