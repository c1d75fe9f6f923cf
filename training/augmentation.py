"""Random changes of aligned crops between alignment and normalisation. Owns no crop size and no colour constants."""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.config import AugmentationConfig

Crop = NDArray[np.uint8]
_LUMA = np.array([0.299, 0.587, 0.114])


def augment(crop: Crop, config: AugmentationConfig, random: np.random.Generator) -> Crop:
    """Return a randomly changed copy of a crop.

    Args:
        crop: uint8 (H, W, 3), RGB.
        config: magnitudes and probabilities.
        random: the sample's own generator; the same state gives the same crop.

    Returns:
        uint8 (H, W, 3).
    """
    if random.random() < config.flip:
        crop = np.asarray(cv2.flip(crop, 1), dtype=np.uint8)
    crop = _move(crop, config, random)
    crop = _recolour(crop, config, random)
    if random.random() < config.low_resolution:
        crop = _lower_resolution(crop, random.uniform(1.5, 4.0))
    if random.random() < config.erase:
        crop = _erase(crop, random)
    return crop


def _move(crop: Crop, config: AugmentationConfig, random: np.random.Generator) -> Crop:
    height, width = crop.shape[:2]
    angle, log_scale, shift_x, shift_y = random.standard_normal(4)
    if not (config.rotation_rad or config.log_scale or config.shift):
        return crop
    angle_rad, scale = angle * config.rotation_rad, np.exp(log_scale * config.log_scale)
    cosine, sine = scale * np.cos(angle_rad), scale * np.sin(angle_rad)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    matrix = np.array(
        [
            [cosine, -sine, centre_x - cosine * centre_x + sine * centre_y + shift_x * config.shift * width],
            [sine, cosine, centre_y - sine * centre_x - cosine * centre_y + shift_y * config.shift * height],
        ]
    )
    moved = cv2.warpAffine(crop, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, dtype=np.uint8)


def _recolour(crop: Crop, config: AugmentationConfig, random: np.random.Generator) -> Crop:
    brightness, contrast, saturation = 1 + random.standard_normal(3) * (
        config.brightness,
        config.contrast,
        config.saturation,
    )
    grey = random.random() < config.grey
    if not (grey or config.brightness or config.contrast or config.saturation):
        return crop
    # All of it is affine in the colour, so one pass over the picture does it: v ↦ M v + b.
    towards_grey = np.outer(np.ones(3), _LUMA)
    blend = towards_grey + (np.eye(3) - towards_grey) * (0.0 if grey else saturation)
    mean = brightness * sum(cv2.sumElems(crop)) / crop.size  # exact, and faster than numpy's
    matrix = np.column_stack([brightness * contrast * blend, np.full(3, mean * (1 - contrast))])
    return np.asarray(cv2.transform(crop, matrix), dtype=np.uint8)


def _lower_resolution(crop: Crop, factor: float) -> Crop:
    height, width = crop.shape[:2]
    small = cv2.resize(
        crop, (max(1, round(width / factor)), max(1, round(height / factor))), interpolation=cv2.INTER_AREA
    )
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _erase(crop: Crop, random: np.random.Generator) -> Crop:
    height, width = crop.shape[:2]
    share, log_ratio = random.uniform(0.02, 0.2), random.uniform(-0.7, 0.7)
    tall = min(height, max(1, round(height * np.sqrt(share * np.exp(log_ratio)))))
    wide = min(width, max(1, round(width * np.sqrt(share * np.exp(-log_ratio)))))
    top, left = random.integers(height - tall + 1), random.integers(width - wide + 1)
    erased = crop.copy()
    erased[top : top + tall, left : left + wide] = 127
    return erased
