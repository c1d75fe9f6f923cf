"""FMR and FNMR by group of people, of an evaluation that was done, at one threshold for everybody."""

import numpy as np

from facemargin.errors import DataError
from facemargin.metrics import errors_by_group
from training.data.groups import Groups
from training.data.protocols.pair_set import PairSet
from training.evaluation_report import EvaluationReport
from training.group_rates import GroupRates
from training.pair_scores import tar_of_pairs


def rates_by_group(
    pairs: PairSet, report: EvaluationReport, groups: Groups, *, fmr: float, threshold: float | None = None
) -> GroupRates:
    """Error rates by group of the pairs that a report is about.

    Args:
        pairs: the protocol as it was evaluated; pairs that were left out for unreadable pictures are left out again.
        report: the similarities.
        groups: who is in which group.
        fmr: the FMR that the threshold is for.
        threshold: of the cosine; None chooses the smallest whose FMR on these pairs is at most `fmr`.

    Raises:
        DataError: as in `require_groups`.
    """
    require_groups(pairs, groups)
    if report.left_out.unreadable:
        pairs = pairs.without([k for k, photo in enumerate(pairs.photos) if photo in report.left_out.unreadable])
    similarity = np.array(report.similarity)
    first, second = pairs.sides
    chosen = tar_of_pairs(similarity.astype(np.float32), pairs.same, fmr).threshold if threshold is None else threshold
    found = errors_by_group(
        similarity,
        pairs.same,
        first=first,
        second=second,
        groups=groups.of,
        threshold=chosen,
        resamples=report.resamples,
    )
    return GroupRates.of(found, chosen="pairs" if threshold is None else "calibration", fmr_asked=fmr)


def require_groups(pairs: PairSet, groups: Groups) -> None:
    """Refuse groups that cannot be those of a protocol's people.

    Raises:
        DataError: the protocol does not name its people, or none of them has a group.
    """
    if pairs.people is None:
        raise DataError(f"{pairs.name} does not tell who is in its pictures; error rates by group need names")
    if not set(pairs.people) & set(groups.of):
        raise DataError(
            f"nobody of {pairs.name} has a group: it calls its people as in '{pairs.people[0]}', the group file as in "
            f"'{next(iter(groups.of))}'"
        )
