"""How many resamples of the people a comparison takes, and their weights."""

import numpy as np
from numpy.typing import NDArray

from facemargin.metrics import people_weights
from training.report.results import PairPeople

RESAMPLES = 1000
MOST_RESAMPLES = 20_000
"""Some 240 MB of weights on 3,000 pairs; enough for 32 rows of one seed each, or 500 gains."""
_FOLD_OF_NEEDED = 5  # with the bare minimum a difference is shown only where every single resample agrees


def enough_resamples(needed: int) -> int | None:
    """How many to take where fewer than ``needed`` could not show anything; None where that is too many."""
    if needed > MOST_RESAMPLES:
        return None
    return max(RESAMPLES, min(_FOLD_OF_NEEDED * needed, MOST_RESAMPLES))


def weights_of(people: PairPeople, resamples: int) -> NDArray[np.float32]:
    """(resamples, P) of `facemargin.metrics.people_weights`."""
    first, second = ([str(number) for number in side] for side in (people.first, people.second))
    return people_weights(first, second, resamples=resamples)
