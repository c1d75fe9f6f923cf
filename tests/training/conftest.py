"""A small image folder of drawn "people" that a small network learns in seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from training.config import TrainConfig, make_config

SIDE = 32


def draw_people(root: Path, people: int, images: int, seed: int = 0) -> Path:
    """Folders of noisy colour patterns, one pattern a person."""
    random = np.random.default_rng(seed)
    for person in range(people):
        folder = root / f"person{person:02}"
        folder.mkdir(parents=True)
        pattern = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        base = cv2.resize(pattern, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.float64)
        for number in range(images):
            noisy = np.clip(base + random.normal(0, 12, base.shape), 0, 255).astype(np.uint8)
            assert cv2.imwrite(str(folder / f"{number}.png"), noisy)
    return root


@pytest.fixture(scope="session")
def drawn_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight people with six pictures each."""
    return draw_people(tmp_path_factory.mktemp("people"), 8, 6)


@pytest.fixture(scope="session")
def other_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people for validation, not among `drawn_people`."""
    return draw_people(tmp_path_factory.mktemp("others"), 4, 3, seed=1)


@pytest.fixture
def tiny_config(drawn_people: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A run of a few seconds; keywords replace its values."""

    def make(**changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "output": tmp_path / "run",
            "epochs": 2,
            "batch_size": 8,
            "device": "cpu",
            "precision": "float32",
            "data": {"folders": [drawn_people], "workers": 0},
            "preprocessing": {"size": [SIDE, SIDE]},
            "backbone": {"name": "iresnet18", "width": 0.0625, "embedding_dim": 16, "dropout": 0.2},
            "optimizer": {"learning_rate": 0.05},
        }
        return make_config({**values, **changes}, "test")

    return make
