"""A typed client of the service, blocking and asynchronous: ``pip install 'facemargin[client]'``.

It knows the REST API and nothing of the service's code; importing it needs httpx and pydantic only. `Client` and
`AsyncClient` have the same methods, replies are frozen pydantic models (`replies`), errors are one tree (`errors`), and
every call is tried again where that is safe and may help (`Retries`).
"""

from facemargin.client.clients import AsyncClient, Client
from facemargin.client.errors import (
    BadImage,
    ClientError,
    Conflict,
    DetectorMissing,
    Forbidden,
    IdempotencyGone,
    IdempotencyMismatch,
    InvalidEmbedding,
    InvalidRequest,
    ModelMismatch,
    NoErrorRate,
    NoFace,
    NoTemplate,
    NotFound,
    Overloaded,
    QualityTooLow,
    RateLimited,
    ServiceFailure,
    ServiceProblem,
    ServiceUnreachable,
    SeveralFaces,
    TooLarge,
    TryLater,
    Unauthenticated,
    Unavailable,
    UnexpectedReply,
    UpgradeState,
)
from facemargin.client.requests import MinQuality
from facemargin.client.retrying import Retries

__all__ = [
    "AsyncClient",
    "BadImage",
    "Client",
    "ClientError",
    "Conflict",
    "DetectorMissing",
    "Forbidden",
    "IdempotencyGone",
    "IdempotencyMismatch",
    "InvalidEmbedding",
    "InvalidRequest",
    "MinQuality",
    "ModelMismatch",
    "NoErrorRate",
    "NoFace",
    "NoTemplate",
    "NotFound",
    "Overloaded",
    "QualityTooLow",
    "RateLimited",
    "Retries",
    "ServiceFailure",
    "ServiceProblem",
    "ServiceUnreachable",
    "SeveralFaces",
    "TooLarge",
    "TryLater",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedReply",
    "UpgradeState",
]
