"""The cut of LFW into training, validation and test people."""

from collections import Counter
from pathlib import Path

import pytest

from facemargin.errors import DataError
from training.data.lfw_open import LfwOpen, lfw_open, people_folders, person_images


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """Ten folds of one genuine pair (P<fold>) and one impostor pair (P<fold>, Q<fold>), and two more people."""
    lines = ["10\t1"]
    for fold in range(1, 11):
        lines += [f"P{fold}\t1\t2", f"P{fold}\t1\tQ{fold}\t1"]
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join(lines))
    images = tmp_path / "images"
    people = [f"{kind}{fold}" for kind in "PQ" for fold in range(1, 11)] + ["Extra", "Other"]
    for name in people:
        (images / name).mkdir(parents=True)
        for number in (1, 2):
            (images / name / f"{name}_{number:04d}.png").touch()
        (images / name / "notes.txt").touch()
    (images / ".hidden").mkdir()
    (images / "align-report.json").touch()
    return images, pairs


def impostor_pairs(images: list[tuple[Path, str]]) -> int:
    counts = Counter(person for _, person in images)
    return len(images) * (len(images) - 1) // 2 - sum(n * (n - 1) // 2 for n in counts.values())


def test_everybody_is_in_one_part(small: tuple[Path, Path]) -> None:
    split = lfw_open(*small)
    assert split.validation == ("P5", "Q5")
    assert split.test == tuple(sorted(f"{kind}{fold}" for kind in "PQ" for fold in range(6, 11)))
    assert split.train == ("Extra", "Other", "P1", "P2", "P3", "P4", "Q1", "Q2", "Q3", "Q4")
    assert split.validation_pairs.people() == ["P5", "Q5"]
    assert len(split.test_pairs) == 10
    assert people_folders(small[0]) == sorted(split.train + split.validation + split.test)


def test_images_of_people_are_pictures_only(small: tuple[Path, Path]) -> None:
    images = person_images(small[0], ["P2", "P1", "P1"])
    assert [(path.name, person) for path, person in images] == [
        ("P1_0001.png", "P1"),
        ("P1_0002.png", "P1"),
        ("P2_0001.png", "P2"),
        ("P2_0002.png", "P2"),
    ]


def test_a_person_without_a_folder_is_left_out(small: tuple[Path, Path]) -> None:
    for file in (small[0] / "Q5").iterdir():
        file.unlink()
    (small[0] / "Q5").rmdir()
    assert lfw_open(*small).validation == ("P5",)


def test_folds_that_share_people_are_refused(small: tuple[Path, Path]) -> None:
    images, pairs = small
    pairs.write_text(pairs.read_text().replace("P5\t1\tQ5", "P5\t1\tQ6"))
    with pytest.raises(DataError, match="1 people are in fold 5 and in a test fold: Q6"):
        lfw_open(images, pairs)


def test_other_folders_are_refused(small: tuple[Path, Path], tmp_path: Path) -> None:
    _, pairs = small
    with pytest.raises(DataError, match="does not exist"):
        lfw_open(tmp_path / "nowhere", pairs)
    (tmp_path / "other" / "Somebody").mkdir(parents=True)
    with pytest.raises(DataError, match="nobody for the validation part"):
        lfw_open(tmp_path / "other", pairs)


def test_a_protocol_of_five_folds_is_refused(small: tuple[Path, Path]) -> None:
    images, pairs = small
    pairs.write_text("\n".join(["5\t1", *pairs.read_text().splitlines()[1:11]]))
    with pytest.raises(DataError, match="the protocol has the folds 1-5, not 6-10"):
        lfw_open(images, pairs)


@pytest.fixture(scope="module")
def real(shared_data: Path) -> LfwOpen:
    return lfw_open(shared_data / "lfw" / "images", shared_data / "lfw" / "pairs.txt")


def test_the_numbers_of_the_design(real: LfwOpen, shared_data: Path) -> None:
    images = shared_data / "lfw" / "images"
    assert len(real.train) == 3132
    assert len(person_images(images, real.train)) == 6051
    validation = person_images(images, real.validation)
    assert (len(real.validation), len(validation)) == (422, 871)
    assert impostor_pairs(validation) == 377_013
    assert len(real.test_pairs) == 3000
    assert len(real.test) == 2195
    assert impostor_pairs(person_images(images, real.test)) == 19_728_346


def test_real_parts_share_nobody(real: LfwOpen) -> None:
    everybody = real.train + real.validation + real.test
    assert len(everybody) == len(set(everybody)) == 5749
    evaluated = set(real.pairs.people(range(5, 11)))
    assert not evaluated & set(real.train)
