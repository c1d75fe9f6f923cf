"""Collections."""

from facemargin.client.operation import Parts, deletion, given, operation
from facemargin.client.replies import Collection, Collections


@operation("GET", "/v1/collections", Collections)
def collections() -> Parts:
    """All collections."""
    return Parts()


@operation("GET", "/v1/collections/{name}", Collection)
def collection(name: str) -> Parts:
    """One collection, with the number of its people and faces."""
    return Parts(path={"name": name})


@operation("PUT", "/v1/collections/{name}", Collection, writes=True)
def create_collection(
    name: str, *, model: str | None = None, keep_crops: bool | None = None, idempotency_key: str | None = None
) -> Parts:
    """Make a collection, or change whether one that is there keeps crops.

    Args:
        name: letters, digits, ``.``, ``_`` and ``-``; at most 63.
        model: id of a loaded model; the default one without it.
        keep_crops: store the aligned crop of each enrolled image, so that another model can embed it later. Without
            it, as it is; off in a new collection. Turned off, what was stored is erased.
        idempotency_key: made up without it.
    """
    fields = given(model=model, keep_crops=keep_crops)
    return Parts(path={"name": name}, fields=fields, idempotency_key=idempotency_key)


@deletion("/v1/collections/{name}")
def delete_collection(name: str, *, idempotency_key: str | None = None) -> Parts:
    """Delete a collection with everybody in it. This cannot be undone."""
    return Parts(path={"name": name}, idempotency_key=idempotency_key)
