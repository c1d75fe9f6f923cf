"""A picture under a wrong name is found, and a right one is not."""

import numpy as np

from training.doctor.embedding import Embedded, Templates
from training.doctor.mislabels import suspicious


def people(wrong: bool) -> tuple[Embedded, Templates]:
    """Six people with five vectors each; with `wrong`, the vector in row 3 of person 0 is one of person 4."""
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.standard_normal((16, 6)))[0].T
    rows = np.repeat(centres, 5, axis=0) + 0.1 * rng.standard_normal((30, 16))
    if wrong:
        rows[3] = centres[4] + 0.1 * rng.standard_normal(16)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = np.repeat(np.arange(6), 5) * 10  # labels of a sample have gaps
    means = rows.reshape(6, 5, 16).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    numbers = np.arange(6)
    return (
        Embedded(np.arange(30), rows.astype(np.float32), labels),
        Templates(numbers * 10, means.astype(np.float32), numbers * 5),
    )


def test_a_wrong_label_is_found_with_the_right_person() -> None:
    found = suspicious(*people(wrong=True), high=0.6, low=0.3)
    assert [(row, person) for row, person, _ in found] == [(3, 4)]


def test_a_picture_does_not_vouch_for_its_own_label() -> None:
    axes = np.eye(4)
    stray = 0.28 * axes[0] + 0.96 * axes[1]  # with itself the own mean has a cosine of 0.66, without it 0.28
    rows = np.array([axes[0], axes[0], stray, axes[1], axes[1], axes[1]])
    means = np.array([rows[:3].mean(axis=0), axes[1]])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    labels = np.repeat(np.arange(2), 3)
    found = Embedded(np.arange(6), rows.astype(np.float32), labels)
    people = Templates(np.arange(2), means.astype(np.float32), np.array([0, 3]))
    assert [hint[:2] for hint in suspicious(found, people, high=0.9, low=0.5)] == [(2, 1)]


def test_right_labels_are_left_alone() -> None:
    assert suspicious(*people(wrong=False), high=0.6, low=0.3) == []


def test_two_pictures_of_a_person_cannot_say_which_is_wrong() -> None:
    found, templates = people(wrong=True)
    kept = np.array([3, 4, *range(5, 30)])  # person 0 has two left
    few = Embedded(found.places[kept], found.rows[kept], found.labels[kept])
    assert suspicious(few, templates, high=0.6, low=0.3) == []
