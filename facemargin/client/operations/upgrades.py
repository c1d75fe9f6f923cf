"""Moving a collection to another model."""

from collections.abc import Iterable

from facemargin.client.images import Picture, image_bytes
from facemargin.client.operation import Parts, deletion, operation
from facemargin.client.operations.comparing import OneFace, of_embedding, of_image
from facemargin.client.replies import Face, Upgrade

_UPGRADE = "/v1/collections/{name}/upgrade"
_TEMPLATE = "/v1/collections/{name}/people/{person_id}/faces/{face_id}/template"


@operation("GET", _UPGRADE, Upgrade)
def upgrade(collection: str, *, comparison: bool = False) -> Parts:
    """Where an upgrade stands.

    Args:
        collection: its name.
        comparison: also compare both models on the enrolled faces, which takes a while.
    """
    return Parts(path={"name": collection}, query={"comparison": "true" if comparison else "false"})


@operation("PUT", _UPGRADE, Upgrade, writes=True)
def begin_upgrade(collection: str, model: str, *, idempotency_key: str | None = None) -> Parts:
    """Begin to make vectors of another loaded model beside the present ones; searches go on as before."""
    return Parts(path={"name": collection}, fields={"model": model}, idempotency_key=idempotency_key)


@operation("PUT", _TEMPLATE, Face, writes=True)
def send_again(
    collection: str,
    person: str,
    face_id: str,
    image: Picture,
    model: str,
    *,
    aligned: bool = False,
    face: OneFace = "single",
    idempotency_key: str | None = None,
) -> Parts:
    """Send the picture of an enrolled face again, for the model that its collection is moving to.

    Args:
        collection: its name.
        person: id of the person.
        face_id: id of the face.
        image: a picture.
        model: id of the model that the collection is moving to.
        aligned: the picture is a crop by the model's template already.
        face: with several faces in it, ``single`` is an error and ``largest`` takes the largest.
        idempotency_key: made up without it.
    """
    return Parts(
        path={"name": collection, "person_id": person, "face_id": face_id},
        images=[("image", image_bytes(image))],
        fields={**of_image(aligned, face), "model": model},
        idempotency_key=idempotency_key,
    )


@operation("PUT", _TEMPLATE, Face, writes=True)
def send_embedding_again(
    collection: str,
    person: str,
    face_id: str,
    embedding: Iterable[float],
    model: str,
    *,
    idempotency_key: str | None = None,
) -> Parts:
    """Send a vector for an enrolled face, by the model that its collection is moving to."""
    path = {"name": collection, "person_id": person, "face_id": face_id}
    return Parts(path=path, fields=of_embedding(embedding, model), idempotency_key=idempotency_key)


@operation("POST", _UPGRADE + "/switch", Upgrade, writes=True)
def switch_model(collection: str, *, leave_behind: bool = False, idempotency_key: str | None = None) -> Parts:
    """Bind the collection to the other model, at once and as a whole.

    Args:
        collection: its name.
        leave_behind: also if faces lack a vector by the other model; they are not found until they have one.
        idempotency_key: made up without it.
    """
    return Parts(path={"name": collection}, fields={"leave_behind": leave_behind}, idempotency_key=idempotency_key)


@operation("POST", _UPGRADE + "/rollback", Upgrade, writes=True)
def roll_back_model(collection: str, *, idempotency_key: str | None = None) -> Parts:
    """Bind the collection to the model that it had before the switch."""
    return Parts(path={"name": collection}, idempotency_key=idempotency_key)


@deletion(_UPGRADE)
def finish_upgrade(collection: str, *, idempotency_key: str | None = None) -> Parts:
    """Erase the vectors of every model but the collection's own: before the switch this cancels, after it, it ends."""
    return Parts(path={"name": collection}, idempotency_key=idempotency_key)
