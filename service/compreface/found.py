"""Faces in an image, as this API finds and shows them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.compreface.errors import NO_FACE, TOO_MANY_FACES, Refusal
from service.compreface.requests import CALCULATOR, LANDMARKS, Options
from service.context import Service
from service.current import answered_by
from service.decisions import Decisions
from service.faces import EmbeddedFace, EmbeddedImage
from service.models import Model

_DIGITS = 5


@dataclass(frozen=True, eq=False)
class Found:
    """The faces of an image.

    Attributes:
        image: its size.
        faces: those that the options ask for, the largest first; at least one.
        milliseconds: from the image to the embeddings.
    """

    image: EmbeddedImage
    faces: list[EmbeddedFace]
    milliseconds: float

    def shown(self, face: EmbeddedFace, options: Options) -> dict[str, Any]:
        """The members that each reply has of a face."""
        reply: dict[str, Any] = {"box": _box(face, self.image)}
        if LANDMARKS in options.plugins and face.face is not None:
            reply["landmarks"] = [[round(float(x)), round(float(y))] for x, y in face.face.landmarks]
        if CALCULATOR in options.plugins:
            reply["embedding"] = face.embedding.tolist()
        if options.status:
            reply["execution_time"] = {"calculator": round(self.milliseconds, 1)}
        return reply

    def only(self) -> EmbeddedFace:
        """The only face.

        Raises:
            Refusal: there are several.
        """
        if len(self.faces) > 1:
            raise Refusal(TOO_MANY_FACES, "More than one face in the source image")
        return self.faces[0]


async def find(service: Service, model: Model, images: Mapping[str, bytes], options: Options) -> dict[str, Found]:
    """The faces of images; `Options.limit` is not applied yet.

    Raises:
        Refusal: an image without a face.
        RejectedImageError, DetectorMissingError: an image cannot be used.
    """
    answered_by(model.id)
    started = time.perf_counter()
    embedded = await service.engine.embed(images, model=model, aligned=not options.detect, face="all")
    elapsed_ms = (time.perf_counter() - started) * 1000
    return {name: Found(image, _sure(image, options), elapsed_ms) for name, image in embedded.items()}


def _sure(image: EmbeddedImage, options: Options) -> list[EmbeddedFace]:
    faces = [face for face in image.faces if face.face is None or face.face.score >= options.least_score]
    if not faces:
        raise Refusal(NO_FACE, "No face is found in the given image")
    return faces


def largest(found: Found, options: Options) -> list[EmbeddedFace]:
    """As many faces as the options want."""
    return found.faces[: options.limit or None]


def versions(model: Model, options: Options) -> dict[str, Any]:
    """The member about versions, where it is asked for."""
    if not options.status:
        return {}
    return {"plugins_versions": {"detector": "facemargin.YuNet", "calculator": f"facemargin.{model.id}"}}


def similarity(decisions: Decisions, cosine: float) -> float:
    """A cosine on CompreFace's scale, 0 to 1 with 0.5 where "the same person" becomes more likely than not.

    CompreFace passes a distance through a logistic curve per model. Here that curve is the calibration's
    P(same | cosine); without a calibration it is (1 + cosine) / 2, which has no such middle.
    """
    probability = decisions.evidence(cosine).probability
    value = (1.0 + cosine) / 2.0 if probability is None else probability
    return round(min(1.0, max(0.0, value)), _DIGITS)


def _box(face: EmbeddedFace, image: EmbeddedImage) -> dict[str, float]:
    """Corners in pixels; an image that came aligned is its own box, and nothing doubts it."""
    if face.face is None:
        return {"probability": 1.0, "x_max": image.width, "y_max": image.height, "x_min": 0, "y_min": 0}
    x, y, width, height = face.face.box
    return {
        "probability": round(face.face.score, _DIGITS),
        "x_max": round(x + width),
        "y_max": round(y + height),
        "x_min": round(x),
        "y_min": round(y),
    }
