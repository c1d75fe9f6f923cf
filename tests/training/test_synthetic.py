"""The drawn faces: reproducible, aligned, and neither trivial nor hopeless to tell apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facemargin.metrics import all_pairs, eer
from facemargin.preprocessing import TEMPLATES, read_image
from training.synthetic import draw_face, draw_identity, draw_person, draw_scene, write_synthetic
from training.synthetic.canvas import Canvas
from training.synthetic.scene import Projection


def pictures(people: range, images: int) -> tuple[NDArray[np.uint8], list[str]]:
    drawn = [(picture, str(person)) for person in people for picture, _ in draw_person(5, person, images)]
    return np.stack([picture for picture, _ in drawn]), [person for _, person in drawn]


def test_a_person_depends_on_seed_and_number_alone() -> None:
    first = [picture for picture, _ in draw_person(1, 3, 4)]
    again = [picture for picture, _ in draw_person(1, 3, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=False))
    assert first[0].shape == (112, 112, 3)
    assert first[0].dtype == np.uint8
    for seed, person in ((2, 3), (1, 4)):
        assert not np.array_equal(draw_person(seed, person, 1)[0][0], first[0])


def test_folders_are_written_for_disjoint_people(tmp_path: Path) -> None:
    assert write_synthetic(tmp_path / "a", 3, 2, 7) == 6
    assert write_synthetic(tmp_path / "b", 2, 1, 7, first_person=3) == 2
    names = [sorted(folder.name for folder in (tmp_path / part).iterdir()) for part in "ab"]
    assert names == [["synthetic-0000", "synthetic-0001", "synthetic-0002"], ["synthetic-0003", "synthetic-0004"]]
    files = sorted((tmp_path / "a" / "synthetic-0001").iterdir())
    assert [path.name for path in files] == ["synthetic-0001_0001.jpg", "synthetic-0001_0002.jpg"]
    written = read_image(files[0]).astype(int)
    assert np.abs(written - draw_person(7, 1, 1)[0][0]).mean() < 8  # JPEG


def test_processes_do_not_change_the_pictures(tmp_path: Path) -> None:
    counts: list[int] = []
    write_synthetic(tmp_path / "one", 2, 2, 0)
    write_synthetic(tmp_path / "two", 2, 2, 0, workers=2, progress=counts.append)
    assert counts == [2, 2]
    for path in sorted((tmp_path / "one").rglob("*.jpg")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"people": 0}, "people must be at least 1, got 0"),
        ({"images_per_person": 0}, "images_per_person must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"first_person": -1}, "first_person must be at least 0, got -1"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_wrong_numbers_are_named(changes: dict[str, int], message: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"people": 1, "images_per_person": 1, "seed": 0, **changes}
    with pytest.raises(ValueError, match=message):
        write_synthetic(tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_landmarks_lie_where_alignment_leaves_them() -> None:
    distances = []
    for number in range(100):
        rng = np.random.default_rng([0, number])
        person, scene = draw_identity(rng), draw_scene(rng)
        projection = Projection(person, scene)
        distances.append(
            np.linalg.norm(projection(*projection.landmarks(person)) - TEMPLATES["arcface-112"].points, axis=1)
        )
    assert np.median(distances) < 3  # pixels; poses leave a residual, as real ones do
    assert np.max(np.mean(distances, axis=1)) < 9


def test_the_same_person_in_the_same_scene_differs_by_noise_only() -> None:
    rng = np.random.default_rng(4)
    person, other, scene = draw_identity(rng), draw_identity(rng), draw_scene(rng)
    first, second, stranger = (
        draw_face(who, scene, np.random.default_rng(seed)).astype(float)
        for who, seed in ((person, 0), (person, 1), (other, 0))
    )
    assert np.abs(first - second).mean() < 2 * scene.noise
    assert np.abs(first - stranger).mean() > 3 * np.abs(first - second).mean()


def test_pixels_do_not_verify_but_a_learned_projection_does() -> None:
    """Fisher's discriminant of 50 people, on 20 others: half of the errors of the pixels, and still some."""
    crops, names = pictures(range(70), 8)
    rows = crops[:, ::4, ::4].reshape(len(crops), -1).astype(float)
    trained, tested = rows[:400], rows[400:]
    people = trained.reshape(50, 8, -1)
    axes = np.linalg.svd(trained - trained.mean(0), full_matrices=False)[2][:80].T
    within = (people - people.mean(1, keepdims=True)).reshape(400, -1) @ axes
    whitened = axes @ np.linalg.inv(np.linalg.cholesky(within.T @ within / 350 + 1e-3 * np.eye(80))).T
    fisher = np.linalg.svd((people.mean(1) - trained.mean(0)) @ whitened, full_matrices=False)[2][:30].T

    def error(vectors: NDArray[np.float64]) -> float:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        scores = all_pairs(unit.astype(np.float32), names[400:])
        return eer(scores.genuine, scores.impostor)

    pixels = error(tested - trained.mean(0))
    learned = error((tested - trained.mean(0)) @ whitened @ fisher)
    assert pixels > 0.3
    assert 0.05 < learned < 0.75 * pixels


def test_shapes_outside_the_picture_change_nothing() -> None:
    canvas = Canvas(np.full((4, 4, 3), 90, np.uint8), 112)
    before = canvas.pixels.copy()
    outside = np.array([(200.0, 200.0), (220.0, 200.0), (210.0, 230.0)])
    canvas.polygon(outside, (255, 0, 0))
    canvas.blend(outside, (255, 0, 0), alpha=1.0, blur=2.0)
    assert np.array_equal(canvas.pixels, before)
    assert canvas.finish().shape == (112, 112, 3)
