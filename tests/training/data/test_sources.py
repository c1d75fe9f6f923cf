"""Data sets of any format as one training set: people stay apart, names and fingerprints hold."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from facemargin.errors import ConfigError, DataError
from facemargin.preprocessing import Preprocessing
from training.config import AugmentationConfig, make_config
from training.data.formats.convert import convert
from training.data.loader import BatchPlan, make_loader
from training.data.sources import label_people
from training.trainer import training_images


@pytest.fixture(scope="module")
def sources(drawn_people: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One set of people in every format of coloured pictures."""
    root = tmp_path_factory.mktemp("sources")
    paths = {"folder": drawn_people}
    for name, target in (("recordio", "rec/train.rec"), ("webdataset", "wds/set.tar"), ("list", "list/train.txt")):
        convert(drawn_people, root / target)
        paths[name] = root / target
    return paths


def test_people_of_different_sources_are_different_people(sources: dict[str, Path]) -> None:
    images = label_people(list(sources.values()))
    assert len(images.people) == 4 * 8
    assert images.people[8:10] == ("train.rec/person00", "train.rec/person01")
    assert images.class_counts() == [6] * 32
    assert len(images.pictures) == 4 * 48
    by_source = [[picture.read() for picture in images.pictures[48 * n : 48 * n + 48]] for n in range(4)]
    assert by_source[0] == by_source[1] == by_source[2] == by_source[3]


def test_only_and_few_images_apply_before_labels_are_given(sources: dict[str, Path], tmp_path: Path) -> None:
    images = label_people([sources["folder"], sources["recordio"]], only=["person03", "person05", "nobody"])
    assert images.people[:3] == (
        f"{sources['folder'].name}/person03",
        f"{sources['folder'].name}/person05",
        "train.rec/person00",
    )
    assert images.labels[[0, 5, 6, 12]].tolist() == [0, 0, 1, 2]
    assert images.left_out == 0
    with pytest.raises(DataError, match=r"no people to train on in .* \(16 have too few images\)"):
        label_people([sources["webdataset"], sources["list"]], min_images=7)
    with pytest.raises(ConfigError, match="cannot be chosen by name; an image folder must come first"):
        label_people([sources["recordio"]], only=["person03"])


def test_the_fingerprint_of_image_folders_never_changes(tmp_path: Path) -> None:
    for place, (person, images) in enumerate((("a/ann", 2), ("a/bob", 1), ("a/Ünal", 3), ("b/ann", 0))):
        (tmp_path / person).mkdir(parents=True)
        for number in range(images):
            (tmp_path / person / f"{number}.jpg").write_bytes(bytes(place))
    (tmp_path / "b" / "ann" / "x y.PNG").write_bytes(b"")
    found = label_people([tmp_path / "a", tmp_path / "b"])
    assert found.fingerprint() == "127e0d590beeeee82b42f10217bf4528c7e5c7efd86f8d589e7ac68046624e95"


def test_the_fingerprint_reads_no_picture(sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    images = label_people([sources["recordio"]])
    monkeypatch.setattr("training.data.formats.recordio.RecordFile", None)
    assert len(images.fingerprint()) == 64


def test_every_source_can_be_sent_to_a_loader_process(sources: dict[str, Path]) -> None:
    images = label_people(list(sources.values()))
    sent = pickle.loads(pickle.dumps(images))
    assert sent.pictures[100].read() == images.pictures[100].read()


def test_a_batch_from_records_is_a_batch_from_files(sources: dict[str, Path]) -> None:
    def first_batch(path: Path) -> torch.Tensor:
        images = label_people([path])
        loader = make_loader(
            images, BatchPlan(48, 12, 3), first_step=0, last_step=1, augmentation=AugmentationConfig(),
            preprocessing=Preprocessing(size=(32, 32)), workers=0, pin_memory=False,
        )  # fmt: skip
        return next(iter(loader))[0]

    assert torch.equal(first_batch(sources["folder"]), first_batch(sources["recordio"]))


def test_a_run_takes_any_format_and_lfw_open_only_a_folder_first(sources: dict[str, Path], tmp_path: Path) -> None:
    def images_of(**data: object) -> object:
        return training_images(make_config({"output": tmp_path / "run", "data": data}, "test"))

    assert len(images_of(folders=[sources["recordio"], sources["webdataset"]]).people) == 16  # type: ignore[attr-defined]
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("")
    with pytest.raises(ConfigError, match="protocol lfw-open needs an image folder of LFW first"):
        images_of(folders=[sources["recordio"]], protocol="lfw-open", pairs=pairs)
    with pytest.raises(DataError, match=r"the image folder .* does not exist"):
        images_of(folders=[tmp_path / "absent"])


def test_labels_are_int64_whatever_the_source(sources: dict[str, Path]) -> None:
    for path in sources.values():
        assert label_people([path]).labels.dtype == np.int64


def test_gaps_of_one_source_are_kept_and_those_of_several_mean_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    (tmp_path / "list.txt").write_text("x.png 0\nx.png 3\n")
    assert label_people([tmp_path / "list.txt"]).gaps == (1, 2)
    assert label_people([tmp_path / "list.txt"] * 2).gaps == ()


def test_names_that_are_no_utf_8_have_a_fingerprint_of_their_bytes(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "set") + b"/Andr\xe9"
    os.makedirs(folder)
    with open(folder + b"/\xff.png", "wb"):
        pass
    expected = hashlib.sha256(b"set/Andr\xe9\n0\t\xff.png\n").hexdigest()
    assert label_people([tmp_path / "set"]).fingerprint() == expected
