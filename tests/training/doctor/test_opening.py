"""Data sets open in every format, and a config opens all its sets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facemargin.doctor import Request
from facemargin.errors import DataError
from training.doctor.opening import _names_no_output, open_case, open_data, open_set


def test_a_folder_keeps_people_without_pictures(drawn_faces: Any, write: Any) -> None:
    folder = write("set", drawn_faces)
    (folder / "nobody").mkdir()
    images = open_data(folder)
    assert images.people[0] == "nobody"
    assert images.class_counts() == [0] + [3] * 8


def test_a_list_opens_like_its_folder(drawn_faces: Any, write: Any, tmp_path: Path) -> None:
    folder = write("set", drawn_faces)
    lines = [f"{folder / person / f'{k}.png'} {label}" for label, person in enumerate(drawn_faces) for k in range(3)]
    (tmp_path / "set.txt").write_text("\n".join(lines))
    images = open_data(tmp_path / "set.txt")
    np.testing.assert_array_equal(images.labels, open_data(folder).labels)


def test_an_evaluation_bin_opens_with_its_groups(shared_data: Path) -> None:
    images = open_data(shared_data / "insightface" / "small_lfw.bin")
    assert len(images.pictures) == len(images.labels) > 0
    assert set(images.labels) == set(range(len(images.people)))
    assert images.pictures[0].decode().shape == (112, 112, 3)


def test_a_missing_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_data(tmp_path / "absent")


def test_a_config_opens_training_validation_and_test(drawn_faces: Any, write: Any, tmp_path: Path) -> None:
    folder, other = write("train", drawn_faces), write("others", {"x": drawn_faces["person-0"]})
    config = tmp_path / "run.toml"
    config.write_text(
        f'[data]\nfolders = ["{folder}"]\n[validation]\nimages = "{other}"\n[test]\nimages = "{folder}"\n'
        "[preprocessing]\nstd = 128.0\n"
    )
    case = open_case(Request(config=config))
    assert [(data.role, len(data.images.labels)) for data in case.sets] == [
        ("training", 24), ("validation", 3), ("test", 24),
    ]  # fmt: skip
    assert len(case.apart()) == 3
    assert case.expected is not None
    assert case.expected.std == 128.0


@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ('output = "x"\n[data]\n', False),
        ('"output" = "x"\n', False),
        ('[data]\noutput = "x"\n', True),
        ('note = """\noutput = 3\n"""\n', True),
        ("[data]\n", True),
        ("output = [", False),  # load_config says what is wrong
    ],
)
def test_whether_a_config_names_its_output_is_read_as_toml(text: str, absent: bool, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(text)
    assert _names_no_output(tmp_path / "run.toml") is absent


def test_only_an_evaluation_bin_does_not_tell_its_people(drawn_faces: Any, write: Any, bin_of: Any) -> None:
    assert not open_set(bin_of("set.bin", drawn_faces), "set", "test", 0).tells_people
    assert open_set(write("set", drawn_faces), "set", "test", 0).tells_people


def test_the_bundle_says_what_is_expected(tiny_bundle: Any, write: Callable[..., Path], drawn_faces: Any) -> None:
    case = open_case(Request(data=(write("set", drawn_faces),), bundle=tiny_bundle))
    assert case.expected == tiny_bundle.manifest.preprocessing
    assert case.apart() == []
