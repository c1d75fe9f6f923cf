"""Enrolling a face: the demanded quality, the warning about others who look alike, the row."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sqlalchemy.orm import Session

from facemargin.errors import ModelMismatchError, UnsupportedFmrError
from facemargin.preprocessing import encode_png
from facemargin.preprocessing.quality import Quality
from service.bodies import Body
from service.context import Service
from service.errors import CalibrationMissingError, QualityTooLowError
from service.gallery import Change, difference
from service.probes import Probe
from service.schemas import Part, PersonRef, QualityReply, TemplateReply
from service.store import CollectionRow, PersonRow
from service.store.faces import NewFace, add_face, add_template, people_by_row
from service.store.people import collection, person
from service.upgrades import models_of
from service.writes import Reply

_MOST_WARNINGS = 5


class MinQuality(Body):
    """The least quality of a face to enrol; what is not named is not demanded."""

    score: float | None = Field(default=None, ge=0, le=1, description="Least confidence of the detector.")
    eye_distance_px: float | None = Field(default=None, ge=0, description="Least distance between the eyes, in pixels.")
    sharpness: float | None = Field(default=None, ge=0, description="Least variance of the Laplacian of the crop.")
    max_yaw_rad: float | None = Field(default=None, ge=0, description="Furthest turn to either side.")
    max_pitch_rad: float | None = Field(default=None, ge=0, description="Furthest turn up or down.")
    max_roll_rad: float | None = Field(default=None, ge=0, description="Furthest tilt.")


class Resemblance(Part):
    """The enrolled face also matches somebody else of the collection."""

    kind: str = Field(default="matches-another-person")
    person: PersonRef
    similarity: float
    fmr: float | None
    detail: str


class EnrolledReply(TemplateReply):
    """An enrolled face, and warnings about others that it matches."""

    resemblance_checked: bool = Field(
        description="Whether others were looked for; false where no error rate can be stated (no calibration)."
    )
    warnings: list[Resemblance]


@dataclass(frozen=True, eq=False)
class Enrolment:
    """A face about to be enrolled.

    Attributes:
        collection: its name.
        person: public id.
        probe: the vector, and the face it was found in.
        model: id of the model that the vector is by.
        source: ``image``, ``aligned`` or ``embedding``.
        further: vectors by the other models that the collection has vectors of, by model id.
    """

    collection: str
    person: str
    probe: Probe
    model: str
    source: str
    further: dict[str, NDArray[np.float32]]


def check_quality(quality: Quality, demanded: MinQuality) -> None:
    """Pass if a face is as good as demanded.

    Raises:
        QualityTooLowError: it is not, or what is demanded cannot be measured on an aligned crop; lists each failure.
    """
    pose = quality.pose
    measured = {
        "score": quality.score,
        "eye_distance_px": quality.eye_distance_px,
        "sharpness": quality.sharpness,
        "max_yaw_rad": abs(pose.yaw_rad) if pose else None,
        "max_pitch_rad": abs(pose.pitch_rad) if pose else None,
        "max_roll_rad": abs(pose.roll_rad) if pose else None,
    }
    limits = demanded.model_dump(exclude_none=True)
    failures = [_failure(name, measured[name], limit) for name, limit in limits.items()]
    failed = [failure for failure in failures if failure is not None]
    if failed:
        raise QualityTooLowError("; ".join(item["detail"] for item in failed), failures=failed)


def _failure(name: str, value: float | None, limit: float) -> dict[str, Any] | None:
    if value is None:
        detail = f"{name} cannot be measured on an aligned crop"
    elif name.startswith("max_") and value > limit:
        detail = f"{name.removeprefix('max_')} is {value:.3g}; at most {limit:g} is demanded"
    elif not name.startswith("max_") and value < limit:
        detail = f"{name} is {value:.3g}; at least {limit:g} is demanded"
    else:
        return None
    return {"name": name, "measured": value, "demanded": limit, "detail": detail}


def enrol(service: Service, session: Session, changes: list[Change], enrolment: Enrolment) -> Reply:
    """Add a face to a person, in the transaction of the session.

    Raises:
        ModelMismatchError: the collection has moved to another model since the face was embedded.
        NotFoundError: the collection or the person is gone.
    """
    gallery = collection(session, enrolment.collection)
    who = person(session, gallery, enrolment.person)
    if gallery.model != enrolment.model:
        raise ModelMismatchError(
            f"collection '{gallery.name}' left model {enrolment.model} while the face was embedded; send it again"
        )
    before = service.gallery.entries(session, gallery, who)
    warnings = _resemblances(service, session, gallery, who, enrolment.probe)
    row = add_face(session, gallery, who, _new_face(service, gallery, enrolment))
    for model in models_of(gallery)[1:]:
        if model in enrolment.further:
            add_template(session, gallery, who, row, model, enrolment.further[model])
    changes.append(difference(gallery, before, service.gallery.entries(session, gallery, who)))
    reply = EnrolledReply.of(row, who, gallery, resemblance_checked=warnings is not None, warnings=warnings or [])
    others = [warning.person.id for warning in reply.warnings]
    return Reply(
        201,
        reply.model_dump(mode="json"),
        collection=gallery.name,
        mentions=(who.public_id, row.public_id, *others),
    )


def _new_face(service: Service, gallery: CollectionRow, enrolment: Enrolment) -> NewFace:
    found = enrolment.probe.face
    if found is None:
        return NewFace(enrolment.probe.vector, enrolment.source)
    quality = QualityReply.of(found.quality).model_dump()
    if not gallery.keep_crops:
        return NewFace(enrolment.probe.vector, enrolment.source, quality)
    template = service.models.of(gallery).template
    return NewFace(enrolment.probe.vector, enrolment.source, quality, encode_png(found.crop), template)


def _resemblances(
    service: Service, session: Session, gallery: CollectionRow, who: PersonRow, probe: Probe
) -> list[Resemblance] | None:
    """Others whom a search at the default rate would take this face for; None where no rate can be stated."""
    decisions = service.models.decisions_of(gallery.model)
    try:
        criterion = decisions.search_criterion(service.settings.default_max_fpir, service.gallery.size(gallery))
    except (CalibrationMissingError, UnsupportedFmrError):
        return None
    hits = service.gallery.search(
        gallery, probe.vector, threshold=criterion.threshold, limit=_MOST_WARNINGS, other_than=who.id
    )
    others = people_by_row(session, [hit.person for hit in hits])
    return [
        _resemblance(others[hit.person], hit.similarity, decisions.evidence(hit.similarity).fmr)
        for hit in hits
        if hit.person in others
    ]


def _resemblance(other: PersonRow, similarity: float, fmr: float | None) -> Resemblance:
    return Resemblance(
        person=PersonRef(id=other.public_id, name=other.name),
        similarity=similarity,
        fmr=fmr,
        detail=f"this face also matches '{other.name}' ({other.public_id}); one of the two may be enrolled wrongly",
    )
