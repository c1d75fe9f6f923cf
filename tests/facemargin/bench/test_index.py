"""The benchmark of indexes: its galleries, its oracle, and a tiny run of all of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from facemargin.bench import galleries
from facemargin.bench.galleries import SHIFT, FaceGallery, Faces, RandomGallery, embed_folders, oracle
from facemargin.bench.index import app
from facemargin.bench.index_timing import recall_of
from facemargin.bundle import Bundle
from facemargin.errors import DataError
from facemargin.preprocessing import encode_png


@pytest.fixture
def faces() -> Faces:
    """Ten people; person p has 1 + p % 3 photographs."""
    people = np.repeat(np.arange(10), 1 + np.arange(10) % 3)
    vectors = np.random.default_rng(0).standard_normal((len(people), 24))
    return Faces((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), people)


def whole(gallery: FaceGallery | RandomGallery, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    blocks = list(gallery.blocks(count))
    return np.concatenate([ids for ids, _ in blocks]), np.concatenate([vectors for _, vectors in blocks])


def test_a_gallery_is_the_same_each_time_and_in_blocks_of_any_size(
    faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = FaceGallery(faces, 32, queries=4)
    ids, vectors = whole(gallery, 100)
    monkeypatch.setattr(galleries, "BLOCK", 7)
    np.testing.assert_array_equal(whole(gallery, 100)[1], vectors)
    assert ids.tolist() == list(range(100))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    random = RandomGallery(32, queries=3)
    np.testing.assert_array_equal(whole(random, 20)[1], whole(random, 20)[1])


def test_real_faces_come_first_with_their_cosines_and_queries_are_not_among_them(faces: Faces) -> None:
    gallery = FaceGallery(faces, 32, queries=4)
    real = len(faces.people) - 4
    _, vectors = whole(gallery, real)
    everything = np.concatenate([vectors, gallery.queries])
    people = np.concatenate([gallery.person(np.arange(real)), gallery.people])
    assert sorted(people.tolist()) == faces.people.tolist()
    assert (faces.people[:, None] == gallery.people).sum(axis=0).min() >= 2  # so that everyone looked for is there
    np.testing.assert_allclose(
        np.sort((everything @ everything.T).ravel()), np.sort((faces.vectors @ faces.vectors.T).ravel()), atol=1e-5
    )


def test_made_up_people_are_moved_by_one_displacement_for_all_their_photographs(faces: Faces) -> None:
    gallery = FaceGallery(faces, 32, queries=4)
    real = len(faces.people) - 4
    _, vectors = whole(gallery, 3 * real)
    people = gallery.person(np.arange(3 * real))
    assert len(set(people.tolist())) == 3 * 10
    copy = people[real : 2 * real]
    assert (copy == people[:real] + 10).all()
    displaced = [gallery._displacement(int(person)) for person in copy]
    np.testing.assert_allclose(np.linalg.norm(displaced, axis=1), SHIFT, rtol=1e-5)
    moved = vectors[:real] + np.array(displaced)
    np.testing.assert_allclose(
        vectors[real : 2 * real], moved / np.linalg.norm(moved, axis=1, keepdims=True), atol=1e-6
    )


def test_the_oracle_is_a_sort_of_all_similarities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(galleries, "BLOCK", 9)
    gallery = RandomGallery(16, queries=5)
    similarities = gallery.queries @ whole(gallery, 50)[1].T
    found = oracle(gallery, 50, 4)
    np.testing.assert_array_equal(found.ids, np.argsort(-similarities, axis=1)[:, :4])
    np.testing.assert_allclose(found.similarities, np.sort(similarities, axis=1)[:, ::-1][:, :4], atol=1e-6)


def test_recall_counts_what_is_as_good_as_the_last_of_the_best() -> None:
    best = np.array([[0.9, 0.8, 0.7], [0.5, 0.4, 0.3]], dtype=np.float32)
    found = np.array([[0.9, 0.7, 0.6], [0.5, 0.4, 0.3]], dtype=np.float32)
    assert recall_of(found, best) == pytest.approx(5 / 6)


def test_faces_that_cannot_be_used_are_refused(faces: Faces, tmp_path: Path, tiny_bundle: Bundle) -> None:
    with pytest.raises(DataError, match="24 components; --dim 8"):
        FaceGallery(faces, 8, queries=4)
    with pytest.raises(DataError, match="nobody has two"):
        FaceGallery(Faces(faces.vectors[:3], np.arange(3)), 32, queries=4)
    with pytest.raises(DataError, match="holds no pictures"):
        embed_folders([tmp_path], tiny_bundle.path)


def test_a_tiny_run_writes_figures_and_page(tmp_path: Path, tiny_bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    for person in "abc":
        (tmp_path / "crops" / person).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 256, (*tiny_bundle.manifest.preprocessing.size, 3), dtype=np.uint8)
            (tmp_path / "crops" / person / f"{number}.png").write_bytes(encode_png(pixels))
    places = [
        "--images",
        str(tmp_path / "crops"),
        "--bundle",
        str(tiny_bundle.path),
        "--json",
        str(tmp_path / "i.json"),
    ]
    result = CliRunner().invoke(app, [*places, *["--sizes", "300", "--dim", "32", "--queries", "6", "--repeats", "2"]])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "i.json").read_text())
    assert [(r["gallery"], r["count"]) for r in found["results"]] == [("faces", 300), ("random", 300)]
    for r in found["results"]:
        assert r["rows"][0]["recall"] == 1.0
        assert r["rows"][0]["rank1"] == r["exact_rank1"]
        assert all(len(row["p99_ms"]) == 2 and row["p50_ms"] <= row["p99_ms"] for row in r["rows"])
    page = (tmp_path / "i.md").read_text()
    assert "## 300 faces" in page
    assert page.count("| segmented |") == 2


def test_half_of_the_options_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--images", str(tmp_path)])
    assert result.exit_code == 2
    assert "go together" in result.output
