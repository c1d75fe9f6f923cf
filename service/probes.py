"""The face that a request is about: found in an image, or given as an embedding with the name of its model."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Literal, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from facemargin.errors import ModelMismatchError
from service.bodies import Body, ImageBytes
from service.context import Service
from service.errors import InvalidEmbeddingError
from service.faces import EmbeddedFace
from service.models import Model
from service.store import CollectionRow

_LONGEST_EMBEDDING = 16384
_SMALLEST_NORM = 1e-6
_TRIES: Final = 4

Answer = TypeVar("Answer")

Aligned = Annotated[
    bool, Field(description="The image is a crop by the model's template already; nothing is detected. Never guessed.")
]
OneFace = Annotated[
    Literal["single", "largest"],
    Field(description="`single`: several faces in an image are an error. `largest`: the largest one is taken."),
]


class Probe(NamedTuple):
    """A unit vector, and the face it comes from unless it was given."""

    vector: NDArray[np.float32]
    face: EmbeddedFace | None


class ProbeBody(Body):
    """An image, or an embedding and its model."""

    image: ImageBytes | None = Field(default=None, description="JPEG, PNG, WebP or BMP.")
    aligned: Aligned = False
    face: OneFace = "single"
    embedding: list[float] | None = Field(
        default=None,
        min_length=1,
        max_length=_LONGEST_EMBEDDING,
        description="Instead of an image (JSON only); scaled to unit length.",
    )
    model: str | None = Field(default=None, description="Id of the model that the embedding comes from.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.image is None) == (self.embedding is None):
            raise ValueError("send exactly one of 'image' and 'embedding'")
        if self.embedding is not None and self.model is None:
            raise ValueError("'embedding' needs 'model': the id of the model that it comes from")
        if self.embedding is not None and (self.aligned or "face" in self.model_fields_set):
            raise ValueError("'aligned' and 'face' are about an image; an embedding has neither")
        return self


async def by_its_model(attempt: Callable[[], Awaitable[Answer]]) -> Answer:
    """Do what first asks which model a collection has, then embeds a face by it, and then uses both.

    A collection that moves to another model in between is asked again, so that no client hears of the switch.

    Raises:
        ModelMismatchError: the request is about another model than the collection's, or the collection keeps moving.
    """
    for _ in range(_TRIES - 1):
        try:
            return await attempt()
        except ModelMismatchError:
            continue
    return await attempt()


async def probe_of(service: Service, body: ProbeBody, gallery: CollectionRow) -> Probe:
    """The vector to compare with a collection.

    Raises:
        ModelMismatchError: it would come from another model than the collection's.
        InvalidEmbeddingError: the embedding cannot be used.
        RejectedImageError, DetectorMissingError: the image cannot be used.
    """
    if body.embedding is None:
        return await probe_by(service, model_of(service, gallery, body.model), body)
    if body.model != gallery.model:
        raise ModelMismatchError(
            f"the embedding comes from model {body.model}; "
            f"collection '{gallery.name}' is bound to model {gallery.model}"
        )
    return Probe(unit_embedding(body.embedding, gallery.dim), None)


async def probe_by(service: Service, model: Model, body: ProbeBody) -> Probe:
    """The vector of a face by a loaded model.

    Raises:
        InvalidEmbeddingError: the embedding cannot be used.
        RejectedImageError, DetectorMissingError: the image cannot be used.
    """
    if body.embedding is not None:
        return Probe(unit_embedding(body.embedding, model.dim), None)
    images = await service.engine.embed({"image": body.image or b""}, model=model, aligned=body.aligned, face=body.face)
    face = images["image"].faces[0]
    return Probe(face.embedding, face)


def model_of(service: Service, gallery: CollectionRow, named: str | None = None) -> Model:
    """The model by which images are compared with a collection.

    Raises:
        ModelMismatchError: the collection's model is not loaded, or the request names another.
    """
    if named is not None and named != gallery.model:
        raise ModelMismatchError(
            f"the request names model {named}; collection '{gallery.name}' is bound to model {gallery.model}"
        )
    return service.models.of(gallery)


def unit_embedding(values: list[float], dim: int) -> NDArray[np.float32]:
    """The values as float32 (D,) of unit length.

    Raises:
        InvalidEmbeddingError: another length than ``dim``, a value that is not finite, or no direction.
    """
    if len(values) != dim:
        raise InvalidEmbeddingError(
            f"the embedding has {len(values)} values; the model's have {dim}", values=len(values), expected=dim
        )
    vector = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm):
        raise InvalidEmbeddingError("the embedding has values that are not finite or too large")
    if norm < _SMALLEST_NORM:
        raise InvalidEmbeddingError("the embedding is zero, or so small that it has no direction")
    return np.asarray(vector / norm, dtype=np.float32)
