"""A training run with everything that a resume must restore; also a program to be killed.

``python -m tests.training.scenario PLACE EVERY PAUSE EPOCHS DEVICE`` trains, with checkpoints in
PLACE every EVERY seconds and a pause of PAUSE seconds after each step; prints a fingerprint.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.data import ArrayDataset, DataLoader, augment
from tinynn.errors import Interrupted
from tinynn.training import EXIT_CODE, Checkpoints, History, accuracy, fit, predicted_classes

EXAMPLES, BATCH, EPOCHS = 22, 5, 3  # the last batch is smaller
BATCHES = -(-EXAMPLES // BATCH)


class Trained(NamedTuple):
    model: nn.Module
    optimizer: optim.Optimizer
    history: History

    def fingerprint(self) -> str:
        """A hash of all bits of weights, statistics, optimizer state and metrics."""
        found = hashlib.sha256(repr(self.history).encode())
        arrays = {path: tensor.numpy() for path, tensor in self.model.state_dict().items()}
        for path, array in sorted({**arrays, **self.optimizer.state_dict()["arrays"]}.items()):
            found.update(path.encode())
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def data(seed: int) -> ArrayDataset:
    rng = np.random.default_rng(seed)
    return ArrayDataset(
        rng.integers(0, 256, (EXAMPLES, 8, 7, 1)).astype(np.uint8), rng.integers(0, 3, EXAMPLES)
    )


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same", bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(4 * 4 * 4, 3),
    )


def train(
    checkpoints: Checkpoints | None = None,
    *,
    epochs: int = EPOCHS,
    device: str = "cpu",
    callbacks: Sequence[Callable[..., None]] = (),
    **options: Any,
) -> Trained:
    """Shuffling, augmentation, dropout, batch norm, AdamW, a schedule, micro-batches, keep_best."""
    tinynn.manual_seed(3)
    model = network().to(device)
    optimizer = optim.AdamW(model, optim.one_cycle(0.02, epochs * BATCHES), weight_decay=0.01)
    changed = augment.Compose(augment.RandomFlip(), augment.RandomNoise(0.05))
    loader = DataLoader(data(0), BATCH, shuffle=True, seed=4, augment=changed, device=device)
    options = {
        "micro_batch": 2,
        "keep_best": "accuracy",
        "description": None,
        "metrics": {"correct": lambda scores, truth: accuracy(predicted_classes(scores), truth)},
        **options,
    }
    history = fit(
        model,
        loader,
        optimizer,
        F.cross_entropy,
        epochs=epochs,
        validation=DataLoader(data(1), 8, device=device),
        checkpoints=checkpoints,
        callbacks=callbacks,
        **options,
    )
    return Trained(model, optimizer, history)


def main() -> int:
    place, every, pause, epochs, device = sys.argv[1:]
    checkpoints = Checkpoints(place, every=float(every), keep=2)
    rest: list[Callable[..., None]] = [lambda event, state: time.sleep(float(pause))]
    try:
        trained = train(checkpoints, epochs=int(epochs), device=device, callbacks=rest)
    except Interrupted as interruption:
        sys.stderr.write(f"{interruption}\n")
        return EXIT_CODE
    sys.stdout.write(trained.fingerprint() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
