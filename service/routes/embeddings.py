"""Images to faces with embeddings; nothing is kept."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from service.bodies import Body, Images, body_of
from service.deps import Embedder, ServiceDep
from service.faces import EmbeddedImage
from service.lean_route import LeanRoute
from service.openapi import EXAMPLE_FACE, EXAMPLE_IMAGE, EXAMPLE_MODEL, IMAGE, KEYED, ONE_FACE, documented
from service.probes import Aligned
from service.schemas import MODEL_ID, FoundFace, Part

router = APIRouter(prefix="/v1/embeddings", tags=["embeddings"], route_class=LeanRoute)


class EmbeddingsBody(Body):
    """Images to embed."""

    images: Images = Field(description="JPEG, PNG, WebP or BMP; in a form, repeat the part.")
    model: str | None = Field(
        default=None, max_length=64, description="Id of the model to embed by; the default one unless named."
    )
    aligned: Aligned = False
    face: Literal["all", "single", "largest"] = Field(
        default="all",
        description="`all` faces of each image (none: an empty list), `single`: exactly one is expected, or `largest`.",
    )


class FaceWithEmbedding(FoundFace):
    """A face and its embedding."""

    embedding: list[float] = Field(description="Of unit length.")


class ImageReply(Part):
    """An image as displayed, in pixels, and its faces, the largest first."""

    width: int
    height: int
    faces: list[FaceWithEmbedding]


class EmbeddingsReply(Part):
    """The faces of each image, in the order of the images."""

    model: str = Field(description=MODEL_ID)
    images: list[ImageReply]


_EXAMPLE = {
    "model": EXAMPLE_MODEL,
    "images": [{"width": 640, "height": 480, "faces": [EXAMPLE_FACE | {"embedding": [0.021, -0.053, 0.008]}]}],
}


@router.post(
    "",
    summary="Embed the faces of images",
    **documented(
        *KEYED,
        *IMAGE,
        *ONE_FACE,
        "too-many-images",
        "too-many-faces",
        "model-mismatch",
        body=EmbeddingsBody,
        body_example={"images": [EXAMPLE_IMAGE], "face": "all"},
        example=_EXAMPLE,
    ),
)
async def embed(
    caller: Embedder, service: ServiceDep, body: Annotated[EmbeddingsBody, Depends(body_of(EmbeddingsBody))]
) -> EmbeddingsReply:
    """Detect, align and embed every face of each image. If one image cannot be used, the problem names it."""
    named = {f"images[{number}]": data for number, data in enumerate(body.images)}
    model = service.models.named(body.model)
    images = await service.engine.embed(named, model=model, aligned=body.aligned, face=body.face)
    return EmbeddingsReply(model=model.id, images=[_image(image) for image in images.values()])


def _image(image: EmbeddedImage) -> ImageReply:
    faces = [FaceWithEmbedding.of(face, embedding=face.embedding.tolist()) for face in image.faces]
    return ImageReply(width=image.width, height=image.height, faces=faces)
