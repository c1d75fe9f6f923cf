"""Inspection: counts, what cannot be read, equal pictures, colour order, and the contact sheet."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facemargin.errors import DataError
from facemargin.preprocessing import decode
from training.data.contact_sheet import draw_contact_sheet
from training.data.formats.convert import convert
from training.data.inspect import inspect_data
from training.data.sources import read_source


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def skin(seed: int, *, swapped: bool = False) -> np.ndarray:
    """A flat patch, redder than blue, in noise."""
    noise = np.random.default_rng(seed).integers(0, 40, (8, 8, 3))
    pixels = (np.array([190, 140, 110]) + noise).astype(np.uint8)
    return pixels[:, :, ::-1] if swapped else pixels


def folder(root: Path, pictures: dict[str, bytes]) -> Path:
    for name, data in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Three people, one broken picture, one picture of two people, one that one person has twice."""
    return folder(
        tmp_path / "set",
        {
            "Ann/1.png": png(skin(1)),
            "Ann/2.png": png(skin(2)),
            "Ann/3.png": png(skin(2)),
            "Bob/1.png": png(skin(1)),
            "Bob/2.png": b"broken",
            "Cid/1.png": png(np.zeros((4, 8, 3), np.uint8)),
        },
    )


def test_the_figures_of_a_small_set_by_hand(mixed: Path) -> None:
    found = inspect_data(mixed)
    assert (found.format, found.people, found.images, found.read) == ("folder", 3, 6, 6)
    assert found.images_per_person == (1, 1.5, 2, 2.5, 3)
    assert found.single_image_people == 1
    assert found.sizes == {"8x8": 4, "4x8": 1}
    assert [(one.row, one.name) for one in found.unreadable] == [(4, f"Bob: {mixed / 'Bob' / '2.png'}")]
    assert "not an image in an accepted format" in found.unreadable[0].reason
    assert found.duplicates == (("Ann/1.png", "Bob/1.png"), ("Ann/2.png", "Ann/3.png"))
    assert (found.duplicate_images, found.duplicates_across_people) == (2, 1)
    flat = np.concatenate([skin(seed).reshape(-1, 3) for seed in (1, 2, 2, 1)] + [np.zeros((32, 3))])
    assert found.mean == pytest.approx(flat.mean(0), abs=0.01)
    assert found.std == pytest.approx(flat.std(0), abs=0.01)
    text = found.to_text()
    assert f"unreadable: Bob: {mixed / 'Bob' / '2.png'} (" in text
    assert "2 pictures are byte for byte another one, 1 times across people" in text


def test_every_format_is_inspected_alike(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", {f"P{n % 3}/{n}.png": png(skin(n)) for n in range(30)})
    expected = inspect_data(root)
    for target in ("a/train.rec", "b/x.tar", "c/train.txt"):
        convert(root, tmp_path / target)
        found = inspect_data(tmp_path / target)
        changed = {"path": expected.path, "format": expected.format}
        assert found.model_copy(update=changed) == expected


def test_a_sample_is_drawn_by_its_seed(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", {f"P/{n}.png": png(skin(n)) for n in range(30)})
    found = inspect_data(root, sample=10, seed=1)
    assert (found.images, found.read, sum(found.sizes.values())) == (30, 10, 10)
    assert "looked at 10 of them" in found.to_text()
    assert found == inspect_data(root, sample=10, seed=1)
    assert found.mean != inspect_data(root, sample=10, seed=2).mean
    with pytest.raises(ValueError, match="sample must be at least 1, got 0"):
        inspect_data(root, sample=0)


@pytest.mark.parametrize(("swapped", "verdict"), [(False, "rgb"), (True, "bgr")])
def test_exchanged_red_and_blue_are_seen(tmp_path: Path, swapped: bool, verdict: str) -> None:
    root = folder(tmp_path / "set", {f"P/{n}.png": png(skin(n, swapped=swapped)) for n in range(30)})
    found = inspect_data(root).colour_order
    assert (found.verdict, found.coloured) == (verdict, 30)


def test_a_set_without_one_readable_picture_has_no_pixels(tmp_path: Path) -> None:
    found = inspect_data(folder(tmp_path / "set", {"Ann/1.png": b"x"}))
    assert (found.mean, found.std, found.sizes) == (None, None, {})
    assert "unreadable: 1" in found.to_text()


def test_a_sheet_has_a_row_a_person_and_is_equal_for_equal_seeds(mixed: Path, tmp_path: Path) -> None:
    images = read_source(mixed)
    sheet = draw_contact_sheet(images, tmp_path / "a.png", title="set")
    assert sheet.read_bytes() == draw_contact_sheet(images, tmp_path / "b.png", title="set").read_bytes()
    pixels = decode(sheet.read_bytes())
    assert pixels.shape[0] == 2 * 16 + 31 + 3 * 112 + 2 * 6
    first = pixels[16 + 31 : 16 + 31 + 112, :]
    # Each 8x8 picture is enlarged 14 times; the three of Ann stand beside each other from the same left edge.
    left = pixels.shape[1] - 16 - (3 * 112 + 2 * 6)
    for place, seed in enumerate((1, 2, 2)):
        start = left + place * 118
        assert np.array_equal(first[7::14, start + 7 : start + 112 : 14], skin(seed))
    one = draw_contact_sheet(images, tmp_path / "c.png", people=1, pictures=1, seed=5)
    assert decode(one.read_bytes()).shape[0] == 2 * 16 + 112


def test_sheets_that_cannot_be_drawn(mixed: Path, tmp_path: Path) -> None:
    images = read_source(mixed)
    with pytest.raises(DataError, match=r"a contact sheet is a \.png file"):
        draw_contact_sheet(images, tmp_path / "a.jpg")
    with pytest.raises(DataError, match="cannot write"):
        draw_contact_sheet(images, tmp_path / "absent" / "a.png")
    with pytest.raises(ValueError, match="people must be at least 1, got 0"):
        draw_contact_sheet(images, tmp_path / "a.png", people=0)
    with pytest.raises(ValueError, match="pictures must be at least 1, got 0"):
        draw_contact_sheet(images, tmp_path / "a.png", pictures=0)


def test_real_crops_are_rgb(shared_data: Path) -> None:
    folder = shared_data / "celeba" / "images"
    if not folder.is_dir():
        pytest.skip(f"needs CelebA (looked at {folder}; set FACEMARGIN_DATA)")
    found = inspect_data(folder, sample=60)
    assert (found.people, found.images, found.colour_order.verdict) == (200, 4324, "rgb")


def test_unreadable_pictures_of_one_name_are_counted_one_by_one(tmp_path: Path) -> None:
    folder(tmp_path, {"a/1.png": b"x", "b/1.png": b"x", "c/1.png": png(skin(1))})
    (tmp_path / "list.txt").write_text("a/1.png Ann\nb/1.png Ann\nc/1.png Ann\n")
    found = inspect_data(tmp_path / "list.txt")
    assert [one.row for one in found.unreadable] == [0, 1]
    assert "unreadable: 2\n" in found.to_text()


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ("a.jpg", r"a contact sheet is a \.png file"),
        ("absent/a.png", "there is no folder"),
        ("folder.png", "it is a folder"),
    ],
)
def test_a_sheet_that_cannot_be_written_is_told_before_any_picture_is_read(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sheet: str, message: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr("training.data.inspect._looks", lambda *_: pytest.fail("a picture was read"))
    with pytest.raises(DataError, match=message):
        inspect_data(mixed, sheet=tmp_path / sheet)


def test_a_sheet_that_fails_leaves_nothing_behind(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="disk full"):
        draw_contact_sheet(read_source(mixed), tmp_path / "out" / "a.png")
    assert list((tmp_path / "out").iterdir()) == []
