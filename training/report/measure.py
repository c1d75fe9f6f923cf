"""What the report wants to know of a trained run beside its test: what averaging and the mirrored crop change, and the
angles of its training embeddings. The test pairs are not touched here.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from facemargin.backbones import Backbone
from facemargin.metrics.verification import halves
from facemargin.preprocessing import Preprocessing
from training.config import EvaluationConfig, TrainConfig
from training.crops import Embed, embed_pictures
from training.data.pairs import format_folds, parse_folds, read_pairs
from training.data.pictures import LabelledImages
from training.hardware import choose_device
from training.pair_scores import pair_similarities
from training.report.results import CentreAngles, PairPeople, Variant, VariantScores, rounded
from training.rereading import Rereading
from training.trainer import restore_model
from training.validation import network_embedder
from training.validation_set import load_validation

SAMPLE_IMAGES = 2000
SAMPLE_IMAGES_A_PERSON = 8


def measure_variants(run: Path, *, flip_sum: bool) -> VariantScores | None:
    """Cosines of the validation pairs with and without the mirrored crop, and with and without averaged weights.

    Args:
        run: folder of a finished run; averaged weights are measured where it keeps them.
        flip_sum: as the run is tested, for the record.

    Returns:
        The cosines, or None where the recipe has no validation pairs.
    """
    _, config, _ = restore_model(run)
    average = config.ema_decay is not None
    wanted = config.validation
    if wanted is None or wanted.pairs is None:
        return None
    pairs = read_pairs(wanted.pairs)
    chosen = pairs.select(parse_folds(wanted.folds)) if wanted.folds else pairs
    crops = load_validation(chosen, wanted.images, template=config.preprocessing.template)
    variants = []
    for averaged in (True, False) if average else (False,):
        network = _on_device(restore_model(run, average=averaged)[0], config)
        for flipped in (False, True):
            vectors = _embedder(network, config, flip_sum=flipped)(crops.crops)
            rows = {photo: vectors[row] for photo, row in crops.rows.items()}
            similarity = rounded(pair_similarities(chosen.first, chosen.second, rows))
            variants.append(Variant(average=averaged, flip_sum=flipped, similarity=similarity))
    group = chosen.fold if len(chosen.folds) > 1 else halves(chosen.same)
    return VariantScores(
        protocol=_protocol(config, wanted, chosen.folds),
        average=average,
        flip_sum=flip_sum,
        same=tuple(chosen.same.tolist()),
        group=tuple(group.tolist()),
        people=PairPeople.of(chosen),
        variants=tuple(variants),
    )


def measure_angles(run: Path, images: LabelledImages, *, console: Console | None = None) -> CentreAngles | None:
    """Angles to the own and to the nearest other class centre of a sample of the training images, as they are.

    The sample is the same for every head: people with at least two images in an order that the number of people alone
    decides, eight images of each, until there are 2,000. Weights are averaged where the run keeps an average.

    Args:
        run: folder of a finished run.
        images: its training set. Where the run leaves out what cannot be read, so does the sample, and with it people
            of whom only one image is left; their number is said.
        console: where progress is drawn.

    Returns:
        The angles, or None where fewer than two people have two images.

    Raises:
        DataError, ImageError: an image that cannot be read, and the run does not leave such images out.
    """
    chosen = sampled(images.labels)
    if np.unique(images.labels[chosen]).size < 2:
        return None
    backbone, config, _ = restore_model(run)
    embed = _embedder(_on_device(backbone, config), config, flip_sum=False)
    reading = Rereading(config)
    pictures = reading.find(images.pictures, chosen.tolist())
    vectors, read = embed_pictures(embed, list(pictures.values()), reading, console=console)
    reading.say("images of the sample of angles", len(chosen), console)
    labels = images.labels[list(pictures)]
    kept = read & (np.bincount(labels[read], minlength=len(images.people))[labels] >= 2)
    vectors, labels = vectors[kept], labels[kept]
    if np.unique(labels).size < 2:
        return None
    own, nearest_other = centre_angles(vectors, labels)
    return CentreAngles(
        own=tuple(np.round(own, 4).tolist()),
        nearest_other=tuple(np.round(nearest_other, 4).tolist()),
        people=int(np.unique(labels).size),
    )


def sampled(
    labels: NDArray[np.int64], *, images: int = SAMPLE_IMAGES, a_person: int = SAMPLE_IMAGES_A_PERSON
) -> NDArray[np.int64]:
    """Places of a sample of images of people with at least two, ascending.

    Args:
        labels: (N,) class of each image.
        images: most images altogether.
        a_person: most images of one person.

    >>> sampled(np.array([0, 1, 1, 2, 2, 2, 2]), a_person=3).tolist()
    [1, 2, 3, 4, 5]
    """
    counts = np.bincount(labels)
    order = np.argsort(labels, kind="stable")
    starts = np.cumsum(counts) - counts
    several = np.random.default_rng(0).permutation(np.flatnonzero(counts >= 2))
    chosen: list[int] = []
    for person in several:
        take = min(int(counts[person]), a_person, images - len(chosen))
        if take < 2:
            break
        chosen += order[starts[person] : starts[person] + take].tolist()
    return np.array(sorted(chosen), dtype=np.int64)


def centre_angles(
    vectors: NDArray[np.float32], labels: Sequence[int] | NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angle of each embedding to its own class centre, and to the nearest other one.

    The centre of a class is the direction of the sum of its unit embeddings; of the own class the embedding itself is
    left out, because with two images a class the angle to a centre that holds it would be half of what it is.

    Args:
        vectors: (N, D) unit rows, at least two of each class, at least two classes.
        labels: (N,) classes.

    Returns:
        Two arrays (N,), radians in [0, π].

    >>> own, other = centre_angles(np.array([[1, 0], [0, 1], [-1, 0], [-1, 0]], dtype=np.float32), [0, 0, 1, 1])
    >>> (own / np.pi).round(2).tolist(), (other / np.pi).round(2).tolist()
    ([0.5, 0.5, 0.0, 0.0], [1.0, 0.5, 0.75, 0.75])
    """
    unit, own_class = np.asarray(vectors, dtype=np.float64), np.unique(labels, return_inverse=True)[1]
    sums = np.zeros((int(own_class.max()) + 1, unit.shape[1]))
    np.add.at(sums, own_class, unit)
    own = np.sum(unit * _directions(sums[own_class] - unit), axis=1)
    cosines = unit @ _directions(sums).T
    cosines[np.arange(len(unit)), own_class] = -np.inf
    return np.arccos(np.clip(own, -1, 1)), np.arccos(np.clip(cosines.max(axis=1), -1, 1))


def _directions(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit rows; a zero row stays zero, at a right angle to everything."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: NDArray[np.float64] = rows / np.where(norms > 0, norms, 1.0)
    return directions


def _on_device(backbone: Backbone, config: TrainConfig) -> Backbone:
    device = choose_device(config.device)
    return backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _embedder(network: Backbone, config: TrainConfig, *, flip_sum: bool) -> Embed:
    preprocessing: Preprocessing = config.preprocessing
    return network_embedder(network, preprocessing, device=choose_device(config.device), flip_sum=flip_sum)


def _protocol(config: TrainConfig, wanted: EvaluationConfig, folds: Sequence[int]) -> str:
    name = config.data.protocol if config.data.protocol != "all" else wanted.images.name
    return f"validation pairs of {name}, {'folds' if len(folds) > 1 else 'fold'} {format_folds(folds)}"
