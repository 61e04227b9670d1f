"""SIGKILL at random moments: the resumed run ends with the bits of an uninterrupted run."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.scenario import BATCHES, train

ROOT = Path(__file__).parents[2]
LIFE = 1.0  # seconds until a process is killed at the latest, once it has imported the library
PAUSE = 0.04  # seconds after each step, so that the training lasts long enough


@pytest.mark.parametrize("kills", [3, pytest.param(500, marks=pytest.mark.slow)])
def test_killed_at_random(kills: int, tmp_path: Path) -> None:
    """Checkpoints are written continuously, so that many kills interrupt a write.

    A run that finishes before the last kill is checked, and the next one starts elsewhere.
    """
    chance, killed, run, resumed = random.Random(1), 0, 0, 0
    epochs = 4 if kills < 10 else 100
    expected = train(epochs=epochs).fingerprint()
    longest = LIFE + _start_up_time()
    while killed < kills:
        run += 1
        while True:
            life = None if killed == kills else chance.uniform(0.1, longest)
            ended, said, fingerprint = _live(tmp_path / str(run), epochs, life)
            resumed += "resuming from" in said
            assert "damaged" not in said
            assert "not an intact" not in said
            if ended:
                assert fingerprint == expected
                break
            killed += 1
    assert killed == kills
    assert resumed > 0


def _start_up_time() -> float:
    """Seconds until a process has imported the library: several on a busy machine."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import tests.training.scenario"], cwd=ROOT, check=True)
    return time.monotonic() - began


def _live(place: Path, epochs: int, life: float | None) -> tuple[bool, str, str]:
    """Whether a process ended by itself, its output, and its result; killed after ``life``."""
    command = [sys.executable, "-m", "tests.training.scenario", place, "0", PAUSE, epochs, "cpu"]
    pause = 0.0 if life is None else PAUSE
    command[5] = pause
    process = subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if life is not None:
        time.sleep(life)
        process.kill()
    result, said = process.communicate(timeout=300)
    if process.returncode < 0:
        return False, said, ""
    assert process.returncode == 0, said
    return True, said, result.strip()


def test_a_run_is_long_enough_to_be_killed() -> None:
    assert 100 * BATCHES * PAUSE > 10
