"""The decoder and the corpus: the right pixels or the right error, quickly, and never anything else."""

import time
import warnings

import numpy as np

from facemargin.errors import ImageError
from facemargin.preprocessing import decode
from service.problems import problem_of

from .corpus import corpus
from .pictures import Sample

DEADLINE_SECONDS = 5.0  # for one file, on a machine that is busy; the slowest takes a tenth of it


def test_the_corpus_is_large_and_the_same_every_time(samples: list[Sample]) -> None:
    assert len(samples) >= 1000
    assert len({sample.name for sample in samples}) == len(samples)
    assert [sample.data for sample in corpus()] == [sample.data for sample in samples]
    assert sum(sample.accepted is True for sample in samples) >= 150
    assert sum(sample.accepted is False for sample in samples) >= 300


def test_every_sample_becomes_what_it_must(samples: list[Sample]) -> None:
    faults = [f"{sample.name}: {fault}" for sample in samples if (fault := fault_of(sample))]
    assert not faults, f"{len(faults)} of {len(samples)}:\n" + "\n".join(faults)


def fault_of(sample: Sample) -> str | None:
    """What is wrong with how a sample is decoded."""
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = decode(sample.data)
    except ImageError as error:
        slug = problem_of(error).slug
        fault = None if not sample.accepted and slug in sample.problems else f"{slug}: {error}"
    except Exception as error:  # the point of the test: nothing else may come out
        return f"{type(error).__name__}: {error}"
    else:
        fault = _wrong_pixels(sample, found)
    seconds = time.perf_counter() - started
    return f"took {seconds:.1f} s" if seconds > DEADLINE_SECONDS else fault


def _wrong_pixels(sample: Sample, found: np.ndarray) -> str | None:
    if sample.accepted is False:
        return f"accepted, {found.shape}"
    if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3 or 0 in found.shape:
        return f"{found.dtype} {found.shape}"
    if sample.pixels is None:
        return None
    if found.shape != sample.pixels.shape:
        return f"shape {found.shape} instead of {sample.pixels.shape}"
    worst = int(np.abs(found.astype(int) - sample.pixels).max())
    return f"pixels differ by {worst}" if worst > sample.tolerance else None
