"""Everything that a call of the client raises on purpose.

::

    FacemarginError
    └── ClientError
        ├── ServiceUnreachable          no answer: refused, cut off, timed out
        ├── UnexpectedReply             an answer that is not of this service, or not of a version known here
        └── ServiceProblem              the service said no, by RFC 9457
            ├── InvalidRequest          a field, or the body as such
            ├── TooLarge                more bytes or images than the service takes
            ├── BadImage                not a picture that the service accepts, or not a crop
            ├── NoFace
            ├── SeveralFaces            several in the picture where one is expected, or more than the limit
            ├── QualityTooLow
            ├── InvalidEmbedding
            ├── Unauthenticated
            ├── Forbidden
            ├── NotFound
            ├── Conflict                the state of the collection does not allow it
            │   ├── ModelMismatch
            │   ├── NoTemplate
            │   └── UpgradeState
            ├── NoErrorRate             no calibration, or not one that supports the rate
            ├── IdempotencyMismatch     the key came before with another request
            ├── IdempotencyGone         what the first answer spoke of was deleted since
            ├── DetectorMissing
            ├── ServiceFailure          the service made a mistake
            └── TryLater                worth trying again; has `retry_after`
                ├── RateLimited         this key sends too much
                ├── Overloaded          the service has more work than it takes
                └── Unavailable         it cannot work now

A problem whose type is not known here is told by its status; one of neither is a plain `ServiceProblem`.
"""

from collections.abc import Mapping
from typing import Any

from facemargin.errors import FacemarginError

TYPE_PREFIX = "urn:facemargin:problem:"
_HEAD = ("type", "title", "status", "detail", "request_id")


class ClientError(FacemarginError):
    """Base of what a call of the client raises."""


class ServiceUnreachable(ClientError):
    """No answer: the connection was refused or cut off, or nothing came in time.

    Whether a write was done is then not known; sent again with the same Idempotency-Key it is done once.
    """


class UnexpectedReply(ClientError):
    """An answer that is not of this service (of a proxy?), or that lacks what this client needs."""


class ServiceProblem(ClientError):
    """The service refused, and said why.

    Args:
        body: the members of the problem reply.
        retry_after: seconds that the service asks to wait, if it does.

    Attributes:
        type: URI of the kind of problem; stable.
        slug: its last part, such as ``no-face``; the whole type where it is not one of this service.
        title: what the kind is called.
        status: HTTP status.
        detail: what went wrong this time.
        members: the further members, such as ``faces`` or ``image``.
        request_id: to find the request in the log of the service.
    """

    def __init__(self, body: Mapping[str, Any], retry_after: float | None = None) -> None:
        super().__init__(body, retry_after)
        self.type = str(body.get("type", "about:blank"))
        self.slug = self.type.removeprefix(TYPE_PREFIX)
        self.title = str(body.get("title", ""))
        self.status = int(body["status"])
        self.detail = str(body.get("detail", ""))
        self.request_id = str(body.get("request_id", ""))
        self.members = {name: value for name, value in body.items() if name not in _HEAD}
        self.retry_after = retry_after

    def __str__(self) -> str:
        """What went wrong, its kind, and where to find it in the log."""
        of = f", request {self.request_id}" if self.request_id else ""
        return f"{self.detail or self.title} ({self.slug}, status {self.status}{of})"


class InvalidRequest(ServiceProblem):
    """A field, a header or the body as such cannot be used; ``members["errors"]`` names the fields."""


class TooLarge(ServiceProblem):
    """More bytes or images in one request than the service takes; ``members["limit"]``."""


class BadImage(ServiceProblem):
    """Not a picture that the service accepts, or not a crop; ``members["image"]`` says which."""


class NoFace(ServiceProblem):
    """No face was found where one is expected."""


class SeveralFaces(ServiceProblem):
    """Several faces where one is expected, or more than the limit; ``members["faces"]`` says how many."""


class QualityTooLow(ServiceProblem):
    """The face is below ``min_quality``; ``members["failures"]`` says in what."""


class InvalidEmbedding(ServiceProblem):
    """A vector of wrong length, with values that are not finite, or without direction."""


class Unauthenticated(ServiceProblem):
    """No key, or one that is not valid."""


class Forbidden(ServiceProblem):
    """The key does not allow this; ``members["required_scopes"]`` says what would."""


class NotFound(ServiceProblem):
    """No such collection, person, face or route."""


class Conflict(ServiceProblem):
    """The state of what is asked for does not allow it."""


class ModelMismatch(Conflict):
    """Vectors of two models would be compared."""


class NoTemplate(Conflict):
    """The person has no enrolled face to compare with."""


class UpgradeState(Conflict):
    """The upgrade does not fit where the collection stands."""


class NoErrorRate(ServiceProblem):
    """The rate that was asked for cannot be stated: no calibration, or too few data behind it."""


class IdempotencyMismatch(ServiceProblem):
    """The Idempotency-Key came before with another request."""


class IdempotencyGone(ServiceProblem):
    """What the first answer to this Idempotency-Key spoke of was deleted since."""


class DetectorMissing(ServiceProblem):
    """A photograph, and the service has no face detector: waiting does not help."""


class ServiceFailure(ServiceProblem):
    """The service made a mistake; its log has it under `request_id`."""


class TryLater(ServiceProblem):
    """Worth trying again: the client did, until its deadline. ``retry_after`` is what the service asks for."""


class RateLimited(TryLater):
    """This key sends more than it may."""


class Overloaded(TryLater):
    """The service has more work than it accepts."""


class Unavailable(TryLater):
    """The service cannot work now: its store does not answer, or it is starting or ending."""


BY_SLUG: dict[str, type[ServiceProblem]] = {
    "bad-body": InvalidRequest,
    "invalid-json": InvalidRequest,
    "invalid-request": InvalidRequest,
    "unsupported-media-type": InvalidRequest,
    "client-disconnected": InvalidRequest,
    "method-not-allowed": InvalidRequest,
    "body-too-large": TooLarge,
    "too-many-images": TooLarge,
    "invalid-base64": BadImage,
    "empty-image": BadImage,
    "unsupported-image": BadImage,
    "truncated-image": BadImage,
    "image-too-large": BadImage,
    "bad-image": BadImage,
    "not-a-crop": BadImage,
    "no-face": NoFace,
    "several-faces": SeveralFaces,
    "too-many-faces": SeveralFaces,
    "quality-too-low": QualityTooLow,
    "invalid-embedding": InvalidEmbedding,
    "model-mismatch": ModelMismatch,
    "unsupported-fmr": NoErrorRate,
    "calibration-missing": NoErrorRate,
    "detector-missing": DetectorMissing,
    "model-failure": ServiceFailure,
    "internal-error": ServiceFailure,
    "not-found": NotFound,
    "no-template": NoTemplate,
    "upgrade-state": UpgradeState,
    "upload-too-slow": InvalidRequest,
    "host-not-allowed": InvalidRequest,
    "rate-limited": RateLimited,
    "overloaded": Overloaded,
    "idempotency-mismatch": IdempotencyMismatch,
    "idempotency-gone": IdempotencyGone,
    "store-unavailable": Unavailable,
    "index-unavailable": Unavailable,
    "not-ready": Unavailable,
    "unauthenticated": Unauthenticated,
    "forbidden": Forbidden,
}
"""The error of each problem of the service; a test compares it with the service's table."""

BY_STATUS: dict[int, type[ServiceProblem]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: InvalidRequest,
    429: Overloaded,
    500: ServiceFailure,
    502: Unavailable,  # a proxy lost the service on the way
    503: Unavailable,
    504: Unavailable,
}
"""The error of a status whose problem type is not known here (a proxy's, or of a later service)."""


def problem_from(body: Mapping[str, Any], retry_after: float | None = None) -> ServiceProblem:
    """The error that a problem reply is."""
    slug = str(body.get("type", "")).removeprefix(TYPE_PREFIX)
    kind = BY_SLUG.get(slug) or BY_STATUS.get(int(body["status"]), ServiceProblem)
    return kind(body, retry_after)
