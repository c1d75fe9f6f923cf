"""Results as runs leave them, from drawn scores instead of training."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from facemargin.metrics import accuracy_statistic, eer_statistic, interval, people_weights, tar_at_far, tar_statistic
from training.evaluation_report import Estimate, EvaluationReport, TarRow
from training.report import resampling
from training.report.results import (
    CentreAngles,
    Cost,
    HeadResult,
    LossCurve,
    PairPeople,
    TrainingData,
    Variant,
    VariantScores,
    rounded,
)

PEOPLE, FOLDS = 120, 3
MakeResult = Callable[..., HeadResult]


def scored(spread: float, seed: int, shift: float = 0.0) -> tuple[float, ...]:
    """Cosine-like scores of the pairs of `pair_people`: the label in noise."""
    same = np.tile([True, False], PEOPLE)
    noise = np.random.default_rng(seed).normal(0, spread, same.size)
    return rounded(np.clip(0.8 * same + noise + shift, -1, 1))


def pair_people() -> PairPeople:
    """Each person with itself and with the next one."""
    first = np.repeat(np.arange(PEOPLE), 2)
    return PairPeople(first=tuple(first.tolist()), second=tuple(((first + np.tile([0, 1], PEOPLE)) % PEOPLE).tolist()))


def tested(similarity: tuple[float, ...]) -> EvaluationReport:
    """What an evaluation says of these scores."""
    same, fold = np.tile([True, False], PEOPLE), np.repeat(np.arange(PEOPLE) * FOLDS // PEOPLE + 1, 2)
    values, people = np.array(similarity), pair_people()
    weights = people_weights([str(k) for k in people.first], [str(k) for k in people.second], resamples=50)

    def estimate(statistic: Any) -> Estimate:
        return Estimate.of(interval(statistic, values, same, weights))

    return EvaluationReport(
        protocol="drawn, folds 1-3", folds=(1, 2, 3), aligned=True, flip_sum=True, genuine_pairs=PEOPLE,
        impostor_pairs=PEOPLE, people=PEOPLE, photos=2 * PEOPLE, not_acquired=(), accuracy_method="k-fold",
        accuracy=estimate(accuracy_statistic(fold)), accuracy_std=0.01, accuracy_stderr=0.005,
        accuracy_per_fold=(0.9, 0.9, 0.9), eer=estimate(eer_statistic), auc=Estimate(value=0.9),
        tar=tuple(
            TarRow.of(tar_at_far(values[same], values[~same], far), estimate(tar_statistic(far)))
            for far in (1e-1, 1e-2, 1e-3)
        ),
        resamples=50, similarity=similarity, same=tuple(same.tolist()), fold=tuple(fold.tolist()),
    )  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def few_resamples() -> Iterator[None]:
    """Enough of them to tell these drawn heads apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "RESAMPLES", 150)
        yield


@pytest.fixture(scope="session")
def make_result() -> MakeResult:
    """A result of a head and seed; ``spread`` is how noisy its scores are, other keywords replace its fields."""

    def make(head: str, seed: int = 0, *, spread: float = 0.4, draw: int | None = None, **changes: Any) -> HeadResult:
        similarity = scored(spread, 1000 * (draw or 0) + seed if draw is not None else seed)
        noise = {(False, False): 1.6, (False, True): 1.4, (True, False): 1.2, (True, True): 0.9}
        test = tested(similarity)
        values: dict[str, Any] = {
            "head": head, "seed": seed, "epochs": 2, "steps": 24, "images": 192, "minutes": 0.25, "loss": 1.5,
            "hardware": "a drawn machine", "precision": "float32", "validation": {"accuracy": 0.875}, "test": test,
            "people": pair_people(),
            "variants": VariantScores(
                protocol="validation pairs of drawn, folds 1-3", average=True, flip_sum=True, same=test.same,
                group=test.fold, people=pair_people(),
                variants=tuple(
                    Variant(average=average, flip_sum=flip, similarity=scored(noise[average, flip] * spread, seed + 50))
                    for average in (False, True) for flip in (False, True)
                ),
            ),
            "angles": CentreAngles(own=(0.3, 0.4, 0.5), nearest_other=(1.2, 1.3, 1.1), people=3),
            "curve": LossCurve(step=(8, 16, 24), loss=(9.0, 4.0, 1.5)),
            "cost": Cost(step_ms=(10.5, 11.25, 13.0), images_per_second=12.8, peak_memory_bytes=345_600_000,
                         device="cpu", backbone_parameters=1_250_000, head_parameters=340_000),
            "data": TrainingData(protocol="drawn", people=30, images=96, sha256="ab" * 32),
            "recipe": {"epochs": 2, "batch_size": 8}, "command": "facemargin compare --config x.toml",
            "finished_at": "2026-01-02T03:04+00:00", "versions": {"torch": "2.11"},
        }  # fmt: skip
        return HeadResult(**{**values, **changes})

    return make
