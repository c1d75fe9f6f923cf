"""What the service answers, typed and frozen. Members that a later service adds are left out, not an error."""

from base64 import b64decode
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Part(BaseModel):
    """Base of replies and their parts."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Box(Part):
    """A rectangle in pixels of the image as displayed."""

    x: float
    y: float
    width: float
    height: float


class Pose(Part):
    """Where the head is turned, in radians."""

    yaw_rad: float
    pitch_rad: float
    roll_rad: float


class Quality(Part):
    """Measured quality; what cannot be measured on an aligned crop is None."""

    score: float | None
    eye_distance_px: float | None
    sharpness: float
    pose: Pose | None


class FoundFace(Part):
    """A face in an image; box, landmarks and score are None for an image that came aligned."""

    box: Box | None
    landmarks: list[tuple[float, float]] | None
    score: float | None
    quality: Quality


class EmbeddedFace(FoundFace):
    """A face and its embedding, of unit length."""

    embedding: list[float]

    @property
    def vector(self) -> "NDArray[np.float32]":
        """The embedding as a numpy array (D,) of float32; needs numpy."""
        import numpy as np

        return np.asarray(self.embedding, dtype=np.float32)


class EmbeddedImage(Part):
    """An image as displayed, in pixels, and its faces, the largest first."""

    width: int
    height: int
    faces: list[EmbeddedFace]


class Embeddings(Part):
    """The faces of each image, in the order of the images."""

    model: str
    images: list[EmbeddedImage]


class PersonRef(Part):
    """A person, by id and name."""

    id: str
    name: str


class Verification(Part):
    """The similarity of two faces, what it means, and the decision."""

    model: str
    match: bool
    similarity: float
    probability: float | None
    fmr: float | None
    threshold: float
    threshold_fmr: float | None
    extrapolated: bool
    face_a: FoundFace
    face_b: FoundFace | None
    person: PersonRef | None


class Collection(Part):
    """A gallery, bound to one model."""

    name: str
    model: str
    embedding_dim: int
    keep_crops: bool
    people: int
    faces: int
    created_at: datetime


class Collections(Part):
    """All collections by name."""

    model: str
    collections: list[Collection]


class Person(Part):
    """Somebody in a collection."""

    id: str
    name: str
    collection: str
    model: str
    faces: int
    expires_at: datetime | None
    created_at: datetime


class PeoplePage(Part):
    """A page of people; `next` is the cursor of the one after it."""

    collection: str
    model: str
    people: list[Person]
    next: str | None


class Face(Part):
    """An enrolled face."""

    id: str
    person: str
    collection: str
    model: str
    source: str
    quality: Quality | None
    created_at: datetime


class Resemblance(Part):
    """The enrolled face also matches somebody else of the collection."""

    kind: str
    person: PersonRef
    similarity: float
    fmr: float | None
    detail: str


class EnrolledFace(Face):
    """An enrolled face, and warnings about others that it matches."""

    resemblance_checked: bool
    warnings: list[Resemblance]


class Faces(Part):
    """The enrolled faces of a person, in the order they came."""

    collection: str
    person: str
    model: str
    faces: list[Face]


class ExportedTemplate(Part):
    """A vector of a face: float32 little-endian, as base64."""

    model: str
    dim: int
    float32: str

    @property
    def vector(self) -> "NDArray[np.float32]":
        """The values as a numpy array (D,); needs numpy."""
        import numpy as np

        return np.frombuffer(b64decode(self.float32), dtype="<f4").astype(np.float32)


class ExportedFace(Face):
    """An enrolled face with its vectors and, where one is kept, its crop: a PNG as base64."""

    templates: list[ExportedTemplate]
    crop: str | None
    crop_template: str | None


class Export(Part):
    """All that the service holds about a person."""

    exported_at: datetime
    person: Person
    faces: list[ExportedFace]
    stored_replies: int
    audit: list[dict[str, Any]]


class Candidate(Part):
    """A person whom a face matches."""

    person: PersonRef
    similarity: float
    probability: float | None
    fmr: float | None
    fpir: float | None


class SearchResult(Part):
    """The candidates, the most similar first; empty when nobody passes."""

    collection: str
    model: str
    candidates: list[Candidate]
    templates: int
    threshold: float | None
    threshold_fmr: float | None
    threshold_fpir: float | None
    extrapolated: bool
    face: FoundFace | None


class Threshold(Part):
    """A row of a calibration's impostor table."""

    fmr: float
    threshold: float
    impostor_pairs: int
    people: int
    errors: int
    supported: bool


class Calibration(Part):
    """Whose data stand behind the error rates."""

    source: str
    prior: float
    genuine_pairs: int
    impostor_pairs: int
    people: int
    smallest_supported_fmr: float
    thresholds: list[Threshold]


class Model(Part):
    """A model and what its bundle says of it."""

    id: str
    name: str
    embedding_dim: int
    template: str
    size: tuple[int, int]
    flip_sum: bool
    licence: str
    card: str
    metrics: list[dict[str, Any]]
    calibration: Calibration | None


class Models(Part):
    """The loaded models."""

    model: str
    models: list[Model]


class ModelFigures(Part):
    """A model at its own threshold, on pairs of enrolled faces."""

    model: str
    threshold: float | None
    genuine_match_rate: float | None
    impostor_match_rate: float | None


class ModelComparison(Part):
    """Two models on the same enrolled faces; they are no test set."""

    faces: int
    genuine_pairs: int
    impostor_pairs: int
    present: ModelFigures
    other: ModelFigures


class Upgrade(Part):
    """Where a collection stands between two models."""

    collection: str
    model: str
    state: Literal["none", "moving", "switched"]
    other_model: str | None
    faces: int
    embedded: int
    waiting: int
    unreachable: int
    comparison: ModelComparison | None


class Live(Part):
    """The process answers."""

    status: Literal["live"]


class Check(Part):
    """One thing that the service looked at to see whether it can do its work."""

    name: str
    ok: bool
    detail: str | None


class Ready(Part):
    """The service can do its work."""

    status: Literal["ready"]
    model: str
    detector: bool
    calibrated: bool
    checks: list[Check]
