"""Drawn faces as small data sets, and the cases that the checks take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.protocols.insightface_bin import write_bin
from training.doctor.case import Case
from training.doctor.opening import open_set
from training.synthetic.writing import draw_person

Image = NDArray[np.uint8]
People = dict[str, list[Image]]


@pytest.fixture(scope="session")
def drawn_faces() -> People:
    """Eight drawn people with three pictures each; copy before changing."""
    return {f"person-{k}": [picture for picture, _ in draw_person(5, k, 3)] for k in range(8)}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, People], Path]:
    """Writes people as a folder of PNG files under a name."""

    def to_folder(name: str, people: People) -> Path:
        for person, pictures in people.items():
            (tmp_path / name / person).mkdir(parents=True)
            for number, picture in enumerate(pictures):
                assert cv2.imwrite(str(tmp_path / name / person / f"{number}.png"), picture[..., ::-1])
        return tmp_path / name

    return to_folder


@pytest.fixture
def bin_of(tmp_path: Path) -> Callable[[str, People], Path]:
    """Writes people as an evaluation ``.bin``: a genuine pair of the first two pictures of each."""

    def to_bin(name: str, people: People) -> Path:
        encoded = [
            cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
            for pictures in people.values()
            for picture in pictures[:2]
        ]
        write_bin(tmp_path / name, encoded, [True] * len(people))
        return tmp_path / name

    return to_bin


@pytest.fixture
def case_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Case]:
    """Makes a case of data sets by role, on a machine without a face detector."""
    monkeypatch.setenv("FACEMARGIN_MODELS", str(tmp_path / "no models"))

    def make(sample: int = 0, **sets: Any) -> Case:
        return Case(tuple(open_set(path, path.name, role, sample) for role, path in sets.items()))  # type: ignore[arg-type]

    return make
