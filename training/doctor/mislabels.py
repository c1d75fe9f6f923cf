"""Pictures that the bundle finds nearer to another person of the set than to their own: hints of wrong labels."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from facemargin.doctor import Finding
from training.doctor.case import Case, DataSet
from training.doctor.embedding import Embedded, Templates, embeddable, embedded, templates

FMR = 1e-3
"""The other person's template must be above the threshold of this false match rate."""

OWN_FMR = 1e-1
"""The mean of the person's other pictures must be below the threshold of this one."""

FEWEST_OWN = 2
"""Other pictures of the person that are needed to say that a picture is unlike them."""

_BLOCK = 1024


def mislabel_findings(case: Case) -> Iterator[Finding]:
    """One finding a set; needs a bundle with a calibration. Only hints: to a weak model a profile looks the same."""
    calibration = case.bundle.manifest.calibration if case.bundle else None
    if calibration is None or calibration.smallest_supported_fmr > FMR:
        return
    high, low = (calibration.threshold(fmr, extrapolate=False).value for fmr in (FMR, OWN_FMR))
    for data in embeddable(case):
        hints = suspicious(case.once(embedded, data), case.once(templates, data), high=high, low=low)
        subject = f"{data.name}: labels by face"
        if not hints:
            yield Finding(subject, "ok", "no picture is far from its own person and near to another")
            continue
        found = case.once(templates, data)
        places = case.once(embedded, data).places
        yield Finding(
            subject, "note",
            f"{len(hints):,} of {len(places):,} are unlike the other pictures of their person (cosine under {low:.2f}, "
            f"FMR {OWN_FMR:g}) and like another person (above {high:.2f}, FMR {FMR:g}); a hint, no proof",
            "look at them, the first ones first; correct the label or remove the picture",
            tuple(_called(data, places, found, hint) for hint in hints),
        )  # fmt: skip


def _called(data: DataSet, places: NDArray[np.int64], found: Templates, hint: tuple[int, int, float]) -> str:
    row, person, cosine = hint
    return f"{data.called(int(places[row]))} ~ {data.person(int(found.places[person]))} ({cosine:.2f})"


def suspicious(found: Embedded, people: Templates, *, high: float, low: float) -> list[tuple[int, int, float]]:
    """Rows whose cosine with another's template is `high` or more, and with the mean of the own other rows below `low`.

    Returns:
        (row, person's place in `people`, cosine with that person), the largest lead over the own cosine first.
    """
    own = np.searchsorted(people.labels, found.labels)
    counts = np.bincount(own, minlength=len(people.labels))
    sums = np.zeros((len(people.labels), found.rows.shape[1]), dtype=np.float64)
    np.add.at(sums, own, found.rows)
    hints = []
    for start in range(0, len(found.rows), _BLOCK):
        rows, mine = found.rows[start : start + _BLOCK], own[start : start + _BLOCK]
        others = sums[mine] - rows  # without the row itself, or it would vouch for its own label
        own_cosine = (rows * others).sum(axis=1) / np.maximum(np.linalg.norm(others, axis=1), 1e-12)
        cosines = rows @ people.rows.T
        cosines[np.arange(len(rows)), mine] = -1.0
        best = cosines.argmax(axis=1)
        cosine = cosines[np.arange(len(rows)), best]
        wrong = (counts[mine] > FEWEST_OWN) & (cosine >= high) & (own_cosine < low)
        hints += [
            (start + int(k), int(best[k]), float(cosine[k]), float(cosine[k] - own_cosine[k]))
            for k in np.flatnonzero(wrong)
        ]
    return [hint[:3] for hint in sorted(hints, key=lambda hint: -hint[3])]
