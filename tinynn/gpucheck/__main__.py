"""Whether a GPU computes what the CPU does, and what it can do at best.

    python -m tinynn.gpucheck [--device cuda:1] [--json gpucheck.json]

Exit codes: 0 all is well, 1 something differs, 2 there is no usable GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import tinynn
from tinynn.backend import get_backend
from tinynn.errors import TinynnError
from tinynn.gpucheck import limits, parity

_DTYPES = ("float32", "float64", "float16")
_STEPS = 20


def main(arguments: list[str] | None = None) -> int:
    """Check a device; the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser.error(f"--json: there is no folder {options.json.resolve().parent}")
    machine = tinynn.devices()
    _say(f"tinynn.gpucheck, {_versions()}\n\n{machine}\n")
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "devices": [device._asdict() for device in machine],
        "why_no_cuda": machine.why_no_cuda,
    }
    try:
        device = get_backend(options.device).device
    except TinynnError as error:
        _say(f"NO GPU: {error}")
        return _finish(options, report, "no usable GPU", 2)
    full = "cuda:0" if device == "cuda" else device
    emulated = any(found.name == full and found.emulated for found in machine)
    report |= {"device": device, "emulated": emulated}
    if emulated:
        _say("EMULATED: a CPU plays the GPU. Results count; there are no times, and no speeds.\n")
    failures = 0
    try:
        failures += _check_kernels(device, emulated, options.quick, report)
        failures += _check_functions(device, emulated, report)
        failures += _check_training(device, report)
        if not emulated and device != "cpu":
            _measure(device, report)
    except KeyboardInterrupt:
        return _finish(options, report, "INTERRUPTED: not everything was checked", 130)
    if failures:
        verdict = f"FAILED: {failures} differ from the CPU; attach the output of --json to a report"
    elif emulated:
        verdict = "OK: all results agree with float64 on the CPU (EMULATED)"
    else:
        verdict = f"OK: all results of {device} agree with float64 on the CPU"
    return _finish(options, report, verdict, 1 if failures else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tinynn.gpucheck",
        description="Compare every kernel and function on a GPU with float64 on the CPU, train the "
        "face CNN on both, and measure what the GPU can do at best.",
        epilog="Exit code: 0 all is well, 1 something differs, 2 there is no usable GPU, "
        "130 interrupted.",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        default="cuda",
        help="cuda (default), cuda:1; cpu checks the kernels of the CPU",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures to a file")
    parser.add_argument("--quick", action="store_true", help="kernels in float32 only")
    return parser


def _check_kernels(device: str, emulated: bool, quick: bool, report: dict[str, Any]) -> int:
    """The table of backend kernels; how many are wrong."""
    _headline("kernel", emulated)
    backend, cpu = get_backend(device), get_backend("cpu")
    rows = []
    for kernel in parity.kernels():
        expected = parity.call_kernel(kernel, parity.REFERENCE, "float64")
        for dtype in _DTYPES[:1] if quick else _DTYPES:
            row = _compare(
                kernel.name,
                dtype,
                partial(parity.call_kernel, kernel, backend, dtype),
                partial(parity.call_kernel, kernel, cpu, dtype),
                expected,
                None if emulated else device,
            )
            rows.append(row)
    report["kernels"] = rows
    return _failures(rows)


def _check_functions(device: str, emulated: bool, report: dict[str, Any]) -> int:
    """The table of functions and their gradients, float32; how many are wrong."""
    _headline("function and its gradients", emulated)
    rows = []
    for function in parity.functions():
        row = _compare(
            function.name,
            "float32",
            partial(parity.call_function, function, device, "float32"),
            partial(parity.call_function, function, "cpu", "float32"),
            parity.call_function(function, "cpu", "float64"),
            None if emulated else device,
        )
        rows.append(row)
    report["functions"] = rows
    return _failures(rows)


def _check_training(device: str, report: dict[str, Any]) -> int:
    """The face CNN, some steps on both and once more for the same bits; what is wrong."""
    _say(f"\nface CNN, {_STEPS} steps of SGD with momentum, batch 8, float32")
    try:
        ours = parity.train_face_cnn(device, "float32", _STEPS)
        again = parity.train_face_cnn(device, "float32", _STEPS)
    except Exception as error:  # whatever it is, it belongs into the report
        _say(f"  FAIL: {type(error).__name__}: {error}")
        report["training"] = [{"name": "training", "ok": False, "raised": repr(error)}]
        return 1
    expected = parity.train_face_cnn("cpu", "float64", _STEPS)
    rows = []
    for name, arrays in ours.items():
        distance = parity.error(arrays, expected[name])
        rows.append({"name": name, "error": distance, "ok": distance < parity.TRAINING_TOLERANCE})
    apart = max(parity.error(arrays, again[name]) for name, arrays in ours.items())
    rows.append({"name": "repeated: the same bits", "error": apart, "ok": apart == 0.0})
    for row in rows:
        _say(f"  {row['name']:<34}{row['error']:>10.1e}  {'ok' if row['ok'] else 'FAIL'}")
    report["training"] = rows
    return _failures(rows)


def _measure(device: str, report: dict[str, Any]) -> None:
    """The limits of a real device."""
    _say("\nwhat the device can do at best")
    report["limits"] = figures = {}
    measures: dict[str, Callable[[], float | None]] = {
        "seconds a launch": lambda: limits.launch_time(device),
        "bytes a second, copied on the device": lambda: limits.copy_bandwidth(device),
        "bytes a second, uploaded by the loader": lambda: limits.upload_bandwidth(device),
        "operations a second, matrix product float32": lambda: limits.matmul_peak(device),
        "operations a second, matrix product float16": lambda: limits.matmul_peak(
            device, "float16"
        ),
    }
    for name, measure in measures.items():
        try:
            figures[name] = measure()
            _say(f"  {name:<46}{figures[name]:>12.3g}")
        except Exception as error:  # a full memory, say: the other figures stand
            _say(f"  {name:<46}not measured: {type(error).__name__}: {error}")


# -- rows -----------------------------------------------------------------------------------------


def _compare(
    name: str,
    dtype: str,
    there: Callable[[], Any],
    here: Callable[[], Any],
    expected: Any,
    device: str | None,
) -> dict[str, Any]:
    """One row, said and returned; ``device`` None: without times."""
    row: dict[str, Any] = {"name": name, "dtype": dtype}
    try:
        row["error"] = parity.error(there(), expected)
        row["ok"] = row["error"] < parity.TOLERANCE[dtype]
    except Exception as error:  # whatever it is, it belongs into the report
        row |= {"error": None, "ok": False, "raised": f"{type(error).__name__}: {error}"}
    times = ""
    if device is not None and row["ok"]:
        row["device_seconds"] = limits.seconds(get_backend(device), there)
        row["cpu_seconds"] = limits.seconds(get_backend("cpu"), here)
        times = f"{row['device_seconds'] * 1e6:>12.0f}{row['cpu_seconds'] * 1e6:>12.0f}"
    shown = row.get("raised", f"{row['error'] or 0:>10.1e}{parity.TOLERANCE[dtype]:>10.0e}")
    _say(f"{name:<34}{dtype:<9}{shown}  {'ok  ' if row['ok'] else 'FAIL'}{times}")
    return row


def _headline(what: str, emulated: bool) -> None:
    times = "" if emulated else f"{'device us':>12}{'cpu us':>12}   (with the copies to and fro)"
    _say(f"\n{what:<34}{'dtype':<9}{'error':>10}{'limit':>10}      {times}")


def _failures(rows: list[dict[str, Any]]) -> int:
    return sum(not row["ok"] for row in rows)


# -- words ----------------------------------------------------------------------------------------


def _versions() -> str:
    import numpy as np

    return f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.platform()}"


def _finish(options: argparse.Namespace, report: dict[str, Any], verdict: str, code: int) -> int:
    _say(f"\n{verdict}")
    report["verdict"] = verdict
    if options.json is not None:
        temporary = options.json.with_name(options.json.name + ".part")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(report, file, indent=1, default=str)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(options.json)
        _say(f"written: {options.json}")
    return code


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
