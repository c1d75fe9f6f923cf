"""From the bytes of images to faces with embeddings, away from the event loop.

Owns the order decode -> detect -> choose -> crop -> measure -> embed, and how many requests do it at a time: up to the
crops one thread for each request, as many as there are cores, and then `service.batching`. Knows nothing of HTTP or of
the store.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from facemargin.embedder import Embedder
from facemargin.errors import FaceCountError, ImageError
from facemargin.onnx_model import available_cores
from facemargin.preprocessing import TEMPLATES, Detector, Face, ImageLimits, decode, one_face
from facemargin.preprocessing.normalise import resized
from facemargin.preprocessing.quality import Quality, measure, measure_crop
from service.batching import Batcher, Batchers
from service.current import Stage
from service.errors import (
    CropShapeError,
    DetectorMissingError,
    RejectedImageError,
    TooManyFacesError,
    TooManyImagesError,
)
from service.load import Load
from service.models import Model

FacePolicy = Literal["single", "largest", "all"]

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
    qualities: list[Quality]


_FoundByName = dict[str, _Found]
_Answer = tuple[_FoundByName, list[NDArray[np.float32]]]


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
        threads: requests that may decode and detect at a time, others wait; 0 for one for each core.
        workers: batches of a model that are embedded at a time.
        max_batch: most crops in one; 0 has it measured.

    Attributes:
        batchers: the queues before the models.
        load: who may wait, once it is known how fast the models are; until then, everybody.
    """

    def __init__(
        self,
        detector: Detector | None,
        *,
        limits: ImageLimits,
        max_images: int,
        max_faces: int,
        threads: int,
        workers: int = 1,
        max_batch: int = 0,
    ) -> None:
        self.detector = detector
        self.batchers = Batchers(workers=workers, max_batch=max_batch)
        self.load: Load | None = None
        self._limits = limits
        self._max_images = max_images
        self._max_faces = max_faces
        self._threads = ThreadPoolExecutor(threads or available_cores(), thread_name_prefix="find")

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
            OverloadedError: they would wait too long.
            DetectorMissingError: a photograph, and no detector.
            RejectedImageError: names the image; its cause is the ImageError, FaceCountError, CropShapeError or
                TooManyFacesError.
        """
        check_image_count(len(images), self._max_images)
        with nullcontext() if self.load is None else self.load.place():
            found, rows = await self._found_and_embedded(images, model, aligned=aligned, face=face)
        remaining = iter(rows)
        return {name: _embedded(item, [next(remaining) for _ in item.crops]) for name, item in found.items()}

    async def _found_and_embedded(
        self, images: Mapping[str, bytes], model: Model, *, aligned: bool, face: FacePolicy
    ) -> _Answer:
        batcher = self.batchers.of(model.embedder)
        done: Future[_Answer] = Future()
        waiting = Stage("wait")
        find = partial(self._find_all, images, model.embedder, aligned=aligned, policy=face)
        self._threads.submit(copy_context().run, _embed, find, batcher, done, waiting)
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """Finish what was begun."""
        self._threads.shutdown()
        self.batchers.close()

    def _find_all(
        self, images: Mapping[str, bytes], embedder: Embedder, *, aligned: bool, policy: FacePolicy
    ) -> _FoundByName:
        return {name: self._find(name, data, embedder, aligned=aligned, policy=policy) for name, data in images.items()}

    def _find(self, name: str, data: bytes, embedder: Embedder, *, aligned: bool, policy: FacePolicy) -> _Found:
        try:
            with Stage("decode"):
                image = decode(data, self._limits)
            size = (image.shape[1], image.shape[0])
            if aligned:
                crop = _checked_crop(image, embedder.preprocessing.template)
                return _Found(size, [None], [crop], [measure_crop(crop)])
            faces = self._choose(image, policy)
            crops = [embedder.crop(image, face) for face in faces]
            return _Found(size, [*faces], crops, [*map(measure, faces, crops)])
        except (ImageError, FaceCountError, CropShapeError, TooManyFacesError) as error:
            raise RejectedImageError(f"{name}: {error}", image=name) from error

    def _choose(self, image: NDArray[np.uint8], policy: FacePolicy) -> list[Face]:
        if self.detector is None:
            raise DetectorMissingError(
                "this service runs without a face detector and takes only aligned crops (aligned=true) and embeddings; "
                "run `facemargin models pull yunet` or start it with --detector FILE"
            )
        with Stage("detect"):
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


def _embed(find: Callable[[], _FoundByName], batcher: Batcher, done: Future[_Answer], waiting: Stage) -> None:
    """Find the crops, and hand them to the batcher at once: the event loop hears of the request when it is done."""
    if not done.set_running_or_notify_cancel():  # whoever asked is gone
        return
    waiting.end()
    try:
        found = find()
        embedding = Stage("embed")
        rows = batcher.submit([crop for item in found.values() for crop in item.crops])
    except Exception as error:  # the error of the request, for whoever waits for it
        done.set_exception(error)
        return
    rows.add_done_callback(partial(_pass_on, found, done, embedding))


def _pass_on(
    found: _FoundByName, done: Future[_Answer], embedding: Stage, rows: Future[list[NDArray[np.float32]]]
) -> None:
    embedding.end()
    error = rows.exception()
    if error is None:
        done.set_result((found, rows.result()))
    else:
        done.set_exception(error)


def _embedded(found: _Found, rows: list[NDArray[np.float32]]) -> EmbeddedImage:
    faces = map(EmbeddedFace, found.faces, found.qualities, found.crops, rows)
    return EmbeddedImage(*found.size, list(faces))
