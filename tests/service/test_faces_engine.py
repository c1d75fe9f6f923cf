"""The engine's own rules, with a detector whose answers are known."""

from dataclasses import dataclass
from typing import Any

import anyio
import numpy as np
import pytest

from facemargin.embedder import Embedder
from facemargin.errors import NoFaceError, SeveralFacesError
from facemargin.preprocessing import TEMPLATES, Face, ImageLimits
from service.decisions import Decisions
from service.errors import RejectedImageError
from service.faces import FaceEngine
from service.models import Model


@dataclass
class KnownFaces:
    """A detector that finds the same faces in every image."""

    count: int

    def detect(self, image: Any) -> list[Face]:
        points = TEMPLATES["arcface-112"].points.astype(np.float32)
        sizes = [float(100 - 10 * number) for number in range(self.count)]
        return [
            Face(box=(0.0, 0.0, size, size), landmarks=points + 3 * number, score=0.9)
            for number, size in enumerate(sizes)
        ]


def engine(faces: int, threads: int = 2) -> FaceEngine:
    detector: Any = KnownFaces(faces)
    return FaceEngine(detector, limits=ImageLimits(), max_images=4, max_faces=3, threads=threads)


def model_of(bundle: Any) -> Model:
    return Model(bundle, Embedder(bundle), Decisions(None, extrapolate=True))


def run(under_test: FaceEngine, model: Model, image: bytes, face: Any) -> Any:
    async def work() -> Any:
        return await under_test.embed({"image": image}, model=model, face=face)

    return anyio.run(work)["image"]


@pytest.mark.parametrize(
    ("faces", "policy", "expected"), [(0, "all", 0), (3, "all", 3), (1, "single", 1), (3, "largest", 1)]
)
def test_policies(tiny_bundle: Any, crop: Any, faces: int, policy: str, expected: int) -> None:
    found = run(engine(faces), model_of(tiny_bundle), crop(1), policy)
    assert len(found.faces) == expected
    assert all(abs(np.linalg.norm(face.embedding) - 1) < 1e-5 for face in found.faces)
    if expected:
        assert found.faces[0].face.box[2] == 100


@pytest.mark.parametrize(
    ("faces", "policy", "cause"),
    [(0, "single", NoFaceError), (0, "largest", NoFaceError), (2, "single", SeveralFacesError)],
)
def test_refusals_name_the_image(tiny_bundle: Any, crop: Any, faces: int, policy: str, cause: type[Exception]) -> None:
    with pytest.raises(RejectedImageError, match=r"^image: ") as caught:
        run(engine(faces), model_of(tiny_bundle), crop(1), policy)
    assert isinstance(caught.value.__cause__, cause)


def test_no_more_requests_at_a_time_than_threads(tiny_bundle: Any, crop: Any) -> None:
    at_a_time, most = [0], [0]
    under_test, model = engine(1, threads=2), model_of(tiny_bundle)
    inner = model.embedder.embed

    def counted(crops: Any) -> Any:
        at_a_time[0] += 1
        most[0] = max(most[0], at_a_time[0])
        try:
            return inner(crops)
        finally:
            at_a_time[0] -= 1

    model.embedder.embed = counted  # type: ignore[method-assign]

    async def work() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(lambda: under_test.embed({"image": crop(1)}, model=model))

    anyio.run(work)
    assert 1 <= most[0] <= 2
