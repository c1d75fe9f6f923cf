import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from facemargin.preprocessing import PRESETS, TEMPLATES, Preprocessing


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)


def test_the_default_against_a_loop(crops: np.ndarray) -> None:
    found = Preprocessing().normalise(crops)
    assert found.shape == (3, 3, 112, 112)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    for n, y, x, c in np.random.default_rng(1).integers(0, (3, 112, 112, 3), (200, 4)):
        assert found[n, c, y, x] == (np.float32(crops[n, y, x, c]) - np.float32(127.5)) / np.float32(127.5)
    assert found.min() == -1.0
    assert found.max() == 1.0


def test_colour_order_and_levels_per_channel(crops: np.ndarray) -> None:
    mean, std = (10.0, 20.0, 30.0), (1.0, 2.0, 4.0)
    rgb = Preprocessing(mean=mean, std=std).normalise(crops)
    bgr = Preprocessing(colour="bgr", mean=mean, std=std).normalise(crops)
    for channel in range(3):
        np.testing.assert_array_equal(rgb[:, channel], (crops[..., channel] - np.float32(mean[channel])) / std[channel])
        np.testing.assert_array_equal(
            bgr[:, channel], (crops[..., 2 - channel] - np.float32(mean[channel])) / std[channel]
        )


@pytest.mark.parametrize(("size", "how"), [((56, 56), cv2.INTER_AREA), ((160, 160), cv2.INTER_LINEAR)])
def test_other_sizes_are_resized(crops: np.ndarray, size: tuple[int, int], how: int) -> None:
    found = Preprocessing(size=size, mean=0.0, std=1.0).normalise(crops)
    expected = np.stack([cv2.resize(crop, size, interpolation=how) for crop in crops])
    np.testing.assert_array_equal(found, expected.transpose(0, 3, 1, 2))


def test_a_batch_is_its_crops_one_by_one(crops: np.ndarray) -> None:
    for preprocessing in (Preprocessing(), Preprocessing(size=(48, 48), colour="bgr", mean=0.0, std=255.0)):
        alone = np.concatenate([preprocessing.normalise(crop[None]) for crop in crops])
        np.testing.assert_array_equal(preprocessing.normalise(crops), alone)


def test_crops_are_left_alone_and_views_are_accepted(crops: np.ndarray) -> None:
    before = crops.copy()
    mirrored = Preprocessing().normalise(crops[:, :, ::-1])
    np.testing.assert_array_equal(crops, before)
    np.testing.assert_array_equal(mirrored, Preprocessing().normalise(crops)[..., ::-1])
    assert Preprocessing().normalise(crops[:0]).shape == (0, 3, 112, 112)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 3, 112, 112), np.uint8),
        np.zeros((112, 112, 3), np.uint8),
        np.zeros((1, 112, 112, 3), np.float32),
        np.zeros((1, 0, 5, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8 of shape \(N, h, w, 3\)"):
        Preprocessing().normalise(wrong)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"std": 0.0}, "std must be above 0"),
        ({"std": (1.0, 1.0, -1.0)}, "std must be above 0"),
        ({"mean": float("nan")}, "finite"),
        ({"mean": (1.0, 2.0)}, "mean"),
        ({"template": "nose"}, "template must be one of"),
        ({"size": (112, 96)}, "distort"),
        ({"size": (8, 8)}, "greater than or equal to 16"),
        ({"colour": "grey"}, "rgb"),
        ({"sharpen": True}, "Extra inputs"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Preprocessing(**fields)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_travel_through_json(name: str) -> None:
    preset = PRESETS[name]
    assert Preprocessing.model_validate_json(preset.model_dump_json()) == preset
    assert preset.size == TEMPLATES[preset.template].size


def test_presets_are_what_the_projects_document() -> None:
    assert PRESETS["insightface"] == Preprocessing()
    assert (PRESETS["sphereface"].colour, PRESETS["sphereface"].std) == ("bgr", 128.0)
    assert (PRESETS["opencv-sface"].mean, PRESETS["opencv-sface"].std) == (0.0, 1.0)
