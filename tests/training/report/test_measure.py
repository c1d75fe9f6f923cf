"""The sample of training images, and angles to class centres against a slow loop."""

import math

import numpy as np
import pytest

from training.report.measure import centre_angles, sampled


def test_the_sample_has_people_with_two_images_and_keeps_to_its_bounds() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(60), np.arange(60) % 6))
    counts = np.bincount(labels)
    chosen = sampled(labels, images=50, a_person=4)
    taken = np.bincount(labels[chosen], minlength=60)
    assert len(set(chosen.tolist())) == chosen.size <= 50
    assert chosen.size >= 49  # one left over cannot make a pair
    assert ((taken == 0) | (taken >= 2)).all()
    assert (taken <= np.minimum(counts, 4)).all()
    assert np.array_equal(chosen, sampled(labels, images=50, a_person=4))
    assert np.array_equal(sampled(labels)[:3], np.flatnonzero(counts[labels] > 1)[:3])
    assert sampled(np.arange(5)).size == 0


@pytest.mark.parametrize("dim", [2, 5])
def test_angles_are_those_of_a_loop(dim: int) -> None:
    random = np.random.default_rng(dim)
    labels = np.array([4, 4, 7, 7, 7, 9, 9])
    vectors = random.standard_normal((7, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    own, other = centre_angles(vectors.astype(np.float32), labels)
    for k in range(7):
        rest = [j for j in range(7) if labels[j] == labels[k] and j != k]
        centre = vectors[rest].sum(axis=0)
        assert own[k] == pytest.approx(math.acos(vectors[k] @ centre / np.linalg.norm(centre)), abs=1e-5)
        cosines = []
        for label in set(labels.tolist()) - {int(labels[k])}:
            centre = vectors[labels == label].sum(axis=0)
            cosines.append(vectors[k] @ centre / np.linalg.norm(centre))
        assert other[k] == pytest.approx(math.acos(max(cosines)), abs=1e-5)


def test_a_centre_of_opposite_vectors_is_at_a_right_angle() -> None:
    vectors = np.array([[1, 0], [0, 1], [0, -1], [1, 0], [1, 0]], dtype=np.float32)
    own, other = centre_angles(vectors, [0, 0, 0, 1, 1])
    assert own[0] == pytest.approx(math.pi / 2)
    assert other[:3] == pytest.approx([0, math.pi / 2, math.pi / 2])
