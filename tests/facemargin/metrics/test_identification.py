"""Search metrics against loops over probes and people."""

import numpy as np
import pytest
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
