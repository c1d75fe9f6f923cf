"""Error rates by group: by hand, against a loop over pairs, and against simulated truth."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from facemargin.metrics import GroupReport, errors_by_group, people_weights

Pairs = tuple[np.ndarray, np.ndarray, list[str], list[str]]


def report(pairs: Pairs, groups: dict[str, str], threshold: float = 0.5, **options: int) -> GroupReport:
    scores, same, first, second = pairs
    return errors_by_group(scores, same, first=first, second=second, groups=groups, threshold=threshold, **options)


def drawn(
    seed: int, sizes: dict[str, int], hardness: dict[str, float] | None = None, each: int = 20
) -> tuple[Pairs, dict[str, str]]:
    """People with `each` genuine pairs and as many impostor pairs within the group, and a few across."""
    random = np.random.default_rng(seed)
    groups = {f"{group}{k}": group for group, size in sizes.items() for k in range(size)}
    people = np.array(list(groups))
    of = np.array(list(groups.values()))
    easy = random.normal(0, 0.1, people.size) + np.array([(hardness or {}).get(group, 0.0) for group in of])
    rows: list[tuple[float, bool, str, str]] = []
    for k, person in enumerate(people):
        mates = np.flatnonzero((of == of[k]) & (people != person))
        others = np.flatnonzero(of != of[k])
        rows += [(random.normal(0.8, 0.2) - easy[k], True, person, person) for _ in range(each)]
        rows += [(random.normal(0.2, 0.2) + easy[k], False, person, people[q]) for q in random.choice(mates, each)]
        if others.size:
            rows += [(random.normal(0.1, 0.2), False, person, people[q]) for q in random.choice(others, 5)]
    scores, same, first, second = zip(*rows, strict=True)
    return (np.array(scores), np.array(same), [str(name) for name in first], [str(name) for name in second]), groups


def test_rates_by_hand() -> None:
    """Ann, Amy and Ada of group a, Bob and Ben of b, Cid of c, and Xi of none; accepted from .5 on, ties included."""
    rows = [
        (0.9, "Ann", "Ann"),
        (0.4, "Ann", "Ann"),  # missed
        (0.5, "Amy", "Amy"),
        (0.3, "Bob", "Bob"),  # missed
        (0.6, "Ann", "Amy"),  # false match within a
        (0.1, "Ann", "Ada"),
        (0.2, "Amy", "Ada"),
        (0.5, "Ben", "Bob"),  # false match within b, at the threshold itself
        (0.7, "Bob", "Ann"),  # false match across a and b
        (0.2, "Ann", "Ben"),
        (0.1, "Cid", "Ada"),
        (0.9, "Xi", "Ann"),
        (0.9, "Xi", "Xi"),
    ]
    scores, first, second = zip(*rows, strict=True)
    same = np.array([one == other for one, other in zip(first, second, strict=True)])
    groups = {"Ann": "a", "Amy": "a", "Ada": "a", "Bob": "b", "Ben": "b", "Cid": "c", "Eve": "d"}
    found = report((np.array(scores), same, list(first), list(second)), groups)
    table = {
        row.group: (row.people, row.fnmr.errors, row.fnmr.pairs, row.fmr.errors, row.fmr.pairs) for row in found.groups
    }
    assert table == {"a": (3, 1, 3, 1, 3), "b": (2, 1, 1, 1, 1), "c": (1, 0, 0, 0, 0), "d": (0, 0, 0, 0, 0)}
    assert [row.fnmr.value for row in found.groups] == [1 / 3, 1.0, None, None]
    cross = {(row.first, row.second): (row.fmr.errors, row.fmr.pairs) for row in found.cross}
    assert cross == {
        ("a", "b"): (1, 2),
        ("a", "c"): (0, 1),
        ("a", "d"): (0, 0),
        ("b", "c"): (0, 0),
        ("b", "d"): (0, 0),
        ("c", "d"): (0, 0),
    }
    assert (found.across.errors, found.across.pairs, found.across.value) == (1, 3, 1 / 3)
    assert (found.ungrouped, found.ungrouped_pairs) == (("Xi",), 2)
    assert found.threshold == 0.5
    assert found.fnmr_ratio.ratio is None
    assert found.fmr_ratio.left_out == ("a", "b", "c", "d")


def test_every_pair_is_counted_once() -> None:
    pairs, groups = drawn(0, {"a": 10, "b": 7, "c": 5})
    for name in ("a3", "c1"):
        del groups[name]
    found = report(pairs, groups, resamples=10)
    counted = sum(row.fnmr.pairs + row.fmr.pairs for row in found.groups) + found.across.pairs
    assert sum(row.fmr.pairs for row in found.cross) == found.across.pairs
    assert counted + found.ungrouped_pairs == pairs[0].size
    assert found.ungrouped == ("a3", "c1")


def test_intervals_are_those_of_pair_weights_written_out() -> None:
    pairs, groups = drawn(1, {"a": 12, "b": 9})
    scores, same, first, second = pairs
    weights = people_weights(first, second, resamples=300, seed=4).astype(float)
    found = report(pairs, groups, resamples=300, seed=4)
    one, other = (np.array([groups[name] for name in side]) for side in (first, second))
    wrong = np.where(same, scores < 0.5, scores >= 0.5)
    chosen = {
        "fnmr a": (same & (one == "a"), found.groups[0].fnmr),
        "fmr b": (~same & (one == "b") & (other == "b"), found.groups[1].fmr),
        "across": (~same & (one != other), found.across),
    }
    for name, (mask, rate) in chosen.items():
        values = (weights[:, mask] @ wrong[mask]) / weights[:, mask].sum(axis=1)
        assert rate.interval is not None
        assert rate.interval.value == pytest.approx(wrong[mask].mean()), name
        assert_allclose((rate.interval.low, rate.interval.high), np.quantile(values, [0.025, 0.975]), err_msg=name)


def test_all_pairs_of_one_group_are_plain_rates() -> None:
    pairs, groups = drawn(2, {"a": 15})
    scores, same, _, _ = pairs
    found = report(pairs, groups, resamples=20)
    assert found.groups[0].fnmr.value == np.mean(scores[same] < 0.5)
    assert found.groups[0].fmr.value == np.mean(scores[~same] >= 0.5)
    assert found.cross == ()
    assert found.across.value is None


@pytest.mark.parametrize(("errors", "supported"), [(29, False), (30, True), (31, True)])
def test_thirty_errors_support_a_rate(errors: int, supported: bool) -> None:
    names = [f"{group}{k}" for group in "ab" for k in range(100)]
    groups = {name: name[0] for name in names}
    scores = np.array([0.1] * errors + [0.9] * (100 - errors) + [0.1] * 60 + [0.9] * 40)
    found = report((scores, np.ones(200, bool), names, names), groups)
    assert [row.fnmr.supported for row in found.groups] == [supported, True]
    assert found.fnmr_ratio.supported == supported
    assert found.fnmr_ratio.left_out == (() if supported else ("a",))
    if supported:
        assert (found.fnmr_ratio.highest, found.fnmr_ratio.lowest) == ("b", "a")
        assert found.fnmr_ratio.ratio.value == pytest.approx(60 / errors)
        assert found.fnmr_ratio.shown


def test_no_error_and_nothing_but_errors_have_no_interval() -> None:
    names = [f"{group}{k}" for group in "ab" for k in range(50)]
    found = report(
        (np.repeat([0.9, 0.1], 50), np.ones(100, bool), names, names), {name: name[0] for name in names}, resamples=50
    )
    assert [row.fnmr.value for row in found.groups] == [0.0, 1.0]
    assert [row.fnmr.interval for row in found.groups] == [None, None]


def test_errors_of_one_person_make_no_ratio() -> None:
    """Forty errors each, but in group a all of them are one person's: a third of the resamples have none."""
    names = ["a0"] * 40 + [f"a{k}" for k in range(1, 40) for _ in range(10)]
    names += [f"b{k}" for k in range(40) for _ in range(11)]
    scores = np.concatenate([np.full(40, 0.1), np.full(390, 0.9), np.tile([0.1] + [0.9] * 10, 40)])
    found = report((scores, np.ones(870, bool), names, names), {name: name[0] for name in names})
    assert [row.fnmr.supported for row in found.groups] == [True, True]
    assert not found.fnmr_ratio.supported
    assert (found.fnmr_ratio.highest, found.fnmr_ratio.left_out) == ("a", ())


def test_a_harder_group_is_shown_and_equal_groups_are_not() -> None:
    found = report(*drawn(4, {"a": 40, "b": 40, "c": 40}, {"c": 0.15}), resamples=300)
    for differential in (found.fnmr_ratio, found.fmr_ratio):
        assert differential.highest == "c"
        assert differential.shown
    assert found.groups[2].fnmr.value > 2 * found.groups[0].fnmr.value
    equal = report(*drawn(5, {"a": 40, "b": 40, "c": 40}), resamples=300)
    assert equal.fnmr_ratio.supported
    assert not equal.fnmr_ratio.shown
    assert equal.fnmr_ratio.ratio.low < 1 < equal.fnmr_ratio.ratio.value


@pytest.mark.slow
def test_groups_that_do_not_differ_are_rarely_called_different() -> None:
    """Six pairs of four groups, the furthest apart picked after the fact: Bonferroni keeps that below about 5 %."""
    shown = np.zeros(2)
    for seed in range(300):
        found = report(*drawn(seed, dict.fromkeys("abcd", 40)), resamples=300, seed=seed)
        shown += [found.fnmr_ratio.shown, found.fmr_ratio.shown]
    assert (shown / 300 <= 0.07).all()


def test_the_seed_decides() -> None:
    given = drawn(6, {"a": 10, "b": 10})
    assert report(*given, resamples=50, seed=1) == report(*given, resamples=50, seed=1)
    assert report(*given, resamples=50, seed=1) != report(*given, resamples=50, seed=2)


def test_wrong_input_is_named() -> None:
    pairs = (np.array([0.9, 0.1]), np.array([True, False]), ["a", "a"], ["a", "b"])
    groups = {"a": "g", "b": "g"}
    with pytest.raises(ValueError, match=r"same\[1\] is False, but first and second are 'b' and 'b'"):
        report((*pairs[:2], ["a", "b"], ["a", "b"]), groups)
    with pytest.raises(ValueError, match=r"same\[0\] is True, but first and second are 'a' and 'b'"):
        report((*pairs[:2], ["a", "a"], ["b", "b"]), groups)
    with pytest.raises(ValueError, match="each of the 2 pairs, got 1 and 2"):
        report((*pairs[:2], ["a"], ["a", "b"]), groups)
    with pytest.raises(ValueError, match="threshold must be finite"):
        report(pairs, groups, threshold=np.nan)
    with pytest.raises(ValueError, match="level must be in"):
        report(pairs, groups, level=1)
    with pytest.raises(ValueError, match="resamples must be at least 1"):
        report(pairs, groups, resamples=0)
