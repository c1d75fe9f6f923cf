"""Augmentation: deterministic by its generator, off when everything is 0, and never of another shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.augmentation import augment
from training.config import AugmentationConfig

NOTHING = dict.fromkeys(AugmentationConfig.model_fields, 0.0)
CROP = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 120), width=st.integers(1, 120), seed=st.integers(0, 2**32 - 1))
def test_everything_off_changes_nothing(height: int, width: int, seed: int) -> None:
    crop = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert np.array_equal(augment(crop, AugmentationConfig(**NOTHING), np.random.default_rng(seed)), crop)


def recoloured(crop: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Brightness, then contrast around the picture's mean, then saturation around each pixel's luma; in float64."""
    values = crop.astype(np.float64) * brightness
    values = values.mean() + contrast * (values - values.mean())
    luma = (values @ np.array([0.299, 0.587, 0.114]))[..., None]
    return np.clip(luma + saturation * (values - luma), 0, 255)


@settings(max_examples=40, deadline=None)
@given(
    side=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    magnitudes=st.tuples(*[st.sampled_from([0.0, 0.15, 0.6])] * 3),
    grey=st.sampled_from([0.0, 1.0]),
)
def test_recolouring_is_the_formula_within_one_level(
    side: int, seed: int, magnitudes: tuple[float, float, float], grey: float
) -> None:
    crop = np.random.default_rng(seed).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)
    names = ("brightness", "contrast", "saturation")
    config = AugmentationConfig(**{**NOTHING, **dict(zip(names, magnitudes, strict=True)), "grey": grey})
    # The stream of the sample's generator: the flip's number, four of the move, then three factors.
    random = np.random.default_rng(seed)
    random.random(), random.standard_normal(4)
    factors = 1 + random.standard_normal(3) * magnitudes
    expected = recoloured(crop, factors[0], factors[1], 0.0 if grey else factors[2])
    changed = augment(crop, config, np.random.default_rng(seed))
    assert np.abs(changed - expected).max() <= 1


def test_the_same_generator_state_gives_the_same_crop() -> None:
    config = AugmentationConfig(erase=1.0)
    first, second, other = (augment(CROP, config, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_the_callers_crop_is_unchanged() -> None:
    before = CROP.copy()
    for seed in range(5):
        augment(CROP, AugmentationConfig(erase=1.0, grey=1.0, low_resolution=1.0), np.random.default_rng(seed))
    assert np.array_equal(CROP, before)


def test_flip_is_a_mirror_image() -> None:
    config = AugmentationConfig(**{**NOTHING, "flip": 1.0})
    assert np.array_equal(augment(CROP, config, np.random.default_rng(0)), CROP[:, ::-1])


@pytest.mark.parametrize("colour", [{}, {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5}])
def test_grey_has_equal_channels(colour: dict[str, float]) -> None:
    for seed in range(10):
        grey = augment(CROP, AugmentationConfig(**{**NOTHING, **colour, "grey": 1.0}), np.random.default_rng(seed))
        assert np.array_equal(grey[..., 0], grey[..., 1])
        assert np.array_equal(grey[..., 0], grey[..., 2])
        assert colour or grey.std() > 5


def test_low_resolution_removes_detail() -> None:
    blurred = augment(CROP, AugmentationConfig(**{**NOTHING, "low_resolution": 1.0}), np.random.default_rng(0))
    detail = [np.abs(np.diff(image.astype(float), axis=1)).mean() for image in (CROP, blurred)]
    assert detail[1] < detail[0] / 2


def test_erase_covers_two_to_twenty_percent() -> None:
    config = AugmentationConfig(**{**NOTHING, "erase": 1.0})
    white = np.full((112, 112, 3), 255, dtype=np.uint8)
    for seed in range(20):
        erased = (augment(white, config, np.random.default_rng(seed)) == 127).mean()
        assert 0.015 < erased < 0.21


def test_the_mean_of_moves_is_centred() -> None:
    dot = np.zeros((101, 101, 3), dtype=np.uint8)
    dot[46:55, 46:55] = 255
    config = AugmentationConfig(**{**NOTHING, "shift": 0.05, "rotation_rad": 0.3, "log_scale": 0.1})
    centres = []
    for seed in range(200):
        moved = augment(dot, config, np.random.default_rng(seed))[..., 0].astype(float)
        rows, columns = np.indices(moved.shape)
        centres.append(((rows * moved).sum() / moved.sum(), (columns * moved).sum() / moved.sum()))
    assert np.mean(centres, axis=0) == pytest.approx([50, 50], abs=4 * 0.05 * 101 / np.sqrt(200))


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(16, 120), width=st.integers(16, 120), seed=st.integers(0, 2**32 - 1), strength=st.floats(0, 1)
)
def test_shape_and_type_hold(height: int, width: int, seed: int, strength: float) -> None:
    crop = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    config = AugmentationConfig(**dict.fromkeys(AugmentationConfig.model_fields, strength))
    changed = augment(crop, config, np.random.default_rng(seed))
    assert changed.shape == crop.shape
    assert changed.dtype == np.uint8
