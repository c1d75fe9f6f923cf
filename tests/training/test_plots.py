"""The pictures: written whole, of readable size, the same for the same scores, and with ink where the curve is."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.plots import Scores, plot_roc, plot_scores


def drawn(seed: int = 0, impostors: int = 1500) -> Scores:
    random = np.random.default_rng(seed)
    return Scores(random.normal(0.5, 0.15, 1500), random.normal(0.05, 0.1, impostors))


def ink(path: Path, colour: tuple[int, int, int]) -> np.ndarray:
    """Where the picture has this RGB colour, (H, W) bool."""
    picture = cv2.imread(str(path))
    assert picture is not None
    return (np.abs(picture[..., ::-1].astype(int) - colour) < 12).all(axis=2)


FIRST, SECOND = (0x1F, 0x5F, 0xA8), (0xC8, 0x50, 0x1E)


def test_roc_of_two_models(tmp_path: Path) -> None:
    better = drawn()
    worse = Scores(np.asarray(better.genuine) - 0.2, better.impostor)
    path = plot_roc({"better": better, "worse": worse}, tmp_path / "made" / "roc.png", title="two models")
    height, width = cv2.imread(str(path)).shape[:2]
    assert (width, height) == (1080, 690)
    upper = slice(0, height // 2)  # above the legend
    rows_first, rows_second = (np.nonzero(ink(path, colour)[upper])[0] for colour in (FIRST, SECOND))
    assert rows_first.size > 100
    assert rows_second.size > 100
    assert rows_first.mean() < rows_second.mean()  # the better curve is higher


def test_many_models_have_their_legend_below(tmp_path: Path) -> None:
    few = plot_roc({"one": drawn()}, tmp_path / "few.png")
    many = plot_roc({f"head {k}": drawn(k) for k in range(9)}, tmp_path / "many.png")
    assert cv2.imread(str(many)).shape[0] > cv2.imread(str(few)).shape[0] + 100


def test_a_perfect_model_and_a_long_curve(tmp_path: Path) -> None:
    perfect = plot_roc({"perfect": Scores([0.9, 0.8], np.linspace(-0.2, 0.2, 100))}, tmp_path / "perfect.png")
    assert ink(perfect, FIRST).sum() > 100
    long = plot_roc({"all pairs": drawn(impostors=300_000)}, tmp_path / "long.svg")
    assert long.stat().st_size < 400_000  # thinned: a point for every impostor would be tens of megabytes


def test_histogram(tmp_path: Path) -> None:
    path = plot_scores(*drawn(), tmp_path / "scores.png", threshold=0.25, title="similarities")
    genuine, impostor = (np.nonzero(ink(path, colour)[150:])[1] for colour in (FIRST, SECOND))
    assert impostor.mean() < genuine.mean()


def test_equal_scores_give_equal_files(tmp_path: Path) -> None:
    for suffix in ("png", "svg"):
        first, second = (plot_roc({"m": drawn()}, tmp_path / f"{k}.{suffix}") for k in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_wrong_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"output must end in \.png or \.svg, got 'roc.pdf'"):
        plot_roc({"m": drawn()}, tmp_path / "roc.pdf")
    with pytest.raises(ValueError, match="curves must hold at least one"):
        plot_roc({}, tmp_path / "roc.png")
    with pytest.raises(ValueError, match="genuine must not be empty"):
        plot_scores([], [0.1], tmp_path / "scores.png")
    assert not list(tmp_path.iterdir())
