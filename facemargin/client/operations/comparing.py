"""Embed, verify, search: what changes nothing."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from facemargin.client.images import Picture, image_bytes
from facemargin.client.operation import Parts, given, operation
from facemargin.client.replies import Embeddings, SearchResult, Verification

OneFace = Literal["single", "largest"]


def of_image(aligned: bool, face: OneFace) -> dict[str, Any]:
    """The fields that say how an image is to be taken."""
    return {"aligned": aligned, "face": face}


@operation("POST", "/v1/embeddings", Embeddings)
def embed(
    *pictures: Picture,
    aligned: bool = False,
    face: Literal["all", "single", "largest"] = "all",
    model: str | None = None,
) -> Parts:
    """The faces of pictures with their embeddings.

    Args:
        pictures: see `Picture`.
        aligned: they are crops by the model's template already.
        face: ``all`` faces of each, ``single``: exactly one is expected, or the ``largest``.
        model: id of a loaded model; the default one without it.
    """
    if not pictures:
        raise ValueError("give at least one picture")
    images = [("images", image_bytes(picture)) for picture in pictures]
    return Parts(images=images, fields=given(aligned=aligned, face=face, model=model))


@operation("POST", "/v1/verify", Verification)
def verify(
    image_a: Picture,
    image_b: "Picture | None" = None,
    *,
    collection: str | None = None,
    person: str | None = None,
    face_id: str | None = None,
    model: str | None = None,
    aligned: bool = False,
    face: OneFace = "single",
    max_fmr: float | None = None,
    threshold: float | None = None,
) -> Parts:
    """Whether two faces are of one person: two pictures, or one and somebody enrolled.

    Args:
        image_a: a picture.
        image_b: the other one.
        collection: instead of `image_b`, where the other face is.
        person: id of somebody in it: the best of all their faces counts.
        face_id: id of one face in it.
        model: id of a loaded model; the default one, or the collection's, without it.
        aligned: the pictures are crops by the model's template already.
        face: with several faces in a picture, ``single`` is an error and ``largest`` takes the largest.
        max_fmr: highest false match rate; the service's default without it.
        threshold: least cosine, instead of a rate.
    """
    images = [("image_a", image_bytes(image_a))]
    images += [("image_b", image_bytes(image_b))] if image_b is not None else []
    other = given(collection=collection, person=person, face_id=face_id, model=model)
    criterion = given(max_fmr=max_fmr, threshold=threshold)
    return Parts(images=images, fields={**other, **of_image(aligned, face), **criterion})


@operation("POST", "/v1/collections/{name}/search", SearchResult)
def search(
    collection: str,
    image: Picture,
    *,
    aligned: bool = False,
    face: OneFace = "single",
    max_fpir: float | None = None,
    threshold: float | None = None,
    limit: int = 5,
) -> Parts:
    """The people of a collection whom a face matches; nobody is an empty list.

    Args:
        collection: its name.
        image: a picture.
        aligned: it is a crop by the model's template already.
        face: with several faces in it, ``single`` is an error and ``largest`` takes the largest.
        max_fpir: highest chance that a stranger gets any candidate; the service's default without it.
        threshold: least cosine, instead of a rate.
        limit: most candidates.
    """
    fields = {**of_image(aligned, face), **_criterion(max_fpir, threshold, limit)}
    return Parts(path={"name": collection}, images=[("image", image_bytes(image))], fields=fields)


@operation("POST", "/v1/collections/{name}/search", SearchResult)
def search_embedding(
    collection: str,
    embedding: Iterable[float],
    model: str,
    *,
    max_fpir: float | None = None,
    threshold: float | None = None,
    limit: int = 5,
) -> Parts:
    """The people of a collection whom an embedding matches.

    Args:
        collection: its name.
        embedding: the vector: a list or an array (D,).
        model: id of the model that it comes from.
        max_fpir: highest chance that a stranger gets any candidate; the service's default without it.
        threshold: least cosine, instead of a rate.
        limit: most candidates.
    """
    fields = {**of_embedding(embedding, model), **_criterion(max_fpir, threshold, limit)}
    return Parts(path={"name": collection}, fields=fields)


def of_embedding(embedding: Iterable[float], model: str) -> Mapping[str, Any]:
    """The fields of a vector and its model; numbers of any kind become floats."""
    return {"embedding": [float(value) for value in embedding], "model": model}


def _criterion(max_fpir: float | None, threshold: float | None, limit: int) -> Mapping[str, Any]:
    return given(max_fpir=max_fpir, threshold=threshold, limit=limit)
