"""Faces of a person."""

import json
from collections.abc import Iterable

from facemargin.client.images import Picture, image_bytes
from facemargin.client.operation import Parts, deletion, given, operation
from facemargin.client.operations.comparing import OneFace, of_embedding, of_image
from facemargin.client.replies import EnrolledFace, Faces
from facemargin.client.requests import MinQuality

_FACES = "/v1/collections/{name}/people/{person_id}/faces"


@operation("GET", _FACES, Faces)
def faces(collection: str, person: str) -> Parts:
    """The enrolled faces of a person, without their vectors."""
    return Parts(path={"name": collection, "person_id": person})


@operation("POST", _FACES, EnrolledFace, writes=True)
def enrol(
    collection: str,
    person: str,
    image: Picture,
    *,
    aligned: bool = False,
    face: OneFace = "single",
    min_quality: MinQuality | None = None,
    idempotency_key: str | None = None,
) -> Parts:
    """Enrol a face by a picture. The reply comes when it is on the disk, with warnings about others who look alike.

    Args:
        collection: its name.
        person: id of the person.
        image: a picture.
        aligned: it is a crop by the model's template already.
        face: with several faces in it, ``single`` is an error and ``largest`` takes the largest.
        min_quality: refuse a face below it.
        idempotency_key: made up without it.
    """
    demanded = None if min_quality is None else json.dumps(min_quality.model_dump(exclude_none=True), sort_keys=True)
    return Parts(
        path={"name": collection, "person_id": person},
        images=[("image", image_bytes(image))],
        fields={**of_image(aligned, face), **given(min_quality=demanded)},
        idempotency_key=idempotency_key,
    )


@operation("POST", _FACES, EnrolledFace, writes=True)
def enrol_embedding(
    collection: str, person: str, embedding: Iterable[float], model: str, *, idempotency_key: str | None = None
) -> Parts:
    """Enrol a vector that the caller made (a scope of its own).

    Args:
        collection: its name.
        person: id of the person.
        embedding: the vector: a list or an array (D,).
        model: id of the model that it comes from.
        idempotency_key: made up without it.
    """
    path = {"name": collection, "person_id": person}
    return Parts(path=path, fields=of_embedding(embedding, model), idempotency_key=idempotency_key)


@deletion(_FACES + "/{face_id}")
def delete_face(collection: str, person: str, face_id: str, *, idempotency_key: str | None = None) -> Parts:
    """Delete one face of a person. This cannot be undone."""
    path = {"name": collection, "person_id": person, "face_id": face_id}
    return Parts(path=path, idempotency_key=idempotency_key)
