"""What the service refuses, beyond the library's own errors.

::

    FacemarginError
    └── ServiceError                    carries the extra members of its problem reply
        ├── BadBodyError                a body that is empty, or neither JSON nor a form
        ├── UnsupportedMediaTypeError
        ├── BodyTooLargeError
        ├── UploadTooSlowError
        ├── HostNotAllowedError
        ├── InvalidBase64Error
        ├── InvalidEmbeddingError       wrong length, not finite, or without direction
        ├── TooManyImagesError
        ├── TooManyFacesError
        ├── CropShapeError              an "aligned" image that does not have the shape of a crop
        ├── RejectedImageError          says which image of the request an image or face error is about
        ├── QualityTooLowError
        ├── DetectorMissingError
        ├── CalibrationMissingError
        ├── NotFoundError
        ├── NoTemplateError             a person without a face to compare with
        ├── UpgradeStateError           an upgrade that does not fit where the collection stands
        ├── UnauthenticatedError
        ├── ForbiddenError
        ├── OverloadedError             a request that would wait longer than the limit
        ├── RateLimitedError            a key, or an address without one, that asks too often
        ├── IdempotencyMismatchError    an Idempotency-Key used again for another request
        ├── IdempotencyGoneError        a stored reply about something that was deleted since
        ├── NotReadyError               a check of readiness fails
        └── StoreError                  a store that cannot be opened, or does not answer

The library's `ModelMismatchError` is raised where vectors of two models meet.
"""

from typing import Any

from facemargin.errors import FacemarginError


class ServiceError(FacemarginError):
    """Base of what the service refuses.

    Args:
        detail: one sentence for a person.
        members: extra members of the problem reply, as JSON values.
    """

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.members = members


class BadBodyError(ServiceError):
    """A request body that is empty, or neither JSON nor a form."""


class UnsupportedMediaTypeError(ServiceError):
    """A request body of a type that no route takes."""


class BodyTooLargeError(ServiceError):
    """More bytes in the request body than the limit."""


class UploadTooSlowError(ServiceError):
    """A request body that comes too slowly, or takes too long in all."""


class HostNotAllowedError(ServiceError):
    """A request for another host name than those the service answers to."""


class InvalidBase64Error(ServiceError):
    """An image in a JSON body that is not base64."""


class InvalidEmbeddingError(ServiceError):
    """An embedding of wrong length, with values that are not finite, or without a direction."""


class TooManyImagesError(ServiceError):
    """More images in one request than the limit."""


class TooManyFacesError(ServiceError):
    """More faces in one image than the limit."""


class CropShapeError(ServiceError):
    """An image declared as aligned that does not have the shape of an aligned crop."""


class RejectedImageError(ServiceError):
    """Says which image of the request its cause (``__cause__``) is about."""


class QualityTooLowError(ServiceError):
    """A face below the quality that the request demands."""


class DetectorMissingError(ServiceError):
    """A photograph sent to a service that runs without a face detector."""


class CalibrationMissingError(ServiceError):
    """A decision asked of a model whose error rates nobody measured."""


class NotFoundError(ServiceError):
    """No such collection, person or face."""


class NoTemplateError(ServiceError):
    """A person without any enrolled face to compare with."""


class UpgradeStateError(ServiceError):
    """A step of an upgrade that does not fit where the collection stands."""


class UnauthenticatedError(ServiceError):
    """No key, or one that is not valid (any more)."""


class ForbiddenError(ServiceError):
    """A valid key without the scope that the route demands."""


class RateLimitedError(ServiceError):
    """A key that asks more often than it may, or an address that keeps asking without a valid one."""


class OverloadedError(ServiceError):
    """A request that would wait longer than the limit before anybody works on it."""


class IdempotencyMismatchError(ServiceError):
    """An Idempotency-Key that came before with another request."""


class IdempotencyGoneError(ServiceError):
    """The reply to be repeated was about a person or a face that was deleted since."""


class NotReadyError(ServiceError):
    """The service cannot do all of its work; its checks say what."""


class StoreError(ServiceError):
    """A store that cannot be opened, is used by another service, or does not answer."""


def in_one_line(error: Exception) -> str:
    """What an error says, or, where SQLAlchemy wrapped it, the database."""
    return " ".join(str(getattr(error, "orig", error)).split())
