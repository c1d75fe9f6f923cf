"""Search metrics against loops over probes and people."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from facemargin.metrics import Identification, cmc, fnir_at_fpir, identify


def drawn(seed: int = 0) -> tuple[np.ndarray, list[str], np.ndarray, list[str]]:
    """A gallery of 12 people with 1-3 templates, probes of 20 people; shuffled."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(20, 12))

    def rows(labels: np.ndarray) -> np.ndarray:
        noisy = centres[labels] + 0.9 * random.normal(size=(labels.size, 12))
        return noisy / np.linalg.norm(noisy, axis=1, keepdims=True)

    gallery = random.permutation(np.repeat(np.arange(12), random.integers(1, 4, 12)))
    probes = random.permutation(np.repeat(np.arange(20), 10))
    return rows(gallery), [f"p{k}" for k in gallery], rows(probes), [f"p{k}" for k in probes]


@pytest.mark.parametrize("aggregate", ["best", "mean"])
def test_identify_agrees_with_a_loop(aggregate) -> None:
    gallery, names, probes, probe_names = drawn()
    mated, ranks, nonmated = [], [], []
    for probe, name in zip(probes, probe_names, strict=True):
        cosines = {person: [] for person in names}
        for template, person in zip(gallery, names, strict=True):
            cosines[person].append(float(template @ probe))
        scores = {person: max(c) if aggregate == "best" else sum(c) / len(c) for person, c in cosines.items()}
        if name in scores:
            mated.append(scores[name])
            ranks.append(1 + sum(score >= scores[name] for person, score in scores.items() if person != name))
        else:
            nonmated.append(max(scores.values()))
    found = identify(gallery, names, probes=probes, probe_people=probe_names, aggregate=aggregate)
    assert_allclose(found.mated_scores, mated, atol=1e-5)
    assert_allclose(found.nonmated_scores, nonmated, atol=1e-5)
    assert found.ranks.tolist() == ranks
    assert found.gallery_people == 12


def test_cmc_counts_and_never_falls() -> None:
    found = Identification(np.ones(5, np.float32), np.array([1, 1, 3, 2, 9]), np.ones(1, np.float32), 9)
    assert_allclose(cmc(found, ranks=4), [0.4, 0.6, 0.8, 0.8])
    assert cmc(found, ranks=9)[-1] == 1.0


def test_ties_count_against_the_system() -> None:
    same = np.array([[1.0, 0.0], [1.0, 0.0]])
    found = identify(same, ["a", "b"], probes=same[:1], probe_people=["a"])
    assert found.ranks.tolist() == [2]


@pytest.mark.parametrize("rank", [1, 3])
def test_fnir_is_the_best_of_all_thresholds(rank: int) -> None:
    gallery, names, probes, probe_names = drawn(1)
    found = identify(gallery, names, probes=probes, probe_people=probe_names)
    candidates = np.concatenate([found.mated_scores, found.nonmated_scores, found.nonmated_scores + 1e-6])
    allowed = [t for t in candidates if np.mean(found.nonmated_scores >= t) <= 0.05]
    best = min(np.mean((found.mated_scores < t) | (found.ranks > rank)) for t in allowed)
    result = fnir_at_fpir(found, 0.05, rank=rank)
    assert result.fnir == pytest.approx(best)
    assert result.fpir <= 0.05
    assert (result.nonmated, result.measurable, result.supported) == (80, True, False)


GRID = [np.array(v) for v in itertools.product((0.5, -0.5), repeat=4)] + [*np.eye(4), *-np.eye(4)]
"""Unit vectors whose inner products are exact in any order of summation, so that ties are ties."""


@st.composite
def searches(draw: st.DrawFn) -> tuple[list[np.ndarray], list[str], list[np.ndarray], list[str]]:
    """A small gallery and probes, full of ties; probes of people "a" to "f", some or all of them not enrolled."""
    vectors, names = st.sampled_from(GRID), st.sampled_from("abcdef")
    gallery = draw(st.lists(st.tuples(vectors, names), min_size=1, max_size=8))
    probes = draw(st.lists(st.tuples(vectors, names), min_size=1, max_size=20))
    return *map(list, zip(*gallery, strict=True)), *map(list, zip(*probes, strict=True))


def candidates(
    gallery: list[np.ndarray], names: list[str], probe: np.ndarray, mate: str, threshold: float
) -> list[str]:
    """Who is returned for a probe, best first: everybody at or above the threshold, the mate last among equals."""
    scores: dict[str, float] = {}
    for template, person in zip(gallery, names, strict=True):
        scores[person] = max(scores.get(person, -2.0), float(template @ probe))
    above = [person for person in scores if scores[person] >= threshold]
    return sorted(above, key=lambda person: (-scores[person], person == mate))


@settings(max_examples=80, deadline=None)
@given(searches(), st.sampled_from([0.05, 0.2, 0.34, 0.5, 0.9]), st.integers(1, 4))
def test_an_open_set_agrees_with_lists_of_candidates(search, bound: float, rank: int) -> None:
    gallery, names, probes, people = search
    found = identify(np.array(gallery), names, probes=np.array(probes), probe_people=people)
    mated = [(probe, person) for probe, person in zip(probes, people, strict=True) if person in names]
    others = [probe for probe, person in zip(probes, people, strict=True) if person not in names]
    assert (found.mated_scores.size, found.nonmated_scores.size) == (len(mated), len(others))
    assert found.gallery_people == len(set(names))
    everyone = [candidates(gallery, names, probe, person, -1.0) for probe, person in mated]
    assert found.ranks.tolist() == [row.index(person) + 1 for row, (_, person) in zip(everyone, mated, strict=True)]
    if mated:
        expected = [
            np.mean([person in row[:k] for row, (_, person) in zip(everyone, mated, strict=True)]) for k in (1, 2, 3)
        ]
        assert_allclose(cmc(found, ranks=3), expected)
    if not mated or not others:
        return
    rates = []
    for threshold in (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25):
        fpir = np.mean([bool(candidates(gallery, names, probe, "", threshold)) for probe in others])
        hits = [person in candidates(gallery, names, probe, person, threshold)[:rank] for probe, person in mated]
        rates.append((1 - np.mean(hits), fpir))
    result = fnir_at_fpir(found, bound, rank=rank)
    assert result.fnir == pytest.approx(min(fnir for fnir, fpir in rates if fpir <= bound))
    assert result.fpir <= bound
    assert result.errors == round(result.fpir * len(others))
    assert result.measurable == (result.errors >= 1)


def test_a_mate_enrolled_in_only_one_of_two_galleries_is_a_stranger_in_the_other() -> None:
    """As in IJB's 1:N protocol: one template a subject, two disjoint galleries, every probe searched in both."""
    random = np.random.default_rng(2)
    centres = random.normal(size=(60, 16))
    people = [f"s{k:02}" for k in range(60)]

    def templates(labels: np.ndarray) -> np.ndarray:
        rows = centres[labels] + 0.8 * random.normal(size=(labels.size, 16))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    labels = np.repeat(np.arange(60), 5)
    probes = templates(labels)
    for enrolled in (np.arange(30), np.arange(30, 60)):
        gallery = templates(enrolled)
        found = identify(
            gallery, [people[k] for k in enrolled], probes=probes, probe_people=[people[k] for k in labels]
        )
        cosines = probes @ gallery.T
        inside = np.isin(labels, enrolled)
        own = cosines[inside, labels[inside] - enrolled[0]]
        assert (found.mated_scores.size, found.nonmated_scores.size) == (150, 150)
        assert_allclose(found.nonmated_scores, cosines[~inside].max(axis=1), atol=1e-6)
        assert found.ranks.tolist() == (cosines[inside] >= own[:, None] - 1e-9).sum(axis=1).tolist()
        best = cosines[~inside].max(axis=1)
        threshold = np.sort(best)[::-1][15]  # the 16th best stranger must not pass at FPIR 10 %
        expected = np.mean((own <= threshold) | (own < cosines[inside].max(axis=1)))
        result = fnir_at_fpir(found, 0.1)
        assert (result.fnir, result.errors) == (pytest.approx(expected), 15)


@pytest.mark.parametrize(("errors", "supported"), [(29, False), (30, True), (31, True)])
def test_thirty_strangers_support_a_rate_and_twenty_nine_do_not(errors: int, supported: bool) -> None:
    strangers = np.linspace(0, 1, 100 * errors, dtype=np.float32)
    found = Identification(np.ones(1, np.float32), np.array([1]), strangers, 9)
    result = fnir_at_fpir(found, 0.01)
    assert (result.errors, result.measurable, result.supported) == (errors, True, supported)
    too_few = Identification(np.ones(1, np.float32), np.array([1]), strangers[:99], 9)
    assert not fnir_at_fpir(too_few, 0.01).measurable
    tied = Identification(np.ones(1, np.float32), np.array([1]), np.zeros(10_000, np.float32), 9)
    assert not fnir_at_fpir(tied, 0.01).measurable  # 100 were allowed, but they come all or none


def test_names_that_are_numbers_match_as_text() -> None:
    found = identify(np.eye(2), np.array([7, 8]), probes=np.eye(2), probe_people=np.array([7, 8]))
    assert found.ranks.tolist() == [1, 1]


def test_wrong_input_is_named() -> None:
    rows = np.eye(2)
    with pytest.raises(ValueError, match="gallery_people must name"):
        identify(rows, ["a"], probes=rows, probe_people=["a", "b"])
    with pytest.raises(ValueError, match="probe_people must name"):
        identify(rows, ["a", "b"], probes=rows, probe_people=["a"])
    with pytest.raises(ValueError, match="probes must have the shape"):
        identify(rows, ["a", "b"], probes=rows[0], probe_people=["a"])
    with pytest.raises(ValueError, match="aggregate must be"):
        identify(rows, ["a", "b"], probes=rows, probe_people=["a", "b"], aggregate="median")
    nobody = identify(rows, ["a", "b"], probes=rows, probe_people=["c", "d"])
    with pytest.raises(ValueError, match="at least one probe"):
        cmc(nobody, ranks=1)
    with pytest.raises(ValueError, match="ranks must be at least 1"):
        cmc(nobody, ranks=0)
    everybody = identify(rows, ["a", "b"], probes=rows, probe_people=["a", "b"])
    with pytest.raises(ValueError, match="nonmated_scores must not be empty"):
        fnir_at_fpir(everybody, 0.1)
    with pytest.raises(ValueError, match="fpir must be in"):
        fnir_at_fpir(everybody, 1.0)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        fnir_at_fpir(everybody, 0.1, rank=0)
