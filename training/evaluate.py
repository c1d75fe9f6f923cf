"""Evaluation and calibration on real photographs: LFW-style pairs, all pairs of many people, and the validation set.

Policy: a photograph without a detected face is a failure to acquire. It is reported, and each of its pairs scores -1:
never accepted, so that a genuine pair counts as missed. With aligned crops such photographs are those that the report
of ``facemargin data align`` names; any other missing file is an error.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rich.console import Console

from facemargin.bundle import Bundle, update_manifest
from facemargin.embedder import Embedder
from facemargin.errors import DataError
from facemargin.metrics import (
    Interval,
    KFold,
    TarAtFar,
    accuracy_statistic,
    all_pairs,
    auc_statistic,
    calibrate,
    eer,
    eer_statistic,
    halves_accuracy,
    interval,
    kfold_accuracy,
    people_weights,
    tar_at_far,
    tar_statistic,
)
from facemargin.metrics.intervals import Statistic
from facemargin.metrics.verification import halves
from facemargin.preprocessing import Detector
from training.crops import Crop, Embed, crop_reader, embed_pictures, not_detected
from training.data.lfw_open import people_folders, person_images
from training.data.pairs import Pairs, Photo, format_folds, require_found
from training.data.pictures import Picture
from training.evaluation_report import AccuracyMethod, AllPairsReport, Estimate, EvaluationReport, TarRow

PAIR_FARS = (1e-1, 1e-2, 1e-3)
ALL_PAIRS_FARS = (1e-3, 1e-4, 1e-5, 1e-6)
NOT_ACQUIRED = -1.0
"""Similarity of a pair of which a photograph has no face: at or below every cosine."""


def evaluate_pairs(
    embed: Embed,
    pairs: Pairs,
    images_root: Path,
    *,
    folds: Sequence[int] | None = None,
    aligned: bool,
    detector: Detector | None = None,
    template: str = "arcface-112",
    flip_sum: bool = False,
    protocol: str = "pairs",
    resamples: int = 1000,
    seed: int = 0,
    console: Console | None = None,
) -> EvaluationReport:
    """Measure a model on the pairs of a protocol.

    Args:
        embed: aligned crops uint8 (N, h, w, 3) -> unit float32 (N, D); a trained model or an `Embedder`.
        pairs: the protocol.
        images_root: a folder per person, photographs or aligned crops.
        folds: the folds to use; None takes all. Thresholds for the accuracy come from the other folds among these.
        aligned: the files are aligned crops; else faces are detected and aligned first.
        detector: for whole photographs; None takes the default one.
        template: alignment template of the model.
        flip_sum: whether `embed` sums the crop and its mirror image; only recorded.
        protocol: name of the protocol for the report; the folds are added to it.
        resamples: bootstrap resamples of the people.
        seed: of the bootstrap.
        console: where progress is drawn; default stderr.

    Raises:
        DataError: folds that the protocol does not have, missing photographs, no face at all, or one fold with a
            single pair of a kind.
        ImageError: a file that is no accepted picture.
    """
    chosen = pairs if folds is None else pairs.select(folds)
    if len(chosen.folds) == 1 and min(chosen.same.sum(), (~chosen.same).sum()) < 2:
        raise DataError("the protocol has a single pair of a kind; an evaluation needs at least two")
    files = _photo_files(chosen, images_root, aligned=aligned)
    present = {photo: path for photo, path in files.items() if path is not None}
    reader = crop_reader(aligned=aligned, detector=detector, template=template)
    vectors, acquired = embed_pictures(
        embed, [Picture.of_file(path) for path in present.values()], reader, console=console
    )
    rows = {photo: vectors[k] for k, photo in enumerate(present) if acquired[k]}
    similarity = pair_similarities(chosen, rows)
    weights = people_weights(
        [photo.name for photo in chosen.first], [photo.name for photo in chosen.second], resamples=resamples, seed=seed
    )

    def estimate(statistic: Statistic) -> Estimate:
        return Estimate.of(interval(statistic, similarity, chosen.same, weights))

    method, accuracy, groups = _accuracy(similarity, chosen)
    return EvaluationReport(
        protocol=f"{protocol}, {'folds' if len(chosen.folds) > 1 else 'fold'} {format_folds(chosen.folds)}",
        folds=chosen.folds,
        aligned=aligned,
        flip_sum=flip_sum,
        genuine_pairs=int(chosen.same.sum()),
        impostor_pairs=int((~chosen.same).sum()),
        people=len(chosen.people()),
        photos=len(files),
        not_acquired=tuple(f"{photo.name}/{photo.stem}" for photo in files if photo not in rows),
        accuracy_method=method,
        accuracy=estimate(accuracy_statistic(groups)),
        accuracy_std=accuracy.std,
        accuracy_stderr=accuracy.stderr,
        accuracy_per_fold=accuracy.per_fold,
        eer=estimate(eer_statistic),
        auc=estimate(auc_statistic),
        tar=tuple(TarRow.of(_tar(similarity, chosen.same, far), estimate(tar_statistic(far))) for far in PAIR_FARS),
        resamples=resamples,
        similarity=tuple(similarity.tolist()),
        same=tuple(chosen.same.tolist()),
        fold=tuple(chosen.fold.tolist()),
    )


def evaluate_bundle(
    bundle: Bundle,
    pairs: Pairs,
    images_root: Path,
    *,
    folds: Sequence[int] | None = None,
    aligned: bool,
    detector: Detector | None = None,
    flip_sum: bool | None = None,
    protocol: str = "pairs",
    console: Console | None = None,
) -> EvaluationReport:
    """`evaluate_pairs` for an exported model; `flip_sum` None does as the bundle says.

    Raises:
        BundleError: a model that cannot be run.
        DataError: as in `evaluate_pairs`.
        ImageError: as in `evaluate_pairs`.
    """
    bundle = with_flip_sum(bundle, flip_sum)
    return evaluate_pairs(
        Embedder(bundle).embed,
        pairs,
        images_root,
        folds=folds,
        aligned=aligned,
        detector=detector,
        template=bundle.manifest.preprocessing.template,
        flip_sum=bundle.manifest.flip_sum,
        protocol=protocol,
        console=console,
    )


def with_flip_sum(bundle: Bundle, flip_sum: bool | None) -> Bundle:
    """The bundle as it would be with another `flip_sum`; None leaves it as it is. Nothing is written."""
    if flip_sum is None:
        return bundle
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"flip_sum": flip_sum}))


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
        rows=tuple(TarRow.of(tar, _tar_over_people(tar, persons, resamples=resamples, seed=seed)) for tar in found),
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


def calibrate_bundle(
    bundle: Bundle,
    images_root: Path,
    *,
    people: Iterable[str] | None = None,
    aligned: bool,
    detector: Detector | None = None,
    source: str,
    prior: float = 0.5,
    console: Console | None = None,
) -> Bundle:
    """Fit the calibration of a bundle to photographs of people it was not trained on, and write it to its manifest.

    Args:
        bundle: the model.
        images_root: a folder per person, photographs or aligned crops.
        people: names of the folders to use; None takes all.
        aligned: the files are aligned crops.
        detector: for whole photographs; None takes the default one.
        source: whose photographs these are, in words, for the manifest.
        prior: P(same) that the probabilities shall assume.
        console: where progress is drawn; default stderr.

    Returns:
        The bundle with its new manifest; nothing is written when something fails.

    Raises:
        BundleError: a model that cannot be run, or a manifest that cannot be written.
        CalibrationError: too few pairs.
        DataError: as in `embed_people`.
        ImageError: as in `embed_people`.
    """
    vectors, names = embed_people(
        Embedder(bundle).embed,
        images_root,
        people,
        aligned=aligned,
        detector=detector,
        template=bundle.manifest.preprocessing.template,
        console=console,
    )
    calibration = calibrate(vectors, names, prior=prior, source=source)
    return update_manifest(bundle, bundle.manifest.model_copy(update={"calibration": calibration}))


class Validation(BaseModel):
    """Quick figures on the validation people, for choosing a checkpoint or a recipe; no intervals.

    Attributes:
        accuracy: of the protocol's pairs.
        accuracy_method: "halves" for one fold, "k-fold" for more.
        eer: of the protocol's pairs.
        tar_at_far_1e2: of the protocol's pairs.
        all_pairs_eer: of every pair of the photographs.
        all_pairs_tar_at_far_1e3: of every pair of the photographs; the steadiest figure to choose by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    accuracy: float
    accuracy_method: AccuracyMethod
    eer: float
    tar_at_far_1e2: float
    all_pairs_eer: float
    all_pairs_tar_at_far_1e3: float


@dataclass(frozen=True)
class ValidationSet:
    """Aligned crops of everybody in some pairs, read once and kept.

    Attributes:
        pairs: the protocol.
        crops: uint8 (N, h, w, 3), every photograph of these people.
        people: N names.
        rows: row of a photograph of the protocol; without those not acquired.
    """

    pairs: Pairs
    crops: Crop
    people: tuple[str, ...]
    rows: dict[Photo, int]


def load_validation(pairs: Pairs, aligned_root: Path, *, template: str = "arcface-112") -> ValidationSet:
    """Read the aligned crops of all people of some pairs: 33 MB for the 871 of fold 5.

    Raises:
        DataError: photographs of the pairs that are missing, or crops of different sizes.
        ImageError: a file that is no accepted picture.
    """
    files = _photo_files(pairs, aligned_root, aligned=True)
    present = set(people_folders(aligned_root))
    images = person_images(aligned_root, (name for name in pairs.people() if name in present))
    reader = crop_reader(aligned=True, detector=None, template=template)
    crops = [reader.read(Picture.of_file(path)) for path, _ in images]
    kept = [crop for crop in crops if crop is not None]
    if not kept or len({crop.shape for crop in kept}) > 1:
        raise DataError(f"the crops of the validation people in {aligned_root} must all have one size")
    row_of = {path: row for row, (path, _) in enumerate(images)}
    rows = {photo: row_of[path] for photo, path in files.items() if path is not None}
    return ValidationSet(pairs, np.stack(kept), tuple(person for _, person in images), rows)


def validate_pairs(embed: Embed, validation: ValidationSet) -> Validation:
    """Measure a model in training; takes little more than the embedding of the crops."""
    vectors = embed(validation.crops)
    similarity = pair_similarities(validation.pairs, {photo: vectors[row] for photo, row in validation.rows.items()})
    same = validation.pairs.same
    method, accuracy, _ = _accuracy(similarity, validation.pairs)
    scores = all_pairs(vectors, validation.people)
    return Validation(
        accuracy=accuracy.mean,
        accuracy_method=method,
        eer=eer(similarity[same], similarity[~same]),
        tar_at_far_1e2=_tar(similarity, same, 1e-2).tar,
        all_pairs_eer=eer(scores.genuine, scores.impostor),
        all_pairs_tar_at_far_1e3=tar_at_far(scores.genuine, scores.impostor, 1e-3).tar,
    )


def pair_similarities(pairs: Pairs, rows: dict[Photo, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Cosine of every pair, float32 (P,); -1 where a photograph has no embedding."""
    cosines = [
        float(rows[a] @ rows[b]) if a in rows and b in rows else NOT_ACQUIRED
        for a, b in zip(pairs.first, pairs.second, strict=True)
    ]
    return np.asarray(cosines, dtype=np.float32)


def _photo_files(pairs: Pairs, images_root: Path, *, aligned: bool) -> dict[Photo, Path | None]:
    """The file of every photograph; None for those that the alignment reported as not detected."""
    files = {photo: photo.find(images_root) for photo in pairs.photos()}
    excused = not_detected(images_root) if aligned else frozenset()
    required = {photo: path for photo, path in files.items() if path or f"{photo.name}/{photo.stem}" not in excused}
    require_found(required, images_root)
    return files


def _accuracy(similarity: NDArray[np.float32], pairs: Pairs) -> tuple[AccuracyMethod, KFold, NDArray[np.int64]]:
    """Accuracy by folds, or by halves where there is one fold, and the group of each pair."""
    if len(pairs.folds) > 1:
        return "k-fold", kfold_accuracy(similarity, pairs.same, pairs.fold), pairs.fold
    return "halves", halves_accuracy(similarity, pairs.same), halves(pairs.same)


def _tar(similarity: NDArray[np.float32], same: NDArray[np.bool_], far: float) -> TarAtFar:
    return tar_at_far(similarity[same], similarity[~same], far)


def _genuine_by_person(embeddings: NDArray[np.floating[Any]], people: Sequence[str]) -> list[NDArray[np.float32]]:
    """Genuine cosines of each person with at least two photographs."""
    vectors, labels = np.asarray(embeddings, dtype=np.float32), np.unique(people, return_inverse=True)[1]
    groups = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    return [(vectors[group] @ vectors[group].T)[np.triu_indices(group.size, k=1)] for group in groups if group.size > 1]


def _tar_over_people(found: TarAtFar, persons: Sequence[NDArray[np.float32]], *, resamples: int, seed: int) -> Estimate:
    """The TAR with its interval over the people of the genuine pairs, the threshold held."""
    accepted = np.array([np.count_nonzero(cosines >= found.threshold) for cosines in persons])
    pairs = np.array([cosines.size for cosines in persons])
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(persons), np.full(len(persons), 1 / len(persons)), size=resamples)
    low, high = np.quantile((drawn @ accepted) / (drawn @ pairs), [0.025, 0.975])
    return Estimate.of(Interval(value=found.tar, low=float(low), high=float(high), level=0.95, resamples=resamples))
