"""What can be set, where it comes from, and the range of each value."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from facemargin.errors import ConfigError
from facemargin.index.engines import scheme_of
from facemargin.preprocessing import ImageLimits
from service.logs import LogFormat, LogLevel
from service.security import COLLECTION_NAME
from service.store.location import LocationSetting

ENV_PREFIX = "FACEMARGIN_"
MEBIBYTE = 1024 * 1024


class Settings(BaseSettings):
    """Settings of one service, from arguments first and ``FACEMARGIN_*`` environment variables second."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    bundle: Path = Field(description="Folder of the exported model.")
    more_bundles: list[Path] = Field(
        default=[], description="Folders of further models, as a JSON list, for collections bound to them."
    )
    store: LocationSetting = Field(
        description="Folder of the database, made if it is missing, or `postgresql://user@host/database`. "
        "Biometric data live here."
    )
    master_key: SecretStr | None = Field(
        default=None, description="Master key, 32 bytes as base64: encrypts templates, crops and snapshots at rest."
    )
    master_key_file: Path | None = Field(default=None, description="A file that holds the master key.")
    detector: Path | None = Field(
        default=None, description="YuNet's ONNX file; without it, the one that `facemargin models pull yunet` fetched."
    )
    index: str = Field(
        default="faiss:",
        description="The search engine: `faiss:` (in memory; `faiss:flat` and `faiss:exact` without compression), "
        "`pgvector:` (in the PostgreSQL store), `milvus://host:19530` or `milvus:FILE.db`.",
    )
    allow_plaintext_index: bool = Field(
        default=False, description="Let an engine hold templates in the clear although the store is encrypted."
    )
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
    upload_seconds: float = Field(default=120.0, gt=0, description="Longest time that a request body may take to come.")
    upload_bytes_per_second: int = Field(
        default=4096, ge=0, description="Least speed of a request body after its first seconds; 0: any."
    )
    head_seconds: float = Field(
        default=10.0, gt=0, description="Longest time that the head of a request may take to come."
    )
    max_connections: int = Field(default=512, ge=1, description="Most connections at a time.")
    requests_per_minute: int = Field(
        default=6000, ge=0, description="Requests a minute of a key without a limit of its own; 0: no limit."
    )
    refusals_per_minute: int = Field(
        default=60,
        ge=0,
        description="Requests a minute without a valid key that an address gets a 401 for, then 429; 0: no limit.",
    )
    allowed_hosts: list[str] = Field(
        default=[], description="Host names that are answered to, as a JSON list; this machine's own always are."
    )
    hsts: bool = Field(
        default=False, description="Tell browsers to use https only (Strict-Transport-Security); behind TLS alone."
    )
    max_image_bytes: int = Field(default=10 * MEBIBYTE, ge=64, description="Largest image file.")
    max_image_side: int = Field(default=8192, ge=16, description="Longest side of an image, in pixels.")
    max_image_pixels: int = Field(default=40_000_000, ge=256, description="Most pixels of an image.")
    max_images: int = Field(default=16, ge=1, le=1000, description="Most images in one request.")
    max_faces: int = Field(default=50, ge=1, description="Most faces in one image.")
    inference_threads: int = Field(
        default=0, ge=0, le=256, description="Requests that decode and detect at a time; 0: one for each core."
    )
    onnx_threads: int = Field(
        default=1,
        ge=0,
        le=256,
        description="Threads of ONNX Runtime for a batch; as many batches run at a time as there are cores for; 0: all "
        "cores for one batch.",
    )
    onnx_provider: Literal["cpu", "cuda"] = Field(
        default="cpu", description="Where models run; `cuda` needs the package onnxruntime-gpu."
    )
    max_batch: int = Field(default=0, ge=0, le=256, description="Most crops in a batch; 0: measured at start.")
    max_wait_ms: int = Field(
        default=2000,
        ge=1,
        description="Longest wait of a request with images; one that would wait longer is refused with 429.",
    )
    idempotency_hours: float = Field(default=24.0, gt=0, description="How long replies to an Idempotency-Key are kept.")
    erasure_ledger: Path | None = Field(
        default=None,
        description="A file, on another disk than the store, that every erasure is recorded in too, for `restore`.",
    )
    housekeeping_seconds: float = Field(
        default=5.0,
        gt=0,
        le=30,
        description="Time between two rounds of housekeeping: who has expired is erased, what failed is tried again.",
    )
    snapshot_faces: int = Field(
        default=20_000, ge=1, description="Least templates of a collection whose index has a snapshot on the disk."
    )
    snapshot_seconds: float = Field(default=60.0, gt=0, description="Least time between two snapshots.")
    compreface_collection: str = Field(
        default="compreface",
        pattern=COLLECTION_NAME,
        description="Collection of the CompreFace-compatible API for keys that are not limited to exactly one.",
    )
    min_free_bytes: int = Field(
        default=16 * MEBIBYTE, ge=0, description="Least room on the disk of the store for the service to be ready."
    )
    log_format: LogFormat = Field(
        default="auto", description="Form of the log: `json`, `text`, or `auto`: text at a terminal, JSON otherwise."
    )
    log_level: LogLevel = Field(default="info", description="Least level of the log.")
    docs: bool = Field(
        default=False,
        description="Serve Swagger UI at /docs; its scripts come from a public network, so off by default.",
    )

    @field_validator("index")
    @classmethod
    def _known_index(cls, url: str) -> str:
        try:
            scheme_of(url)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return url

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
