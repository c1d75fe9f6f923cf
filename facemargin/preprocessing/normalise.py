"""Aligned crops -> the float array that the network sees; training and serving both call `Preprocessing.normalise`."""

from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from facemargin.preprocessing.align import TEMPLATES, template_named

_Side = Annotated[int, Field(ge=16, le=1024)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Levels = _Finite | tuple[_Finite, _Finite, _Finite]
_ASPECT_TOLERANCE = 0.01


class Preprocessing(BaseModel):
    """How a crop becomes network input: x = (resize(crop) − mean) / std, channels first.

    Attributes:
        size: height and width of the network's input in pixels.
        template: the alignment template, a name in `TEMPLATES`; `size` must keep its ratio of the sides.
        colour: the order of the channels that the network expects.
        mean: subtracted from the values 0…255; one number, or one per channel in the order of `colour`.
        std: divides the difference; one number, or one per channel; above 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[_Side, _Side] = (112, 112)
    template: str = "arcface-112"
    colour: Literal["rgb", "bgr"] = "rgb"
    mean: _Levels = 127.5
    std: _Levels = 127.5

    @field_validator("template")
    @classmethod
    def _known_template(cls, name: str) -> str:
        return template_named(name).name

    @field_validator("std")
    @classmethod
    def _positive(cls, std: _Levels) -> _Levels:
        if np.min(std) <= 0:
            raise ValueError(f"std must be above 0, got {std}")
        return std

    @model_validator(mode="after")
    def _undistorted(self) -> "Preprocessing":
        height, width = TEMPLATES[self.template].size
        if abs(self.size[0] * width / (self.size[1] * height) - 1) > _ASPECT_TOLERANCE:
            raise ValueError(
                f"size {self.size[0]}x{self.size[1]} would distort the {height}x{width} crops of template "
                f"{self.template}; keep the ratio of the sides or choose another template"
            )
        return self

    def normalise(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn aligned crops into network input.

        Crops of another size are resized: by pixel averaging when shrinking, bilinearly when growing.

        Args:
            crops: uint8 (N, h, w, 3), RGB.

        Returns:
            float32 (N, 3, H, W), contiguous, H and W from `size`, channels in the order of `colour`.

        Raises:
            ValueError: another type or shape.
        """
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != 3 or 0 in crops.shape[1:]:
            raise ValueError(f"crops must be uint8 of shape (N, h, w, 3), got {crops.dtype} of shape {crops.shape}")
        if crops.shape[1:3] != self.size:
            crops = self._resized(crops)
        if self.colour == "bgr":
            crops = crops[..., ::-1]
        values = np.ascontiguousarray(crops.transpose(0, 3, 1, 2), dtype=np.float32)
        values -= np.asarray(self.mean, dtype=np.float32).reshape(-1, 1, 1)
        values /= np.asarray(self.std, dtype=np.float32).reshape(-1, 1, 1)
        return values

    def _resized(self, crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
        found = np.empty((len(crops), *self.size, 3), dtype=np.uint8)
        for number, crop in enumerate(crops):
            found[number] = resized(crop, self.size)
        return found


def resized(crop: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A crop, uint8 (h, w, 3), at another height and width: averaged when shrinking, bilinear when growing."""
    height, width = size
    if crop.shape[:2] == size:
        return crop
    shrinks = height * width < crop.shape[0] * crop.shape[1]
    found: NDArray[np.uint8] = cv2.resize(
        crop, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return found


PRESETS: dict[str, Preprocessing] = {
    "insightface": Preprocessing(),
    "sphereface": Preprocessing(size=(112, 96), template="sphereface-112x96", colour="bgr", mean=127.5, std=128.0),
    "opencv-sface": Preprocessing(mean=0.0, std=1.0),
}
"""What well-known families of models expect; `facemargin import --preset NAME`."""
