"""What a request of this API says: its key's collection, its options, its body."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Query
from pydantic import ConfigDict, Field, model_validator

from service.bodies import Body, ImageBytes
from service.deps import Known, ServiceDep
from service.routes.people import PersonName
from service.security import Principal, Scope

CALCULATOR = "calculator"
LANDMARKS = "landmarks"
MOST_PREDICTIONS = 1000
"""Subjects in one prediction; also where all are asked for."""


async def _collection(principal: Known, service: ServiceDep) -> str:
    """The one collection that a key is limited to, or the one of the setting.

    Raises:
        NotFoundError: the key is limited to several others.
    """
    if principal.collections is not None and len(principal.collections) == 1:
        return next(iter(principal.collections))
    name = service.settings.compreface_collection
    principal.enter(name)
    return name


CollectionOfKey = Annotated[str, Depends(_collection)]

Subject = Annotated[PersonName, Path(description="Name of the subject.")]
ImageId = Annotated[str, Path(max_length=64, description="Id of the example: the native API's id of the face.")]


class _Loose(Body):
    """CompreFace passes over unknown fields, and its own clients send some."""

    model_config = ConfigDict(extra="ignore")


class FileBody(_Loose):
    """An image."""

    file: ImageBytes


class PairBody(_Loose):
    """Two images."""

    source_image: ImageBytes
    target_image: ImageBytes


class SubjectBody(_Loose):
    """A subject's name."""

    subject: PersonName


class ExamplesBody(Body):
    """Ids of examples: in JSON a plain list."""

    image_ids: list[str] = Field(max_length=1000)

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return {"image_ids": value} if isinstance(value, list) else value


@dataclass(frozen=True)
class Options:
    """How faces are found and what is said of them.

    Attributes:
        limit: most faces, the largest first; 0 for all.
        least_score: least confidence of the detector, if not the service's own.
        plugins: what to add to each face; what this service does not have is left out, as CompreFace does.
        status: whether to add versions and times.
        detect: false for an image that is an aligned crop already.
    """

    limit: int
    least_score: float
    plugins: frozenset[str]
    status: bool
    detect: bool

    def demand(self, caller: Principal) -> None:
        """Pass if the caller may have what the options ask for.

        Raises:
            ForbiddenError: embeddings, without the scope `embed`.
        """
        if CALCULATOR in self.plugins:
            caller.demand(Scope.EMBED)


async def _options(
    limit: Annotated[int, Query(ge=0)] = 0,
    det_prob_threshold: Annotated[float, Query(ge=0, le=1)] = 0.0,
    face_plugins: Annotated[str, Query(max_length=200)] = "",
    status: bool = False,
    detect_faces: bool = True,
) -> Options:
    plugins = frozenset(slug.strip() for slug in face_plugins.split(","))
    return Options(limit, det_prob_threshold, plugins, status, detect_faces)


OptionsDep = Annotated[Options, Depends(_options)]


async def _prediction_count(prediction_count: Annotated[int, Query(ge=-1, le=MOST_PREDICTIONS)] = 1) -> int:
    return prediction_count if prediction_count != -1 else MOST_PREDICTIONS


PredictionCount = Annotated[int, Depends(_prediction_count)]
