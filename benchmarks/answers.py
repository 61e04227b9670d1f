"""Evaluate the results of cpu_vs_gpu.py: tables, crossover, bottlenecks, cost, plot."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

LAPTOP_EPOCH = 141.0  # seconds per epoch of the original training on a 2.53 GHz Core 2 Duo
ORIGINAL_IMAGES, ORIGINAL_EPOCHS = 362, 3  # 90 % of 403 photos
OWN = "this machine"


def load_instances() -> dict[str, Any]:
    """The table of instance prices."""
    text = (Path(__file__).parent / "instances.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def by_batch(rows: list[Any]) -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """(subject, work) -> batch -> device -> row; the device is "cpu" or "gpu"."""
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        batches = found.setdefault((row.subject, row.work), {})
        batches.setdefault(row.batch, {})["cpu" if row.device == "cpu" else "gpu"] = row
    return found


def table(report: Any) -> str:
    """A table of all throughputs, or of the call counts of an emulated device."""
    lines: list[str] = []
    if report.counts:
        lines += [
            "",
            "calls counted on the EMULATED device, one step at batch 2",
            f"{'':22}{'launches':>10}{'library':>9}{'bytes up':>10}{'down':>6}{'syncs':>7}",
        ]
        for row in report.counts:
            title = f"{row['subject']}, {row['work']}"
            lines.append(
                f"{title:22}{row['launches']:>10}{row['library_calls']:>9}{row['bytes_up']:>10}"
                f"{row['bytes_down']:>6}{row['synchronizations']:>7}"
            )
    if not report.rows:
        return "\n".join(lines)
    gpu = any(row.device != "cpu" for row in report.rows)
    heads = [f"{'images/s':>12}{'spread':>9}{'with upload':>13}"] * (1 + gpu)
    title = f"{'':22}{'batch':>7}" + f"{'CPU':^34}" + (f"{'GPU':^34}{'speedup':>9}" if gpu else "")
    lines += ["", title, f"{'':29}" + "".join(heads)]
    for (subject, work), batches in by_batch(report.rows).items():
        for batch, rows in batches.items():
            cells = "".join(_cell(rows.get(device)) for device in ("cpu", "gpu")[: 1 + gpu])
            ratio = f"{speedup(rows):>8.1f}x" if "cpu" in rows and "gpu" in rows else ""
            lines.append(f"{f'{subject}, {work}':22}{batch:>7}{cells}{ratio}")
    return "\n".join(lines)


def _cell(row: Any) -> str:
    if row is None:
        return f"{'-':>12}{'':>9}{'-':>13}"
    uploaded = row.batch / row.with_upload
    return f"{row.images_per_second:>12,.0f}{f'±{row.spread / 2:.0%}':>9}{uploaded:>13,.0f}"


def speedup(rows: dict[str, Any]) -> float:
    """Throughput of the GPU relative to the CPU at one batch size."""
    return float(rows["cpu"].step / rows["gpu"].step)


def crossover(ratios: dict[int, float]) -> float | None:
    """The batch size at which the speedup reaches 1, interpolated on logarithmic scales.

    The smallest batch size if the speedup is above 1 there; None if it never is.
    """
    batches = sorted(ratios)
    for before, batch in zip([None, *batches], batches, strict=False):
        if ratios[batch] >= 1:
            if before is None:
                return float(batch)
            low, high = math.log(ratios[before]), math.log(ratios[batch])
            share = -low / (high - low)
            return math.exp(math.log(before) * (1 - share) + math.log(batch) * share)
    return None


def bound(row: Any, limit: dict[str, float]) -> tuple[str, dict[str, float]]:
    """The bottleneck of a step, and the lower bounds of its time in seconds by resource."""
    times = {
        "launches": row.issue,
        "bandwidth": row.least_bytes / limit["copy"],
        "arithmetic": row.operations / limit["matmul"],
    }
    return max(times, key=lambda name: times[name]), times


def answers(report: Any, options: Any) -> str:
    """Conclusions: crossover, bottlenecks, time of the original training, and cost."""
    lines: list[str] = []
    if report.cold_start:
        first = max(report.cold_start.items(), key=lambda entry: entry[1])
        lines.append(f"cold start: up to {first[1]:.2f} s for the first step ({first[0]})")
    for key, reason in report.stopped.items():
        lines.append(f"no larger batch for {key}: {reason}")
    found = by_batch(report.rows)
    for (subject, work), batches in found.items():
        both = {batch: rows for batch, rows in batches.items() if {"cpu", "gpu"} <= set(rows)}
        if not both:
            continue
        ratios = {batch: speedup(rows) for batch, rows in both.items()}
        start, best = crossover(ratios), max(ratios, key=lambda batch: ratios[batch])
        wins = [batch for batch in ratios if ratios[batch] >= 1]
        begins = "the GPU is never faster"
        if start is not None:
            begins = f"the GPU is faster from batch {start:.0f} on"
            if any(ratios[batch] < 1 for batch in ratios if batch > wins[0]):
                begins = "the GPU is faster only at batch " + ", ".join(map(str, wins))
        lines.append(
            f"{subject}, {work}: {begins}; maximum speedup {ratios[best]:.1f}x at batch {best}"
        )
        for batch, rows in both.items():
            if rows["gpu"].device in report.limits:
                lines.append("  " + _bound_line(batch, rows["gpu"], report.limits))
    lines += _original_run(found)
    lines += _dollars(report, options, found)
    return "\n".join(["", *lines]) if lines else ""


def _bound_line(batch: int, row: Any, measured: dict[str, Any]) -> str:
    name, times = bound(row, measured[row.device])
    parts = ", ".join(f"{key} {value / row.step:.0%}" for key, value in times.items())
    launches = f"at least {row.launches} kernel launches"
    return f"batch {batch}: bound by {name} ({parts} of {row.step * 1e3:.2f} ms; {launches})"


def _original_run(found: dict[Any, Any]) -> list[str]:
    """The time that the training of 2017 takes on this machine."""
    batches = found.get(("original", "training"), {})
    lines = []
    for device in ("cpu", "gpu"):
        speeds = [rows[device].images_per_second for rows in batches.values() if device in rows]
        if speeds:
            seconds = ORIGINAL_IMAGES * ORIGINAL_EPOCHS / max(speeds)
            lines.append(
                f"the original training ({ORIGINAL_EPOCHS} epochs of {ORIGINAL_IMAGES} images, "
                f"{LAPTOP_EPOCH:.0f} s per epoch on a laptop) on this {device.upper()}: "
                f"{seconds / ORIGINAL_EPOCHS:.1f} s per epoch, {seconds:.1f} s in total"
            )
    return lines


def prices(report: Any, options: Any) -> dict[str, tuple[float, str]]:
    """Dollars per hour of the measured instance types, by name, and the source of each price."""
    listed = load_instances()
    if options.price is not None:
        return {options.instance or OWN: (options.price, "--price")}
    source = f"on demand, us-east-1, {listed['date']}"
    titles = [device["title"] for device in report.devices if device["name"] != "cpu"]
    entries = listed["instances"]
    if options.instance is not None:
        entries = [entry for entry in entries if entry["name"] == options.instance]
    else:
        alone = titles if len(titles) == 1 else []  # machines with several GPUs cost more
        entries = [e for e in entries if e["gpus"] == 1 and any(_is(e["gpu"], t) for t in alone)]
    part = "; one of its {} GPUs was measured"
    return {
        e["name"]: (e["price"], source + (part.format(e["gpus"]) if e["gpus"] > 1 else ""))
        for e in entries
    }


def _is(gpu: str, title: str) -> bool:
    """Whether a device's title names this GPU: "NVIDIA A10G", "Tesla K80", "NVIDIA L4"."""
    return gpu in title.replace("-", " ").split()


def _dollars(report: Any, options: Any, found: dict[Any, Any]) -> list[str]:
    """$/1M images and dollars per trained model, at the measured throughput."""
    lines = []
    known = prices(report, options)
    if report.emulated:  # only this CPU was measured, which is not an instance type
        known = {name: entry for name, entry in known.items() if entry[1] == "--price"}
    for (subject, work), batches in found.items():
        if work != "training" or subject not in ("face", "original"):
            continue
        for device in ("cpu", "gpu"):
            speeds = [rows[device].images_per_second for rows in batches.values() if device in rows]
            for name, (price, source) in known.items() if speeds else ():
                per_image = price / 3600 / max(speeds)
                model = options.epochs * options.images * per_image
                lines.append(
                    f"{subject}, training on the {device.upper()} of {name} (${price:g} per hour, "
                    f"{source}): ${per_image * 1e6:.4f}/1M images; ${model:.4f} for a model of "
                    f"{options.epochs} epochs of {options.images:,} images"
                )
    if found and not known:
        lines.append("cost: set the price of this machine with --price or --instance")
    return lines


def plot(report: Any, form: str) -> bytes:
    """Plot throughput over batch size for both devices, with the crossover."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SystemExit("--plot requires matplotlib: pip install -e '.[bench]'") from error
    found = by_batch(report.rows)
    figure = Figure(figsize=(5.5 * min(2, len(found)), 3.6 * -(-len(found) // 2)), layout="tight")
    for number, ((subject, work), batches) in enumerate(found.items(), start=1):
        axes = figure.add_subplot(-(-len(found) // 2), min(2, len(found)), number)
        for device, color in (("cpu", "tab:blue"), ("gpu", "tab:green")):
            points = [
                (b, rows[device].images_per_second) for b, rows in batches.items() if device in rows
            ]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=color, label=device.upper())
        ratios = {b: speedup(rows) for b, rows in batches.items() if {"cpu", "gpu"} <= set(rows)}
        start = crossover(ratios) if ratios else None
        if start is not None:
            axes.axvline(start, color="gray", linestyle=":", label=f"crossover at {start:.0f}")
        axes.set(title=f"{subject}, {work}", xlabel="batch size", ylabel="images/s")
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(batches), [str(batch) for batch in batches])
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=120)
    return buffer.getvalue()
