"""Quick figures of a protocol's pairs and people while a model trains: crops read once, no intervals."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from facemargin.errors import DataError
from facemargin.metrics import all_pairs, eer, tar_at_far
from training.align.report import not_detected
from training.crops import Crop, Embed, crop_reader
from training.data.lfw_open import people_folders, person_images
from training.data.pairs import Pairs, Photo, require_found
from training.data.pictures import Picture
from training.evaluation_report import AccuracyMethod
from training.pair_scores import accuracy_by_folds, pair_similarities, tar_of_pairs


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
    pairs, rows = validation.pairs, {photo: vectors[row] for photo, row in validation.rows.items()}
    similarity = pair_similarities(pairs.first, pairs.second, rows)
    same = validation.pairs.same
    method, accuracy, _ = accuracy_by_folds(similarity, same, validation.pairs.fold)
    scores = all_pairs(vectors, validation.people)
    return Validation(
        accuracy=accuracy.mean,
        accuracy_method=method,
        eer=eer(similarity[same], similarity[~same]),
        tar_at_far_1e2=tar_of_pairs(similarity, same, 1e-2).tar,
        all_pairs_eer=eer(scores.genuine, scores.impostor),
        all_pairs_tar_at_far_1e3=tar_at_far(scores.genuine, scores.impostor, 1e-3).tar,
    )


def _photo_files(pairs: Pairs, images_root: Path, *, aligned: bool) -> dict[Photo, Path | None]:
    """The file of every photograph; None for those that the alignment reported as not detected."""
    files = {photo: photo.find(images_root) for photo in pairs.photos()}
    excused = not_detected(images_root) if aligned else frozenset()
    required = {photo: path for photo, path in files.items() if path or f"{photo.name}/{photo.stem}" not in excused}
    require_found(required, images_root)
    return files
