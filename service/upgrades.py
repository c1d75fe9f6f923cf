"""Moving a collection from one model to another without a moment in which it cannot be searched.

The vectors of the new model are made beside the old ones: in the background from stored crops, at enrolment from the
image at hand, or by clients that send a face again. Both models are compared on the faces that have both. The switch is
one transaction, and so is the way back, as long as the old model's vectors are kept. At no time is a vector compared
with one of another model: an index holds one model's, and a search names the model that its probe is from. The index of
the model to come is built before the transaction, beside searches and writes, and takes the place of the other right
after the commit.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from facemargin.errors import FacemarginError
from facemargin.metrics.pairs import all_pairs
from service.errors import UpgradeStateError
from service.faces import FaceEngine
from service.gallery import Change, Gallery, difference
from service.models import Model, Models
from service.store import CollectionRow, FaceRow, PersonRow
from service.store.faces import Template, add_template, template_blocks
from service.store.upgrades import (
    Coverage,
    coverage,
    drop_templates,
    has_template,
    shared_faces,
)

Vector = NDArray[np.float32]

MOST_COMPARED = 2000

Target = Callable[[Session, CollectionRow], str]
"""Id of the model that a collection shall be bound to; raises `UpgradeStateError` where it must not."""

Moved = Callable[[Session, CollectionRow], Change]
"""What the move of a collection means for its index; see `Gallery.moved`."""


def models_of(gallery: CollectionRow) -> list[str]:
    """Ids of every model that the faces of a collection shall have templates of, its own first."""
    return [model for model in (gallery.model, gallery.upgrade_model, gallery.previous_model) if model is not None]


def progress(
    session: Session, models: Models, gallery: CollectionRow, model: str, unreadable: frozenset[int]
) -> Coverage:
    """How far the faces of a collection have templates by a model; `Upgrader.unreadable` are waited for in vain."""
    template = models[model].template if model in models else None
    return coverage(session, gallery, model, template, unreadable)


def begin(session: Session, gallery: CollectionRow, model: Model) -> None:
    """Let a collection move to a model; asked again for the same one, nothing happens.

    Raises:
        UpgradeStateError: it is bound to that model, is moving to another one, or has not let go of an earlier one.
    """
    if gallery.upgrade_model == model.id:
        return
    if gallery.model == model.id:
        raise UpgradeStateError(f"collection '{gallery.name}' is bound to model {model.id} already")
    if gallery.upgrade_model is not None or gallery.previous_model is not None:
        other = gallery.upgrade_model or gallery.previous_model
        raise UpgradeStateError(
            f"collection '{gallery.name}' still has vectors of model {other}; "
            "finish or cancel that upgrade first (DELETE .../upgrade)"
        )
    gallery.upgrade_model = model.id


def next_model(models: Models, unreadable: frozenset[int] = frozenset(), *, leave_behind: bool) -> Target:
    """The model that a collection is moving to, if it may be bound to it now: all faces have a template by it.

    Args:
        models: the loaded ones.
        unreadable: `Upgrader.unreadable`.
        leave_behind: whether faces may lack one.
    """

    def target(session: Session, gallery: CollectionRow) -> str:
        model = gallery.upgrade_model
        if model is None:
            raise UpgradeStateError(f"collection '{gallery.name}' is not moving to another model")
        found = progress(session, models, gallery, model, unreadable)
        if found.embedded < found.faces and not leave_behind:
            raise UpgradeStateError(
                f"{found.faces - found.embedded} of {found.faces} faces have no template by model {model}: "
                f"{found.waiting} are being made from stored crops, {found.unreachable} must be sent again; "
                "'leave_behind' switches without them"
            )
        return model

    return target


def model_before(_: Session, gallery: CollectionRow) -> str:
    """The model that a collection can go back to.

    Raises:
        UpgradeStateError: there is no way back.
    """
    if gallery.previous_model is None:
        raise UpgradeStateError(f"collection '{gallery.name}' has no model to go back to")
    return gallery.previous_model


def bind(session: Session, changes: list[Change], gallery: CollectionRow, *, model: Model, moved: Moved) -> None:
    """Bind a collection to the model of a `Target`; the other one's vectors stay, so that it can move there again."""
    left, back = gallery.model, model.id == gallery.previous_model
    gallery.previous_model, gallery.upgrade_model = (None, left) if back else (left, None)
    gallery.model, gallery.dim = model.id, model.dim
    session.flush()
    changes.append(moved(session, gallery))


def finish(session: Session, changes: list[Change], gallery: CollectionRow) -> None:
    """Drop the vectors of every model but the collection's own: cancels an upgrade, or closes the way back.

    Raises:
        UpgradeStateError: there are none.
    """
    others = models_of(gallery)[1:]
    if not others:
        raise UpgradeStateError(f"collection '{gallery.name}' has vectors of its own model only")
    for model in others:
        drop_templates(session, gallery, model)
    gallery.upgrade_model = gallery.previous_model = None
    changes.append(Change(gallery.id, gallery.model, gallery.dim, drops_others=True))


class ModelFigures(NamedTuple):
    """What a model's own threshold at the default rate does to pairs of enrolled faces; None where it has none."""

    model: str
    threshold: float | None
    genuine_match_rate: float | None
    impostor_match_rate: float | None


class Comparison(NamedTuple):
    """Two models on the same enrolled faces."""

    faces: int
    genuine_pairs: int
    impostor_pairs: int
    present: ModelFigures
    other: ModelFigures


def compare(
    session: Session, models: Models, gallery: CollectionRow, other: str, *, max_fmr: float
) -> Comparison | None:
    """Compare the collection's model with another one on the first faces that have both; None where no pair does.

    All pairs of at most `MOST_COMPARED` faces; pairs of one person are genuine, all others impostors. Enrolled faces
    are no test set: people may be enrolled twice, and a person's photographs may be of one session.
    """
    shared = shared_faces(session, gallery, (gallery.model, other), limit=MOST_COMPARED)
    vectors = [_templates(session, gallery, model, shared) for model in (gallery.model, other)]
    people = [str(vectors[0][face].person) for face in shared]
    if not 1 < len(set(people)) < len(people):
        return None
    figures, counts = [], (0, 0)
    for model, found in zip((gallery.model, other), vectors, strict=True):
        scores = all_pairs(np.stack([found[face].vector for face in shared]), people)
        counts = (len(scores.genuine), len(scores.impostor))
        figures.append(_figures(models, model, scores.genuine, scores.impostor, max_fmr))
    return Comparison(len(shared), *counts, *figures)


def _templates(session: Session, gallery: CollectionRow, model: str, faces: Sequence[int]) -> dict[int, Template]:
    found: dict[int, Template] = {}
    for block in template_blocks(session, gallery, model, faces=faces):
        rows = map(Template, block.faces.tolist(), block.people.tolist(), block.vectors)
        found |= {row.face: row for row in rows}
    return found


def _figures(models: Models, model: str, genuine: Vector, impostor: Vector, max_fmr: float) -> ModelFigures:
    try:
        threshold = models.decisions_of(model).criterion(max_fmr).threshold
    except FacemarginError:  # no calibration, or none that reaches so far: there is nothing to compare with
        return ModelFigures(model, None, None, None)
    return ModelFigures(model, threshold, float(np.mean(genuine >= threshold)), float(np.mean(impostor >= threshold)))


def further_vectors(
    engine: FaceEngine, models: Models, gallery: CollectionRow, crop: NDArray[np.uint8]
) -> dict[str, Vector]:
    """Vectors of a face that is being enrolled, by the other loaded models that its collection has vectors of.

    Args:
        engine: has the queues before them.
        models: the loaded ones.
        gallery: the collection.
        crop: the aligned crop, uint8 RGB; models of another template have no use for it.
    """
    own = models.of(gallery).template
    others = [models[model] for model in models_of(gallery)[1:] if model in models and models[model].template == own]
    waiting = {model.id: engine.batchers.of(model.embedder).submit([crop]) for model in others}
    return {model: rows.result()[0] for model, rows in waiting.items()}


def add_vector(
    session: Session,
    changes: list[Change],
    indexes: Gallery,
    owner: tuple[CollectionRow, PersonRow, FaceRow],
    model: str,
    vector: Vector,
) -> None:
    """Add the vector of an enrolled face by a further model.

    Raises:
        UpgradeStateError: the collection has nothing to do with that model, or the face has a template by it.
    """
    gallery, person, face = owner
    if model not in models_of(gallery):
        raise UpgradeStateError(f"collection '{gallery.name}' is not moving to model {model}")
    if has_template(session, face, model):
        raise UpgradeStateError(f"face '{face.public_id}' has a template by model {model} already")
    before = indexes.entries(session, gallery, person)
    add_template(session, gallery, person, face, model, vector)
    if model == gallery.model:
        changes.append(difference(gallery, before, indexes.entries(session, gallery, person)))
