"""From the bytes of images to faces with embeddings, away from the event loop.

Owns the order decode -> detect -> choose -> crop -> embed -> measure, and how many requests do it at a time. Knows
nothing of HTTP or of the store.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import anyio
import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from facemargin.embedder import Embedder
from facemargin.errors import FaceCountError, ImageError
from facemargin.preprocessing import TEMPLATES, Detector, Face, ImageLimits, decode, one_face
from facemargin.preprocessing.normalise import resized
from facemargin.preprocessing.quality import Quality, measure, measure_crop
from service.errors import (
    CropShapeError,
    DetectorMissingError,
    RejectedImageError,
    TooManyFacesError,
    TooManyImagesError,
)
from service.models import Model

FacePolicy = Literal["single", "largest", "all"]
T = TypeVar("T")

_ASPECT_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class EmbeddedFace:
    """A face with its embedding.

    Attributes:
        face: None for a crop that came already aligned.
        quality: as measured.
        crop: the aligned crop, uint8 RGB of the template's size.
        embedding: float32 (D,) of unit length.
    """

    face: Face | None
    quality: Quality
    crop: NDArray[np.uint8]
    embedding: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EmbeddedImage:
    """An image as displayed, in pixels, and its faces, the largest first."""

    width: int
    height: int
    faces: list[EmbeddedFace]


@dataclass(frozen=True, eq=False)
class _Found:
    size: tuple[int, int]
    faces: list[Face | None]
    crops: list[NDArray[np.uint8]]


def check_image_count(count: int, limit: int) -> None:
    """Pass if a request may have this many images.

    Raises:
        TooManyImagesError: more than the limit.
    """
    if count > limit:
        raise TooManyImagesError(
            f"the request has {count} images; at most {limit} are accepted", images=count, limit=limit
        )


class FaceEngine:
    """The detector, and the way to the models' embedders.

    Args:
        detector: None where there is none; then only aligned crops can be embedded.
        limits: of each image.
        max_images: in one request.
        max_faces: in one image.
        threads: requests that may work at a time; others wait.
    """

    def __init__(
        self,
        detector: Detector | None,
        *,
        limits: ImageLimits,
        max_images: int,
        max_faces: int,
        threads: int,
    ) -> None:
        self.detector = detector
        self._limits = limits
        self._max_images = max_images
        self._max_faces = max_faces
        self._limiter = anyio.CapacityLimiter(threads)

    async def embed(
        self, images: Mapping[str, bytes], *, model: Model, aligned: bool = False, face: FacePolicy = "single"
    ) -> dict[str, EmbeddedImage]:
        """Embed the faces of images.

        Args:
            images: files by the name that an error shall call them.
            model: by which.
            aligned: whether each is a crop by the model's template instead of a photograph.
            face: which faces: the only one (an error where there is none or are several), the largest, or all.

        Raises:
            TooManyImagesError: more images than the limit.
            DetectorMissingError: a photograph, and no detector.
            RejectedImageError: names the image; its cause is the ImageError, FaceCountError, CropShapeError or
                TooManyFacesError.
        """
        check_image_count(len(images), self._max_images)
        return await self._in_thread(partial(self._embed, images, model.embedder, aligned=aligned, policy=face))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run blocking work in a thread, when it is this request's turn."""
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)

    def _embed(
        self, images: Mapping[str, bytes], embedder: Embedder, *, aligned: bool, policy: FacePolicy
    ) -> dict[str, EmbeddedImage]:
        found = {
            name: self._find(name, data, embedder, aligned=aligned, policy=policy) for name, data in images.items()
        }
        embeddings = iter(_embeddings(embedder, [crop for item in found.values() for crop in item.crops]))
        return {name: _embedded(item, [next(embeddings) for _ in item.crops]) for name, item in found.items()}

    def _find(self, name: str, data: bytes, embedder: Embedder, *, aligned: bool, policy: FacePolicy) -> _Found:
        try:
            image = decode(data, self._limits)
            size = (image.shape[1], image.shape[0])
            if aligned:
                return _Found(size, [None], [_checked_crop(image, embedder.preprocessing.template)])
            faces = self._choose(image, policy)
            return _Found(size, [*faces], [embedder.crop(image, face) for face in faces])
        except (ImageError, FaceCountError, CropShapeError, TooManyFacesError) as error:
            raise RejectedImageError(f"{name}: {error}", image=name) from error

    def _choose(self, image: NDArray[np.uint8], policy: FacePolicy) -> list[Face]:
        if self.detector is None:
            raise DetectorMissingError(
                "this service runs without a face detector and takes only aligned crops (aligned=true) and embeddings; "
                "run `facemargin models pull yunet` or start it with --detector FILE"
            )
        faces = self.detector.detect(image)
        if policy != "all":
            return [one_face(faces, policy)]
        if len(faces) > self._max_faces:
            raise TooManyFacesError(
                f"{len(faces)} faces were detected; at most {self._max_faces} in one image are accepted",
                faces=len(faces),
                limit=self._max_faces,
            )
        return faces


def _checked_crop(image: NDArray[np.uint8], template: str) -> NDArray[np.uint8]:
    """The image at the template's size, if it has the shape of a crop up to scale.

    Of that size the crops of photographs are too, so sharpness is comparable; and no large picture is kept.
    """
    height, width = TEMPLATES[template].size
    if abs(image.shape[0] * width / (image.shape[1] * height) - 1) > _ASPECT_TOLERANCE:
        raise CropShapeError(
            f"aligned=true declares a crop by the template {template} ({width}x{height} pixels or a multiple); "
            f"the image has {image.shape[1]}x{image.shape[0]}",
            template=template,
        )
    return resized(image, (height, width))


def _embeddings(embedder: Embedder, crops: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """One embedding per crop; all crops have the template's size."""
    return list(embedder.embed(np.stack(crops))) if crops else []


def _embedded(found: _Found, embeddings: list[NDArray[np.float32]]) -> EmbeddedImage:
    faces = [
        EmbeddedFace(face, measure(face, crop) if face is not None else measure_crop(crop), crop, embedding)
        for face, crop, embedding in zip(found.faces, found.crops, embeddings, strict=True)
    ]
    return EmbeddedImage(*found.size, faces)
