"""Verification of a model on the pairs of a protocol: k-fold accuracy, EER, AUC, TAR@FAR, with intervals over people.

Policy: a photograph without a detected face is a failure to acquire. It is reported, and each of its pairs scores -1:
never accepted, so that a genuine pair counts as missed. With aligned crops such photographs are those that the report
of ``facemargin data align`` names; any other missing file is an error, or on request left out and counted.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from facemargin.bundle import Bundle
from facemargin.embedder import Embedder
from facemargin.errors import DataError
from facemargin.metrics import accuracy_statistic, auc_statistic, eer_statistic, interval, people_weights, tar_statistic
from facemargin.metrics.intervals import Statistic
from facemargin.preprocessing import Detector
from training.crops import Embed, crop_reader
from training.data.pairs import Pairs, format_folds
from training.data.protocols.lfw import pairs_of
from training.data.protocols.pair_set import PairSet
from training.data.protocols.source import OnProblem, Source
from training.embedded import embed_readable
from training.evaluation_report import Estimate, EvaluationReport, LeftOut, TarRow
from training.pair_scores import accuracy_by_folds, pair_similarities, tar_of_pairs

PAIR_FARS = (1e-1, 1e-2, 1e-3)


def evaluate_pair_set(
    embed: Embed,
    pairs: PairSet,
    *,
    detector: Detector | None = None,
    template: str = "arcface-112",
    flip_sum: bool = False,
    fars: Sequence[float] = PAIR_FARS,
    on_bad: OnProblem = "fail",
    resamples: int = 1000,
    seed: int = 0,
    console: Console | None = None,
) -> EvaluationReport:
    """Measure a model on the pairs of any protocol.

    Args:
        embed: aligned crops uint8 (N, h, w, 3) -> unit float32 (N, D); a trained model or an `Embedder`.
        pairs: the protocol. Thresholds for the accuracy come from the other folds among its folds.
        detector: for whole photographs; None takes the default one.
        template: alignment template of the model.
        flip_sum: whether `embed` sums the crop and its mirror image; only recorded.
        fars: FMRs of the TAR@FAR rows.
        on_bad: what pairs do whose picture cannot be read.
        resamples: bootstrap resamples of the people.
        seed: of the bootstrap.
        console: where progress is drawn; default stderr.

    Raises:
        DataError: pictures that cannot be read, no face at all, pairs of one kind only, or one fold with a single pair
            of a kind.
    """
    _require_both_kinds(pairs)
    reader = crop_reader(aligned=pairs.aligned, detector=detector, template=template)
    found = embed_readable(embed, pairs.pictures, reader, on_bad=on_bad, console=console)
    unreadable = {pairs.photos[k]: why for k, why in found.unreadable.items()}
    if unreadable:
        kept = pairs.without(found.unreadable)
        used = np.isin(pairs.photos, kept.photos)
        found, pairs = replace(found, vectors=found.vectors[used], acquired=found.acquired[used]), kept
        _require_both_kinds(pairs)
    rows = {int(k): found.vectors[k] for k in np.flatnonzero(found.acquired)}
    similarity = pair_similarities(pairs.first.tolist(), pairs.second.tolist(), rows)
    first, second = pairs.sides
    weights = people_weights(first, second, resamples=resamples, seed=seed)

    def estimate(statistic: Statistic) -> Estimate:
        return Estimate.of(interval(statistic, similarity, pairs.same, weights))

    method, accuracy, groups = accuracy_by_folds(similarity, pairs.same, pairs.fold)
    return EvaluationReport(
        protocol=f"{pairs.name}, {'folds' if len(pairs.folds) > 1 else 'fold'} {format_folds(pairs.folds)}",
        folds=pairs.folds,
        aligned=pairs.aligned,
        flip_sum=flip_sum,
        genuine_pairs=int(pairs.same.sum()),
        impostor_pairs=int((~pairs.same).sum()),
        people=len({*first, *second}),
        people_known=pairs.people is not None,
        photos=len(pairs.photos),
        not_acquired=tuple(photo for photo, known in zip(pairs.photos, found.acquired, strict=True) if not known),
        left_out=LeftOut(
            missing=pairs.missing, unreadable=unreadable, pairs=pairs.pairs_left_out, folds=pairs.folds_left_out
        ),
        duplicate_pairs=pairs.duplicates,
        accuracy_method=method,
        accuracy=estimate(accuracy_statistic(groups)),
        accuracy_std=accuracy.std,
        accuracy_stderr=accuracy.stderr,
        accuracy_per_fold=accuracy.per_fold,
        eer=estimate(eer_statistic),
        auc=estimate(auc_statistic),
        tar=tuple(TarRow.of(tar_of_pairs(similarity, pairs.same, far), estimate(tar_statistic(far))) for far in fars),
        resamples=resamples,
        similarity=tuple(similarity.tolist()),
        same=tuple(pairs.same.tolist()),
        fold=tuple(pairs.fold.tolist()),
    )


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
    """`evaluate_pair_set` for LFW's pairs and a folder a person.

    Args:
        pairs: the protocol.
        images_root: a folder per person, photographs or aligned crops.
        folds: the folds to use; None takes all.
        aligned: the files are aligned crops; else faces are detected and aligned first.
        protocol: name of the protocol for the report; the folds are added to it.
        embed, detector, template, flip_sum, resamples, seed, console: as in `evaluate_pair_set`.

    Raises:
        DataError: folds that the protocol does not have, missing photographs, or as in `evaluate_pair_set`.
    """
    source = Source(images=images_root, folds=None if folds is None else tuple(folds), aligned=aligned)
    return evaluate_pair_set(
        embed,
        pairs_of(pairs, source, name=protocol),
        detector=detector,
        template=template,
        flip_sum=flip_sum,
        resamples=resamples,
        seed=seed,
        console=console,
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


def _require_both_kinds(pairs: PairSet) -> None:
    genuine, impostor = int(pairs.same.sum()), int((~pairs.same).sum())
    if not genuine or not impostor:
        raise DataError(f"{pairs.name} has {genuine} genuine and {impostor} impostor pairs; an evaluation needs both")
    if len(pairs.folds) == 1 and min(genuine, impostor) < 2:
        raise DataError("the protocol has a single pair of a kind; an evaluation needs at least two")
