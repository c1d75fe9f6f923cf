"""The picture of embeddings in a plane: a file for sane input, a sentence for the rest."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.mnist.picture import COLOURS, Plane, plot_planes


def plane(count: int = 300, dim: int = 2) -> Plane:
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, count, dtype=np.uint8)
    angles = 2 * np.pi * np.arange(10) / 10
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    embeddings = 5 * rows[labels] + random.standard_normal((count, 2)).astype(np.float32)
    return Plane(np.resize(embeddings, (count, dim)), labels, rows, "a note")


def test_a_panel_a_head(tmp_path: Path) -> None:
    sizes = []
    for panels in (1, 5):
        path = plot_planes({f"head {n}": plane() for n in range(panels)}, tmp_path / "new" / f"{panels}.png", title="t")
        picture = cv2.imread(str(path))
        assert picture is not None
        assert len(np.unique(picture[::5, ::5].reshape(-1, 3), axis=0)) > 50
        sizes.append(picture.shape)
    assert sizes[1][1] == pytest.approx(4 * sizes[0][1], abs=2)
    assert 1.5 * sizes[0][0] < sizes[1][0] < 2 * sizes[0][0]


def test_equal_planes_give_equal_files(tmp_path: Path) -> None:
    files = [plot_planes({"softmax": plane(40)}, tmp_path / f"{name}.png") for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_points_at_the_origin_are_drawn(tmp_path: Path) -> None:
    flat = plane(20)._replace(embeddings=np.zeros((20, 2), np.float32), rows=np.zeros((10, 2), np.float32))
    assert plot_planes({"softmax": flat}, tmp_path / "flat.png").is_file()


def test_a_colour_a_digit() -> None:
    assert len(set(COLOURS)) == 10


def test_what_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one head"):
        plot_planes({}, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"must end in \.png, got 'a\.jpg'"):
        plot_planes({"softmax": plane()}, tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"'arcface'.*\(300, 3\)"):
        plot_planes({"arcface": plane(dim=3)}, tmp_path / "a.png")
    broken = plane()
    broken.embeddings[3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        plot_planes({"softmax": broken}, tmp_path / "a.png")
