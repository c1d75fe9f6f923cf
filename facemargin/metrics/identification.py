"""Identification (1:N): rank-k and CMC for probes who are in the gallery, FNIR@FPIR for an open set.

A person's score is the best or the mean over the person's templates. A candidate is returned when its score is greater
than or equal to the threshold. FPIR is the share of probes of nobody in the gallery that get a candidate; FNIR the
share of the others whose person is not among the first R candidates or is below the threshold (ISO/IEC 19795-1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from facemargin.metrics.pairs import as_unit_rows
from facemargin.metrics.scores import as_scores, highest_allowed
from facemargin.metrics.verification import SUPPORTING_ERRORS, allowed_errors

_PROBES_AT_ONCE = 1024


@dataclass(frozen=True)
class Identification:
    """What a search of every probe found.

    Attributes:
        mated_scores: float32 (M,), score of the right person for each probe who is in the gallery.
        ranks: int64 (M,), 1 + the number of other people who score at least as much: ties count against the system.
        nonmated_scores: float32 (U,), the best score of each probe who is not in the gallery.
        gallery_people: number of people in the gallery.
    """

    mated_scores: NDArray[np.float32]
    ranks: NDArray[np.int64]
    nonmated_scores: NDArray[np.float32]
    gallery_people: int


@dataclass(frozen=True)
class FnirAtFpir:
    """The smallest false negative identification rate at a bounded false positive identification rate.

    Attributes:
        bound: the FPIR that was asked for.
        fnir: share of the mated probes that are missed.
        threshold: the smallest number whose FPIR is <= bound.
        fpir: the FPIR that the threshold really has.
        rank: longest candidate list looked at.
        nonmated: number of probes of people not in the gallery.
        errors: non-mated probes at or above the threshold.
        measurable: errors >= 1; needs nonmated * bound >= 1.
        supported: errors >= 30; needs nonmated * bound >= 30, and no larger tie at the threshold.
    """

    bound: float
    fnir: float
    threshold: float
    fpir: float
    rank: int
    nonmated: int
    errors: int
    measurable: bool
    supported: bool


def identify(
    gallery: NDArray[np.floating[Any]],
    gallery_people: Sequence[str],
    *,
    probes: NDArray[np.floating[Any]],
    probe_people: Sequence[str],
    aggregate: Literal["best", "mean"] = "best",
) -> Identification:
    """Search every probe in the gallery.

    Args:
        gallery: (G, D) unit rows, the templates.
        gallery_people: G names.
        probes: (P, D) unit rows.
        probe_people: P names; who is not in the gallery is a non-mated probe.
        aggregate: a person's score from its templates, "best" or "mean".

    Raises:
        ValueError: embeddings that are not (N, D), finite and unit, other numbers of names, or an unknown aggregate.
    """
    templates, queries = as_unit_rows("gallery", gallery), as_unit_rows("probes", probes)
    for name, given, rows in (("gallery", gallery_people, templates), ("probe", probe_people, queries)):
        if len(given) != len(rows):
            raise ValueError(
                f"{name}_people must name the person of each of the {len(rows)} rows, got {len(given)} names"
            )
    if aggregate not in ("best", "mean"):
        raise ValueError(f"aggregate must be 'best' or 'mean', got {aggregate!r}")
    people, labels = np.unique(np.asarray(gallery_people, dtype=np.str_), return_inverse=True)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(people.size))
    column = {str(person): number for number, person in enumerate(people)}
    own = np.array([column.get(str(person), -1) for person in probe_people])
    reduce, divide = (np.maximum, 1) if aggregate == "best" else (np.add, np.bincount(labels).astype(np.float32))
    mated, ranks, nonmated = [], [], []
    for begin in range(0, len(queries), _PROBES_AT_ONCE):
        block = slice(begin, begin + _PROBES_AT_ONCE)
        scores = reduce.reduceat(queries[block] @ templates[order].T, starts, axis=1) / divide
        known = own[block] >= 0
        right = scores[known, own[block][known]]
        mated.append(right)
        ranks.append((scores[known] >= right[:, None]).sum(axis=1))
        nonmated.append(scores[~known].max(axis=1))
    return Identification(np.concatenate(mated), np.concatenate(ranks), np.concatenate(nonmated), int(people.size))


def cmc(found: Identification, *, ranks: int) -> NDArray[np.float64]:
    """Cumulative match characteristic: share of mated probes whose person is among the first k, for k = 1 … ranks.

    Raises:
        ValueError: ranks < 1, or no mated probe.
    """
    if ranks < 1:
        raise ValueError(f"ranks must be at least 1, got {ranks}")
    if not found.ranks.size:
        raise ValueError("found must have at least one probe whose person is in the gallery")
    counts = np.bincount(found.ranks, minlength=ranks + 1)[1 : ranks + 1]
    return np.asarray(np.cumsum(counts) / found.ranks.size, dtype=np.float64)


def fnir_at_fpir(found: Identification, fpir: float, *, rank: int = 1) -> FnirAtFpir:
    """The smallest FNIR among all thresholds whose FPIR is <= fpir.

    Args:
        found: with probes both in and not in the gallery.
        fpir: the bound, in (0, 1).
        rank: candidates looked at, at least 1.

    Raises:
        ValueError: a bound or rank out of range, or no mated or non-mated probe.
    """
    if not 0.0 < fpir < 1.0:
        raise ValueError(f"fpir must be in (0, 1), got {fpir}")
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    strangers, right = (
        as_scores("nonmated_scores", found.nonmated_scores),
        as_scores("mated_scores", found.mated_scores),
    )
    threshold = highest_allowed(strangers, allowed_errors(strangers.size, fpir))
    errors = int(np.count_nonzero(strangers >= threshold))
    return FnirAtFpir(
        bound=fpir,
        fnir=float(np.mean((right < threshold) | (found.ranks > rank))),
        threshold=float(threshold),
        fpir=errors / strangers.size,
        rank=rank,
        nonmated=strangers.size,
        errors=errors,
        measurable=errors >= 1,
        supported=errors >= SUPPORTING_ERRORS,
    )
