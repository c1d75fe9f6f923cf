"""The open-set benchmark ``lfw-open``: LFW cut into training, validation and test people who never overlap.

Folds 6-10 of ``pairs.txt`` are the test; fold 5 is for validation, the choice of recipes and calibration; everybody who
appears in no pair of folds 5-10 is for training. Owns who is where, not the pictures.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from facemargin.errors import DataError
from training.data.folder import images_of, person_folders
from training.data.pairs import Pairs, read_pairs

VALIDATION_FOLD = 5
TEST_FOLDS = (6, 7, 8, 9, 10)


@dataclass(frozen=True)
class LfwOpen:
    """Who is in which part of ``lfw-open``; all names sorted, the three lists disjoint.

    Attributes:
        train: people for training.
        validation: people for choosing recipes and for calibration.
        test: people of the test folds.
        pairs: the whole protocol.
        validation_folds: the fold of the validation pairs.
        test_folds: the folds of the test pairs.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    pairs: Pairs
    validation_folds: tuple[int, ...] = (VALIDATION_FOLD,)
    test_folds: tuple[int, ...] = TEST_FOLDS

    @property
    def validation_pairs(self) -> Pairs:
        """The 600 pairs of fold 5."""
        return self.pairs.select(self.validation_folds)

    @property
    def test_pairs(self) -> Pairs:
        """The 3,000 pairs of folds 6-10."""
        return self.pairs.select(self.test_folds)


def lfw_open(images_root: Path, pairs_path: Path) -> LfwOpen:
    """Cut the people under ``images_root`` (a folder per person, raw or aligned) by the folds of ``pairs_path``.

    Only people with a folder are listed, so that an aligned copy in which a whole person was not detected still works.

    Raises:
        DataError: a protocol without folds 5-10, folds that share people, or a part left without anybody.
    """
    pairs = read_pairs(pairs_path)
    present = set(people_folders(images_root))
    validation = set(pairs.people((VALIDATION_FOLD,)))
    test = set(pairs.people(TEST_FOLDS))
    shared = sorted(validation & test)
    if shared:
        raise DataError(
            f"{pairs_path}: {len(shared)} people are in fold {VALIDATION_FOLD} and in a test fold: {shared[0]}"
        )
    parts = {"training": present - validation - test, "validation": present & validation, "test": present & test}
    for part, people in parts.items():
        if not people:
            raise DataError(f"{images_root} has nobody for the {part} part of lfw-open; is it a folder of LFW?")
    train, validating, testing = (tuple(sorted(people)) for people in parts.values())
    return LfwOpen(train=train, validation=validating, test=testing, pairs=pairs)


def people_folders(images_root: Path) -> list[str]:
    """Names of the people with a folder under ``images_root``, sorted.

    Raises:
        DataError: no such folder.
    """
    return [folder.name for folder in person_folders(images_root)]


def person_images(images_root: Path, people: Iterable[str]) -> list[tuple[Path, str]]:
    """Every image file of these people as (file, person), sorted by person and then by file name."""
    return [(path, person) for person in sorted(set(people)) for path in images_of(images_root / person)]
