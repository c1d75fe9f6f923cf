"""The parts of replies that several routes share."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from facemargin.preprocessing.quality import Quality
from service.current import answered_by
from service.faces import EmbeddedFace
from service.store import CollectionRow, FaceRow, PersonRow

MODEL_ID = "Id of the model. Embeddings of two models cannot be compared."


class Part(BaseModel):
    """Base of replies; the last one made that names a model makes it the one of the header ``Facemargin-Model``."""

    model_config = ConfigDict(frozen=True)

    def model_post_init(self, _: Any) -> None:
        """Tell the request which model answers it."""
        if isinstance(model := self.__dict__.get("model"), str):
            answered_by(model)


class BoxReply(Part):
    """A rectangle in pixels of the image as displayed (after EXIF rotation)."""

    x: float
    y: float
    width: float
    height: float


class PoseReply(Part):
    """Where the head is turned, estimated from the landmarks, in radians."""

    yaw_rad: float = Field(description="Positive when the face looks to the right side of the image.")
    pitch_rad: float = Field(description="Positive when it looks up.")
    roll_rad: float = Field(description="Positive when the head is tilted clockwise.")


class QualityReply(Part):
    """Measured quality; what cannot be measured on an aligned crop is null."""

    score: float | None = Field(description="Confidence of the detector, 0 to 1.")
    eye_distance_px: float | None = Field(description="Distance between the eyes in pixels of the image.")
    sharpness: float = Field(description="Variance of the Laplacian of the grey crop; below about 50 it looks blurred.")
    pose: PoseReply | None

    @classmethod
    def of(cls, quality: Quality) -> Self:
        """The reply for measured values."""
        pose = PoseReply(**quality.pose._asdict()) if quality.pose is not None else None
        return cls(score=quality.score, eye_distance_px=quality.eye_distance_px, sharpness=quality.sharpness, pose=pose)


class FoundFace(Part):
    """A face in an image; box, landmarks and score are null for an image that came aligned."""

    box: BoxReply | None
    landmarks: list[tuple[float, float]] | None = Field(
        description="x, y in pixels of: the eye on the left of the image, the eye on its right, the nose tip, "
        "the mouth corner on the left, the one on the right."
    )
    score: float | None
    quality: QualityReply

    @classmethod
    def of(cls, embedded: EmbeddedFace, **more: Any) -> Self:
        """The reply for a face; further fields for subclasses."""
        face = embedded.face
        return cls(
            box=BoxReply(**dict(zip(("x", "y", "width", "height"), face.box, strict=True))) if face else None,
            landmarks=[(float(x), float(y)) for x, y in face.landmarks] if face else None,
            score=face.score if face else None,
            quality=QualityReply.of(embedded.quality),
            **more,
        )


class CollectionReply(Part):
    """A gallery."""

    name: str
    model: str = Field(description=MODEL_ID)
    embedding_dim: int
    keep_crops: bool = Field(description="Whether the aligned crop of an enrolled image is stored beside its template.")
    people: int
    faces: int
    created_at: datetime

    @classmethod
    def of(cls, row: CollectionRow, *, people: int, faces: int) -> Self:
        """The reply for a row."""
        return cls(
            name=row.name,
            model=row.model,
            embedding_dim=row.dim,
            keep_crops=row.keep_crops,
            people=people,
            faces=faces,
            created_at=row.created_at,
        )


class PersonReply(Part):
    """Somebody in a collection."""

    id: str
    name: str
    collection: str
    model: str = Field(description=MODEL_ID)
    faces: int
    expires_at: datetime | None = Field(description="When the person is erased by itself.")
    created_at: datetime

    @classmethod
    def of(cls, row: PersonRow, gallery: CollectionRow, *, faces: int) -> Self:
        """The reply for a row."""
        return cls(
            id=row.public_id,
            name=row.name,
            collection=gallery.name,
            model=gallery.model,
            faces=faces,
            expires_at=row.expires_at,
            created_at=row.created_at,
        )


class PersonRef(Part):
    """A person, by id and name."""

    id: str
    name: str


class TemplateReply(Part):
    """An enrolled face. No reply holds its vector."""

    id: str
    person: str
    collection: str
    model: str = Field(description=MODEL_ID)
    source: str = Field(description="`image`, `aligned` or `embedding`: what it was enrolled from.")
    quality: QualityReply | None = Field(description="Null for a face enrolled by its embedding.")
    created_at: datetime

    @classmethod
    def of(cls, row: FaceRow, person: PersonRow, gallery: CollectionRow, **more: Any) -> Self:
        """The reply for a row; further fields for subclasses."""
        return cls(
            id=row.public_id,
            person=person.public_id,
            collection=gallery.name,
            model=gallery.model,
            source=row.source,
            quality=QualityReply.model_validate(row.quality) if row.quality is not None else None,
            created_at=row.created_at,
            **more,
        )
