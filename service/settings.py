"""What can be set, where it comes from, and the range of each value."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from facemargin.errors import ConfigError
from facemargin.index import INDEXES
from facemargin.preprocessing import ImageLimits

ENV_PREFIX = "FACEMARGIN_"
MEBIBYTE = 1024 * 1024


class Settings(BaseSettings):
    """Settings of one service, from arguments first and ``FACEMARGIN_*`` environment variables second."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    bundle: Path = Field(description="Folder of the exported model.")
    more_bundles: list[Path] = Field(
        default=[], description="Folders of further models, as a JSON list, for collections bound to them."
    )
    store: Path = Field(description="Folder of the database; made if it is missing. Biometric data live here.")
    master_key: SecretStr | None = Field(
        default=None, description="Master key, 32 bytes as base64: encrypts templates, crops and snapshots at rest."
    )
    master_key_file: Path | None = Field(default=None, description="A file that holds the master key.")
    detector: Path | None = Field(
        default=None, description="YuNet's ONNX file; without it, the one that `facemargin models pull yunet` fetched."
    )
    index: str = Field(default="faiss", description="How galleries are searched: `faiss` or `exact`.")
    templates: Literal["best", "mean"] = Field(
        default="best",
        description="How a person with several templates is compared: by the best one, or by their mean.",
    )
    default_max_fmr: float = Field(
        default=1e-3, gt=0, lt=1, description="False match rate of verify when a request names none."
    )
    default_max_fpir: float = Field(
        default=0.01, gt=0, lt=1, description="False positive identification rate of search when a request names none."
    )
    extrapolate: bool = Field(
        default=True,
        description="Decide beyond the calibration data by their fitted tail, marked `extrapolated`; otherwise refuse.",
    )
    detector_score: float = Field(default=0.6, gt=0, lt=1, description="Lowest score of a face that is detected.")
    max_body_bytes: int = Field(default=32 * MEBIBYTE, ge=1024, description="Largest request body.")
    max_image_bytes: int = Field(default=10 * MEBIBYTE, ge=64, description="Largest image file.")
    max_image_side: int = Field(default=8192, ge=16, description="Longest side of an image, in pixels.")
    max_image_pixels: int = Field(default=40_000_000, ge=256, description="Most pixels of an image.")
    max_images: int = Field(default=16, ge=1, le=1000, description="Most images in one request.")
    max_faces: int = Field(default=50, ge=1, description="Most faces in one image.")
    inference_threads: int = Field(
        default=2, ge=1, le=256, description="Requests that decode, detect and embed at a time."
    )
    onnx_threads: int = Field(
        default=0, ge=0, le=256, description="Threads of ONNX Runtime per inference; 0: its choice."
    )
    idempotency_hours: float = Field(default=24.0, gt=0, description="How long replies to an Idempotency-Key are kept.")
    docs: bool = Field(
        default=False,
        description="Serve Swagger UI at /docs; its scripts come from a public network, so off by default.",
    )

    @field_validator("index")
    @classmethod
    def _known_index(cls, name: str) -> str:
        if name not in INDEXES:
            raise ValueError(f"index is {name!r}; it must be one of {', '.join(sorted(INDEXES))}")
        return name

    @model_validator(mode="after")
    def _one_master_key(self) -> Self:
        if self.master_key is not None and self.master_key_file is not None:
            raise ValueError("set master_key or master_key_file, not both")
        return self

    @property
    def image_limits(self) -> ImageLimits:
        """The limits as the decoder takes them."""
        return ImageLimits(
            max_bytes=self.max_image_bytes, max_side=self.max_image_side, max_pixels=self.max_image_pixels
        )


def read_settings(**arguments: Any) -> Settings:
    """Read the settings; arguments that are None count as not given.

    Raises:
        ConfigError: a value is missing or out of range; the message names each of them.
    """
    try:
        return Settings(**{name: value for name, value in arguments.items() if value is not None})
    except ValidationError as error:
        raise ConfigError("; ".join(_complaint(item["loc"], item["msg"]) for item in error.errors())) from error


def _complaint(place: tuple[int | str, ...], message: str) -> str:
    name = ".".join(map(str, place))
    return f"setting {name} (--{name.replace('_', '-')} or {ENV_PREFIX}{name.upper()}): {message}"
