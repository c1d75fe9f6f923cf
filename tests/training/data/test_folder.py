"""Image folders: labels, fingerprints and unusable folders."""

from pathlib import Path

import pytest

from facemargin.errors import DataError
from training.data.sources import label_people


def fill(root: Path, **people: int) -> Path:
    for name, images in people.items():
        (root / name).mkdir(parents=True)
        for number in range(images):
            (root / name / f"{number}.jpg").write_bytes(b"")
    return root


def test_labels_are_dense_and_people_of_two_folders_stay_apart(tmp_path: Path) -> None:
    first, second = fill(tmp_path / "a", ann=2, bob=1), fill(tmp_path / "b", ann=1)
    found = label_people([first, second])
    assert found.people == ("a/ann", "a/bob", "b/ann")
    assert found.labels.tolist() == [0, 0, 1, 2]
    assert [picture.name for picture in found.pictures] == ["0.jpg", "1.jpg", "0.jpg", "0.jpg"]


def test_only_restricts_the_first_folder_alone(tmp_path: Path) -> None:
    first, second = fill(tmp_path / "a", ann=1, bob=1), fill(tmp_path / "b", cid=1)
    assert label_people([first, second], only=["bob"]).people == ("a/bob", "b/cid")


def test_people_with_few_images_are_counted(tmp_path: Path) -> None:
    found = label_people([fill(tmp_path / "a", ann=3, bob=1)], min_images=2)
    assert (found.people, found.left_out) == (("a/ann",), 1)
    with pytest.raises(DataError, match="2 have too few images"):
        label_people([tmp_path / "a"], min_images=4)


def test_an_empty_person_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 2 people .* have no picture: bob"):
        label_people([fill(tmp_path / "a", ann=1, bob=0)])


def test_a_missing_or_flat_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        label_people([tmp_path / "absent"])
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="one folder a person"):
        label_people([tmp_path])


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    here, there = fill(tmp_path / "x" / "a", ann=2), fill(tmp_path / "y" / "a", ann=2)
    more = fill(tmp_path / "z" / "a", ann=3)
    prints = [label_people([root]).fingerprint() for root in (here, there, more)]
    assert prints[0] == prints[1] != prints[2]
