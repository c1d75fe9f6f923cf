"""Shared people are found by embedding when there are clearly more than chance gives."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facemargin.metrics.calibration import Calibration, calibrate
from training.doctor import embedding, identity
from training.doctor.case import Case
from training.doctor.embedding import Templates
from training.doctor.identity import best_matches, identity_findings, within_rate


def unit(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_people(count: int, seed: int, dim: int = 32) -> NDArray[np.float32]:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def test_matches_equal_a_plain_loop_and_count_everyone_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_BLOCK", 7)
    one, other = random_people(30, 0, 4), random_people(20, 1, 4)
    cosines = (one @ other.T).astype(float)
    expected = []
    while cosines.max() >= 0.8:
        i, j = np.unravel_index(cosines.argmax(), cosines.shape)
        expected.append((int(i), int(j)))
        cosines[i, :] = cosines[:, j] = -2
    found = best_matches(one, other, 0.8)
    assert [(match.one, match.other) for match in found] == expected
    assert expected


def test_the_rate_within_sets_is_that_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_BLOCK", 7)
    sets = [random_people(17, 0, 4), random_people(9, 1, 4)]
    above = [float(a @ b) >= 0.5 for rows in sets for k, a in enumerate(rows) for b in rows[:k]]
    assert within_rate(sets, 0.5) == pytest.approx(np.mean(above))
    assert within_rate([random_people(1, 0)], 0.5) == 0.0


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    rng = np.random.default_rng(3)
    vectors = np.repeat(random_people(150, 9), 3, axis=0) + 0.08 * rng.standard_normal((450, 32))
    return calibrate(unit(vectors), [f"p{k // 3}" for k in range(450)], source="random vectors")


@pytest.fixture
def finding(
    monkeypatch: pytest.MonkeyPatch, write: Any, case_of: Callable[..., Case], calibration: Calibration,
    make_tiny_bundle: Any,
) -> Callable[..., Any]:  # fmt: skip
    """The finding on two sets of people whose templates are given; the pictures themselves are not looked at."""

    def make(
        train: NDArray[np.float32], test: NDArray[np.float32], called: str = "{0}{1:02}", tells: bool = True,
        **fields: Any,
    ) -> Any:  # fmt: skip
        dot = np.zeros((16, 16, 3), dtype=np.uint8)
        sets = [
            write(name, {called.format(name, k): [dot] for k in range(len(rows))})
            for name, rows in (("a", train), ("b", test))
        ]
        case = case_of(training=sets[0], test=sets[1])
        case.sets = tuple(replace(data, tells_people=tells) for data in case.sets)
        case.bundle = make_tiny_bundle(**{"calibration": calibration, **fields})
        given = {
            id(data): Templates(np.arange(len(rows)), rows, np.arange(len(rows)))
            for data, rows in zip(case.sets, (train, test), strict=True)
        }
        monkeypatch.setattr(identity, "templates", lambda case, data: given[id(data)])
        (found,) = identity_findings(case)
        return found

    return make


def test_different_people_are_not_called_a_problem(finding: Callable[..., Any]) -> None:
    assert finding(random_people(60, 0), random_people(50, 1)).state in ("ok", "note")


def test_planted_people_are_found_and_named(finding: Callable[..., Any]) -> None:
    test = random_people(50, 1)
    train = random_people(60, 0)
    train[5:15] = unit(test[20:30] + 0.05 * np.random.default_rng(2).standard_normal((10, 32)))
    found = finding(train, test)
    assert found.state == "problem"
    pairs = {tuple(part.split("/")[0] for part in name.split(" ~ ")) for name in found.names}
    assert {(f"a{5 + k:02}", f"b{20 + k}") for k in range(10)} <= pairs
    assert "(calibration 1.0, " in found.detail


def with_planted(count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Templates of 60 and 50 people, so many of whom are in both at other places."""
    train, test = random_people(60, 0), random_people(50, 1)
    noise = 0.05 * np.random.default_rng(2).standard_normal((count, 32))
    train[5 : 5 + count] = unit(test[20 : 20 + count] + noise)
    return train, test


def test_people_whom_only_a_number_names_are_compared(finding: Callable[..., Any]) -> None:
    found = finding(*with_planted(10), called="{1:02}")
    assert found.state == "problem"
    pairs = {tuple(part.split("/")[0] for part in name.split(" ~ ")) for name in found.names}
    assert {(f"{5 + k:02}", f"{20 + k}") for k in range(10)} <= pairs


def test_people_with_a_shared_name_are_left_to_the_check_of_names(finding: Callable[..., Any]) -> None:
    test = random_people(50, 1)
    train = np.concatenate([test[:48], random_people(12, 0)])
    found = finding(train, test, called="name {1:02}")
    assert (found.state, "nobody is left" in found.detail) == ("missing", True)


def test_made_up_names_of_groups_are_not_left_out(finding: Callable[..., Any]) -> None:
    found = finding(*with_planted(10), called="group {1}", tells=False)
    assert (found.state, "60 people against 50" in found.detail) == ("problem", True)


def look_alikes() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two sets with 15 pairs of look-alikes within the first, and five across the two."""
    train, test = random_people(60, 0), random_people(50, 1)
    rng = np.random.default_rng(4)
    train[40:55] = unit(train[20:35] + 0.05 * rng.standard_normal((15, 32)))
    train[5:10] = unit(test[20:25] + 0.05 * rng.standard_normal((5, 32)))
    return train, test


def test_as_many_look_alikes_as_a_set_has_within_itself_are_chance(finding: Callable[..., Any]) -> None:
    found = finding(*look_alikes())
    assert (found.state, len(found.names) >= 5) == ("note", True)
    assert "no more than chance" in found.detail


def test_likeness_of_groups_that_may_be_one_person_is_not_chance(finding: Callable[..., Any]) -> None:
    found = finding(*look_alikes(), tells=False)
    assert (found.state, "a set itself calls different 0.0" in found.detail) == ("problem", True)


def test_without_a_calibration_nothing_is_compared(finding: Callable[..., Any]) -> None:
    found = finding(random_people(5, 0), random_people(5, 1), calibration=None, calibrated=False)
    assert (found.state, "calibrate" in found.advice) == ("missing", True)


def test_the_template_of_a_person_is_the_mean_of_the_own_rows(
    drawn_faces: Any, write: Any, case_of: Callable[..., Case], tiny_bundle: Any
) -> None:
    case = case_of(data=write("set", drawn_faces))
    case.bundle = tiny_bundle
    rows = case.once(embedding.embedded, case.sets[0]).rows
    expected = unit(rows.reshape(8, 3, -1).mean(axis=1))
    np.testing.assert_allclose(case.once(embedding.templates, case.sets[0]).rows, expected, atol=1e-6)
