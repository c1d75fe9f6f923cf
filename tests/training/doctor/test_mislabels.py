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


def test_right_labels_are_left_alone() -> None:
    assert suspicious(*people(wrong=False), high=0.6, low=0.3) == []


def test_two_pictures_of_a_person_cannot_say_which_is_wrong() -> None:
    found, templates = people(wrong=True)
    kept = np.array([3, 4, *range(5, 30)])  # person 0 has two left
    few = Embedded(found.places[kept], found.rows[kept], found.labels[kept])
    assert suspicious(few, templates, high=0.6, low=0.3) == []
