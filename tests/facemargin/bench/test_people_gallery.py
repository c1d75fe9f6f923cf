"""The made-up people: the same each time, as far apart as the module says, and queries of people who are there."""

import numpy as np
import pytest
from numpy.typing import NDArray

from facemargin.bench import people_gallery
from facemargin.bench.galleries import oracle
from facemargin.bench.people_gallery import PHOTOGRAPHS, PeopleGallery


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> PeopleGallery:
    monkeypatch.setattr(people_gallery, "BLOCK", 400)
    return PeopleGallery(128, queries=50)


def whole(gallery: PeopleGallery, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    blocks = list(gallery.blocks(count))
    return np.concatenate([ids for ids, _ in blocks]), np.concatenate([vectors for _, vectors in blocks])


def test_a_larger_gallery_begins_with_a_smaller_one(gallery: PeopleGallery) -> None:
    ids, vectors = whole(gallery, 900)
    assert ids.tolist() == list(range(900))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(whole(gallery, 450)[1], vectors[:450])
    assert not np.allclose(vectors[:400], vectors[400:800])  # another block has other people


def test_cosines_are_those_that_the_page_states(gallery: PeopleGallery) -> None:
    ids, vectors = whole(gallery, 1200)
    people = gallery.person(ids)
    assert np.bincount(people).tolist() == [PHOTOGRAPHS] * 300
    upper = np.triu_indices(len(ids), 1)
    cosines, same = (vectors @ vectors.T)[upper], (people[:, None] == people)[upper]
    assert cosines[same].mean() == pytest.approx(0.59, abs=0.02)
    assert cosines[same].std() == pytest.approx(0.14, abs=0.02)
    assert cosines[~same].mean() == pytest.approx(0, abs=0.01)
    assert cosines[~same].std() == pytest.approx(0.10, abs=0.02)


def test_most_queries_find_their_own_person_though_no_vector_is_a_query(gallery: PeopleGallery) -> None:
    found = oracle(gallery, 400, 5)
    assert found.similarities.max() < 0.999
    assert (gallery.person(found.ids[:, 0]) == gallery.people).mean() > 0.9
