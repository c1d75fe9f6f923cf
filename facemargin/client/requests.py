"""What a caller hands over beside pictures and numbers."""

from pydantic import BaseModel, ConfigDict, Field


class MinQuality(BaseModel):
    """The least quality of a face to enrol; what is None is not demanded.

    Attributes:
        score: least confidence of the detector, 0 to 1.
        eye_distance_px: least distance between the eyes, in pixels.
        sharpness: least variance of the Laplacian of the crop.
        max_yaw_rad: furthest turn to either side.
        max_pitch_rad: furthest turn up or down.
        max_roll_rad: furthest tilt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    score: float | None = Field(default=None, ge=0, le=1)
    eye_distance_px: float | None = Field(default=None, ge=0)
    sharpness: float | None = Field(default=None, ge=0)
    max_yaw_rad: float | None = Field(default=None, ge=0)
    max_pitch_rad: float | None = Field(default=None, ge=0)
    max_roll_rad: float | None = Field(default=None, ge=0)
