"""A run that left a picture out is exported, compared and reported without it; one that does not names the picture."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from facemargin.errors import CheckpointError, DataError, UnsupportedImageError
from training.compare import compare
from training.config import TrainConfig
from training.data.pictures import LazyPictures, Picture
from training.publish import publish
from training.report.results import HeadResult
from training.rereading import Rereading
from training.trainer import train

QUIET = Console(quiet=True)


@pytest.fixture
def damaged(drawn_people: Path, tmp_path: Path) -> Path:
    """The drawn people, one picture of whom is none."""
    people = shutil.copytree(drawn_people, tmp_path / "people")
    (people / "person03" / "2.png").write_bytes(b"no picture")
    return people


@pytest.fixture
def pairs(other_people: Path, tmp_path: Path) -> dict[str, Any]:
    """Four people as LFW lays them out, and two folds of their pairs."""
    lines = ["2\t2"]
    for fold in ("01", "23"):
        names = [f"P_{number}" for number in fold]
        for number, name in zip(fold, names, strict=True):
            (tmp_path / "lfw" / name).mkdir(parents=True)
            for image in (1, 2):
                target = tmp_path / "lfw" / name / f"{name}_{image:04}.png"
                shutil.copy(other_people / f"person{int(number):02}" / f"{image}.png", target)
        lines += [f"{name}\t1\t2" for name in names] + [f"{names[0]}\t{k}\t{names[1]}\t{k}" for k in (1, 2)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"images": tmp_path / "lfw", "pairs": tmp_path / "pairs.txt"}


def data(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"folders": [folder], "workers": 0, "on_bad_image": "skip", "max_bad_share": 0.5} | changes


def test_a_comparison_and_an_export_leave_out_what_the_run_left_out(
    tiny_config: Callable[..., TrainConfig], damaged: Path, pairs: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_config(epochs=1, data=data(damaged), test=pairs | {"folds": "1-2"})
    with (tmp_path / "shown").open("w", encoding="utf-8") as shown:
        console = Console(file=shown, width=400)
        (result,) = compare(config, ["softmax"], [0], command="facemargin compare", console=console).runs
        publish(config.output / "softmax-seed0", tmp_path / "bundle", console=console)
    assert isinstance(result, HeadResult)
    assert result.angles is not None
    assert (len(result.angles.own), result.angles.people) == (47, 8)
    text = (tmp_path / "shown").read_text(encoding="utf-8")
    bad = damaged / "person03" / "2.png"
    assert f"1 of 48 images of the sample of angles cannot be read and were left out: {bad}" in text
    assert f"1 of 48 crops of the parity check cannot be read and were left out: {bad}" in text


def test_an_export_without_a_readable_crop_says_what_to_do(
    tiny_config: Callable[..., TrainConfig], damaged: Path, tmp_path: Path
) -> None:
    run = train(tiny_config(epochs=1, data=data(damaged)), console=QUIET).checkpoint.parents[1]
    for path in damaged.rglob("*.png"):
        path.write_bytes(b"no picture any more")
    with pytest.raises(CheckpointError, match=r"none of 48 training images of .* can be read; pass --crops DIR"):
        publish(run, tmp_path / "bundle", console=QUIET)


class Misplaced(LazyPictures):
    """Whose second picture is not where it should be."""

    def __len__(self) -> int:
        return 2

    def name(self, index: int) -> str:
        return str(index)

    def picture(self, index: int) -> Picture:
        if index == 1:
            raise DataError("another record lies there")
        return Picture.of_file(Path("first.png"))


def test_without_skip_both_kinds_of_damage_are_errors(tiny_config: Callable[..., TrainConfig], damaged: Path) -> None:
    strict, skipping = (Rereading(tiny_config(data=data(damaged, on_bad_image=choice))) for choice in ("fail", "skip"))
    bad, good = (Picture.of_file(damaged / "person03" / f"{number}.png") for number in (2, 3))
    with pytest.raises(UnsupportedImageError):
        strict.read(bad)
    with pytest.raises(DataError, match="another record"):
        strict.find(Misplaced(), range(2))
    assert skipping.read(bad) is None
    assert list(skipping.find(Misplaced(), range(2))) == [0]
    assert len(skipping.unreadable) == 2
    crop = strict.read(good)
    assert crop is not None
    assert np.array_equal(crop, good.decode())
