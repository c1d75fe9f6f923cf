"""Every pair of many people's photographs: TAR at FMRs that a protocol of some thousand pairs cannot reach."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from facemargin.errors import DataError
from facemargin.metrics import Interval, TarAtFar, all_pairs, tar_at_far
from facemargin.preprocessing import Detector
from training.align.report import not_detected
from training.crops import Embed, crop_reader, embed_pictures
from training.data.lfw_open import people_folders, person_images
from training.data.pictures import Picture
from training.evaluation_report import AllPairsReport, Estimate, TarRow

ALL_PAIRS_FARS = (1e-3, 1e-4, 1e-5, 1e-6)


def evaluate_all_pairs(
    embeddings: NDArray[np.floating[Any]],
    people: Sequence[str],
    *,
    fars: Sequence[float] = ALL_PAIRS_FARS,
    protocol: str = "all pairs",
    resamples: int = 1000,
    seed: int = 0,
) -> AllPairsReport:
    """TAR at low FMR over every pair of these photographs.

    Args:
        embeddings: (N, D) unit rows.
        people: N names.
        fars: the FMRs.
        protocol: name of the set for the report.
        resamples: bootstrap resamples of the people.
        seed: of the bootstrap.

    Raises:
        ValueError: embeddings or people of the wrong form.
        DataError: nobody with two photographs, or only one person.
    """
    scores = all_pairs(embeddings, people)
    if not scores.genuine.size or not scores.impostor.size:
        raise DataError("all-pairs evaluation needs a person with two photographs, and two people")
    found = [tar_at_far(scores.genuine, scores.impostor, far) for far in fars]
    persons = _genuine_by_person(embeddings, people)
    return AllPairsReport(
        protocol=protocol,
        people=len(set(people)),
        images=len(people),
        genuine_pairs=scores.genuine.size,
        impostor_pairs=scores.impostor.size,
        rows=tuple(TarRow.of(tar, tar_over_people(tar, persons, resamples=resamples, seed=seed)) for tar in found),
        resamples=resamples,
    )


def embed_people(
    embed: Embed,
    images_root: Path,
    people: Iterable[str] | None = None,
    *,
    aligned: bool,
    detector: Detector | None = None,
    template: str = "arcface-112",
    console: Console | None = None,
) -> tuple[NDArray[np.float32], list[str]]:
    """Embeddings (N, D) and names of every photograph of these people in which a face was detected.

    Of aligned crops, people in none of whose photographs a face was found (by the report in the folder) are left out.

    Args:
        embed: aligned crops -> unit embeddings.
        images_root: a folder per person.
        people: names of the folders; None takes all.
        aligned: the files are aligned crops.
        detector: for whole photographs; None takes the default one.
        template: alignment template of the model.
        console: where progress is drawn; default stderr.

    Raises:
        DataError: no such folder or person, no photograph, or no face at all.
        ImageError: a file that is no accepted picture.
    """
    present = people_folders(images_root)
    wanted = present if people is None else sorted(set(people))
    excused = {name.split("/")[0] for name in not_detected(images_root)} if aligned else set()
    missing = sorted(set(wanted) - set(present) - excused)
    if missing:
        raise DataError(f"{images_root} has no folder for {len(missing)} of {len(wanted)} people: {missing[0]}")
    images = person_images(images_root, set(wanted) & set(present))
    if not images:
        raise DataError(f"{images_root} has no photographs; expected a folder per person with pictures inside")
    reader = crop_reader(aligned=aligned, detector=detector, template=template)
    vectors, acquired = embed_pictures(embed, [Picture.of_file(path) for path, _ in images], reader, console=console)
    return vectors[acquired], [person for (_, person), kept in zip(images, acquired, strict=True) if kept]


def _genuine_by_person(embeddings: NDArray[np.floating[Any]], people: Sequence[str]) -> list[NDArray[np.float32]]:
    """Genuine cosines of each person with at least two photographs."""
    vectors, labels = np.asarray(embeddings, dtype=np.float32), np.unique(people, return_inverse=True)[1]
    groups = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    return [(vectors[group] @ vectors[group].T)[np.triu_indices(group.size, k=1)] for group in groups if group.size > 1]


def tar_over_people(found: TarAtFar, persons: Sequence[NDArray[np.float32]], *, resamples: int, seed: int) -> Estimate:
    """The TAR with its interval over the people of the genuine pairs, the threshold held.

    Args:
        found: the TAR and its threshold.
        persons: genuine similarities of each person (or of each group of pictures that stands for one).
        resamples: bootstrap resamples of the people.
        seed: of the bootstrap.
    """
    accepted = np.array([np.count_nonzero(cosines >= found.threshold) for cosines in persons])
    pairs = np.array([cosines.size for cosines in persons])
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(persons), np.full(len(persons), 1 / len(persons)), size=resamples)
    low, high = np.quantile((drawn @ accepted) / (drawn @ pairs), [0.025, 0.975])
    return Estimate.of(Interval(value=found.tar, low=float(low), high=float(high), level=0.95, resamples=resamples))
