"""The command line of ``face_detect.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import tinynn
from tinynn.errors import ArgumentError
from tinynn.files import local_path
from tinynn.messages import say

from . import detection, identification

PROGRAM = "face_detect.py"
DESCRIPTION = "Detect faces in photos and identify people, with networks trained from scratch."
QUICK_EPOCHS = 8

EXAMPLES = """\
examples:
  %(prog)s                        train and test both networks, at most 5 minutes
  %(prog)s --quick                both with little training, under 60 s
  %(prog)s train --seed 1         train the face detector only
  %(prog)s detect party.jpg       detect faces with the weights trained last
  %(prog)s identify               identify 40 people, 5 training images of each
  %(prog)s identify --data people/ --epochs 40
  %(prog)s identify --model original --arrays ann=ann.npy bob=bob.npy
  %(prog)s identify --checkpoint-dir s3://bucket/run --resume auto --watch-spot

`face_detect.py COMMAND --help` shows the options of a command.
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The checked options; ``command`` is "train", "detect", "identify", or "all" if none is given.

    Exits with code 2 and one line on stderr if an option is invalid.
    """
    options = _parser().parse_args(arguments)
    if options.command != "detect":
        _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    if options.checkpoint_dir is None and (options.resume != "never" or options.watch_spot):
        raise ArgumentError("--resume and --watch-spot need a --checkpoint-dir")
    if options.command == "train" and options.data is not None:  # given before the command
        raise ArgumentError("--data goes with identify: the detector learns from packaged photos")
    if options.skip_bad and not options.data:
        raise ArgumentError("--skip-bad needs --data")
    if options.arrays and options.data:
        raise ArgumentError("--arrays and --data are two sources of images: give only one of them")


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        say(f"{PROGRAM}: error: {message} (--help shows the options)")
        self.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add(parser, f"{IDENTIFY_EPOCHS}; {DETECT_EPOCHS}", SHARED + DATA + TRAINING + IDENTIFY)
    parser.set_defaults(
        command="all", out=Path("face_detect_out"), seed=0, device=tinynn.default_device(),
        quick=False, model="small", arrays=None, skip_bad=False, checkpoint_dir=None,
        resume="never", checkpoint_every=60.0, watch_spot=False, micro_batch=None, tensorboard=None,
    )  # fmt: skip
    commands = parser.add_subparsers(
        metavar="COMMAND", title="commands (without one: train and identify)"
    )
    train = _command(commands, "train", "train and test the face detector")
    _add(train, DETECT_EPOCHS, SHARED + TRAINING)
    detect = _command(commands, "detect", "detect faces in your own photos")
    detect.add_argument("photos", metavar="PHOTO", nargs="+", type=Path, help="an image file")
    _add(detect, "", ("--weights", *SHARED))
    identify = _command(commands, "identify", "train and test a network that identifies people")
    _add(identify, IDENTIFY_EPOCHS, ("--model", "--arrays", *DATA, *SHARED, *TRAINING, *IDENTIFY))
    return parser


def _command(commands: Any, name: str, text: str) -> _Parser:
    """A command; options left out keep the value given before the command."""
    parser: _Parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.set_defaults(command=name)
    return parser


def _add(parser: argparse.ArgumentParser, epochs: str, names: Sequence[str]) -> None:
    """Add the options ``names``; checkpoint options follow ``--epochs``, in their own section."""
    for name in names:
        settings = {"help": epochs} if name == "--epochs" else {}
        parser.add_argument(name, **OPTIONS[name], **settings)
    if "--epochs" in names:
        section = parser.add_argument_group("checkpoints", ABOUT_CHECKPOINTS)
        for name in CHECKPOINTS:
            section.add_argument(name, **OPTIONS[name])


def _integer(text: str) -> int:
    value = int(text) if text.isdecimal() and len(text) <= 20 else -1
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(
            f"must be an integer from 0 to 2**64 - 1, got {text[:40]!r}"
        )
    return value


def _positive(text: str) -> int:
    value = _integer(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be at least 1, got 0")
    return value


def _micro_batch(text: str) -> int | str:
    return text if text == "auto" else _positive(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds >= 0, got {text[:40]!r}")
    return value


def _path(text: str) -> Path:
    """A file or directory; ~ is home, also in ``--out=~/results``, which shells do not expand."""
    try:
        return local_path(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _location(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must be a directory or a URL, got ''")
    return text


def _named_file(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must be NAME=FILE.npy, got {text!r}")
    return name, _path(path)


SHARED = ("--out", "--device")
DATA = ("--data", "--skip-bad")
TRAINING = ("--epochs", "--batch-size", "--seed", "--quick")
IDENTIFY = ("--micro-batch", "--tensorboard")
CHECKPOINTS = ("--checkpoint-dir", "--resume", "--checkpoint-every", "--watch-spot")

ABOUT_CHECKPOINTS = """\
SIGTERM and Ctrl-C end the training with a checkpoint and exit code 75;
the same command with --resume auto, on this or another machine, resumes it exactly"""
DETECT_EPOCHS = (
    "detection: epochs of the first and of the last round; the rounds between have one each "
    f"(default: {detection.FULL.first_epochs} and {detection.FULL.last_epochs}; with --quick "
    f"{detection.QUICK.first_epochs} and {detection.QUICK.last_epochs})"
)
IDENTIFY_EPOCHS = "identification: epochs (default: " + ", ".join(
    f"{recipe.epochs} for {name}" for name, recipe in sorted(identification.RECIPES.items())
) + f"; {QUICK_EPOCHS} with --quick)"  # fmt: skip

OPTIONS: dict[str, dict[str, Any]] = {
    "--out": {
        "metavar": "DIR", "type": _path, "help": "output directory (default: face_detect_out)",
    },
    "--device": {
        "metavar": "NAME",
        "help": "cpu, cuda or cuda:N (default: the environment variable TINYNN_DEVICE, else cpu)",
    },
    "--data": {
        "metavar": "DIR", "type": _path,
        "help": "directory with one subdirectory of photos per person, instead of ORL",
    },
    "--skip-bad": {
        "action": "store_true",
        "help": "skip unreadable files in --data with a warning instead of stopping",
    },
    "--epochs": {"metavar": "N", "type": _positive},
    "--batch-size": {
        "metavar": "N", "type": _positive,
        "help": "images per training step (default: depends on the network)",
    },
    "--seed": {
        "metavar": "N", "type": _integer, "help": "random seed, 0 to 2**64 - 1 (default: 0)",
    },
    "--quick": {
        "action": "store_true",
        "help": "little training, under 60 s in total: a smoke test, not a result",
    },
    "--weights": {
        "metavar": "FILE", "type": _path, "default": None,
        "help": "weights of the detector (default: detect.safetensors in the directory --out)",
    },
    "--model": {
        "choices": sorted(identification.RECIPES),
        "help": "small: for 40 x 48 pixels (default); original: the CNN of 2017, for 91 x 91",
    },
    "--arrays": {
        "metavar": "NAME=FILE", "nargs": "+", "type": _named_file,
        "help": "one .npy file per person, uint8 (images, height, width), instead of ORL",
    },
    "--micro-batch": {
        "metavar": "N", "type": _micro_batch,
        "help": "identification: accumulate gradients over micro-batches of N images to save "
        "memory; auto: as many as fit",
    },
    "--tensorboard": {
        "metavar": "DIR", "type": _path,
        "help": "identification: log metrics for TensorBoard (with '.[tensorboard]' installed)",
    },
    "--checkpoint-dir": {
        "metavar": "DIR", "type": _location,
        "help": "save checkpoints in this directory or URL (s3://bucket/run, with '.[s3]' "
        "installed)",
    },
    "--resume": {
        "choices": ("auto", "never"),
        "help": "auto: resume from the newest intact checkpoint, if any; never: refuse a directory "
        "that contains checkpoints (default)",
    },
    "--checkpoint-every": {
        "metavar": "SECONDS", "type": _seconds,
        "help": "seconds between two checkpoints (default: 60)",
    },
    "--watch-spot": {
        "action": "store_true",
        "help": "on an AWS spot instance: end with a checkpoint at the interruption notice",
    },
}  # fmt: skip
