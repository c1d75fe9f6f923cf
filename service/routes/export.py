"""Everything that is held about a person, in one reply: for a person who asks, or who moves to another system.

Scope `admin`, because it holds what the service gives out nowhere else: templates and stored crops. It holds nothing of
anybody else, and no key.
"""

import base64
from datetime import datetime
from typing import Any

import numpy as np
from fastapi import APIRouter, Response
from numpy.typing import NDArray
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service.context import Service
from service.deps import Admin, CollectionName, PersonId, ServiceDep
from service.openapi import EXAMPLE_MODEL, EXAMPLE_QUALITY, KEYED, documented
from service.schemas import MODEL_ID, Part, PersonReply, TemplateReply
from service.store import CollectionRow, FaceRow, PersonRow
from service.store.audit import records_of
from service.store.faces import faces, models_of_person, stored_crop, templates_of_person
from service.store.people import collection, person
from service.store.replies import count_mentions
from service.store.tables import now

router = APIRouter(prefix="/v1/collections/{name}/people/{person_id}/export", tags=["people"])


class ExportedTemplate(Part):
    """A vector of a face."""

    model: str = Field(description=MODEL_ID)
    dim: int
    float32: str = Field(description="The values, float32 little-endian, as base64.")


class ExportedFace(TemplateReply):
    """An enrolled face with its vectors and, where one is kept, its crop."""

    templates: list[ExportedTemplate]
    crop: str | None = Field(description="The stored aligned crop, PNG as base64; null where none is kept.")
    crop_template: str | None = Field(description="Which alignment the crop was cut by.")


class ExportReply(Part):
    """All that the service holds about a person."""

    exported_at: datetime
    person: PersonReply
    faces: list[ExportedFace]
    stored_replies: int = Field(
        description="Stored replies to Idempotency-Keys that speak of the person. They hold what is in this export, "
        "sealed under the Idempotency-Key of the client that sent it, and are dropped by themselves."
    )
    audit: list[dict[str, Any]] = Field(
        description="Records of the audit log about the person: faces that were deleted, under pseudonyms."
    )


_PERSON = {
    "id": "p_4fz1k8m2q7w9x3c5",
    "name": "Ada Lovelace",
    "collection": "staff",
    "model": EXAMPLE_MODEL,
    "faces": 1,
    "expires_at": None,
    "created_at": "2026-01-31T09:30:00Z",
}
_FACE = {
    "id": "f_0a9s8d7f6g5h4j3k",
    "person": "p_4fz1k8m2q7w9x3c5",
    "collection": "staff",
    "model": EXAMPLE_MODEL,
    "source": "image",
    "quality": EXAMPLE_QUALITY,
    "created_at": "2026-01-31T09:30:00Z",
    "templates": [{"model": EXAMPLE_MODEL, "dim": 512, "float32": "nMSrPJLtWb3..."}],
    "crop": None,
    "crop_template": None,
}
_EXAMPLE = {
    "exported_at": "2026-02-01T10:00:00Z",
    "person": _PERSON,
    "faces": [_FACE],
    "stored_replies": 1,
    "audit": [],
}


@router.get("", summary="Export all that is held about a person", **documented(*KEYED, "not-found", example=_EXAMPLE))
async def export_person(
    caller: Admin, service: ServiceDep, name: CollectionName, person_id: PersonId, response: Response
) -> ExportReply:
    """The person, faces, quality, vectors of every model, stored crops, and audit records; nothing of anybody else."""
    exported = await run_in_threadpool(_exported, service, name, person_id)
    response.headers["Content-Disposition"] = f'attachment; filename="{exported.person.id}.json"'
    return exported


def _exported(service: Service, name: str, person_id: str) -> ExportReply:
    with service.store.read() as session:
        gallery = collection(session, name)
        who = person(session, gallery, person_id)
        found = _faces(session, gallery, who)
        return ExportReply(
            exported_at=now(),
            person=PersonReply.of(who, gallery, faces=len(found)),
            faces=found,
            stored_replies=count_mentions(session, who.public_id),
            audit=[record.as_json() for record in records_of(session, who.public_id)],
        )


def _faces(session: Session, gallery: CollectionRow, who: PersonRow) -> list[ExportedFace]:
    vectors: dict[int, list[ExportedTemplate]] = {}
    for model in models_of_person(session, who):
        for template in templates_of_person(session, gallery, who, model):
            vectors.setdefault(template.face, []).append(_template(model, template.vector))
    return [_face(session, gallery, who, row, vectors.get(row.id, [])) for row in faces(session, who)]


def _face(
    session: Session, gallery: CollectionRow, who: PersonRow, row: FaceRow, templates: list[ExportedTemplate]
) -> ExportedFace:
    crop = stored_crop(session, gallery, who, row)
    text = None if crop is None else base64.b64encode(crop).decode()
    return ExportedFace.of(row, who, gallery, templates=templates, crop=text, crop_template=row.crop_template)


def _template(model: str, vector: NDArray[np.float32]) -> ExportedTemplate:
    values = base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return ExportedTemplate(model=model, dim=vector.size, float32=values)
