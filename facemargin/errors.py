"""Every error that facemargin raises on purpose.

::

    FacemarginError
    ├── ConfigError                 a config file, flag or setting that cannot be used
    ├── MissingExtraError           a command whose optional packages are not installed
    ├── DataError                   a data folder, list or protocol file that cannot be used
    ├── ImageError                  bytes that are not a picture facemargin accepts
    │   ├── EmptyImageError
    │   ├── UnsupportedImageError
    │   ├── TruncatedImageError
    │   └── ImageTooLargeError
    ├── FaceCountError              a photograph without exactly the faces that were asked for
    │   ├── NoFaceError
    │   └── SeveralFacesError
    ├── ModelNotFoundError          a model file (detector) that is not on this machine
    ├── BundleError                 a bundle that is missing, damaged or of another version
    │   └── ExportRefusedError      an export whose ONNX model disagrees with PyTorch
    ├── CheckpointError             a checkpoint that is missing, damaged or of another run
    ├── NonFiniteLossError          a training run whose loss is NaN or infinite
    ├── CalibrationError            too little data, or no calibration at all
    │   └── UnsupportedFmrError     an FMR beyond what the calibration data supports
    ├── ModelMismatchError          vectors of two different models compared
    ├── IndexingError               a gallery index asked for something impossible
    │   ├── DuplicateIdError
    │   ├── UnknownIdError
    │   └── IndexDroppedError
    └── IndexUnavailableError       a search engine outside this process that does not answer

Constructors that get a wrong value raise ``ValueError`` instead, naming parameter, value and range. The library knows
nothing of HTTP; the service maps this tree to status codes in one table, and the command line maps it to exit code 2.
"""

from pathlib import Path


class FacemarginError(Exception):
    """Base of every error that facemargin raises on purpose."""


class ConfigError(FacemarginError):
    """A config file, flag or setting that cannot be used."""


class MissingExtraError(FacemarginError):
    """A command needs packages of an extra that is not installed."""

    def __init__(self, command: str, extra: str, module: str) -> None:
        super().__init__(
            f"'{command}' needs the package '{module}', which comes with an extra: pip install 'facemargin[{extra}]'"
        )
        self.extra = extra


class DataError(FacemarginError):
    """A data folder, list or protocol file that cannot be used."""


class ImageError(FacemarginError):
    """Bytes that are not a picture facemargin accepts."""


class EmptyImageError(ImageError):
    """No bytes at all."""


class UnsupportedImageError(ImageError):
    """Not one of the accepted formats (JPEG, PNG, WebP, BMP)."""


class TruncatedImageError(ImageError):
    """The header is right, the pixels are missing or damaged."""


class ImageTooLargeError(ImageError):
    """More bytes, pixels or a longer side than the limits allow."""


class FaceCountError(FacemarginError):
    """A photograph without exactly the faces that were asked for."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


class NoFaceError(FaceCountError):
    """No face was detected."""

    def __init__(self, message: str = "no face was detected in the photograph") -> None:
        super().__init__(message, 0)


class SeveralFacesError(FaceCountError):
    """More than one face was detected where one is expected."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} faces were detected where one is expected; face=largest takes the largest", count)


class ModelNotFoundError(FacemarginError):
    """A model file (such as the face detector) is not on this machine."""


class BundleError(FacemarginError):
    """A bundle that is missing, damaged or of another format version."""


class ExportRefusedError(BundleError):
    """The exported ONNX model disagrees with the PyTorch model; nothing was written."""


class CheckpointError(FacemarginError):
    """A checkpoint that is missing, damaged or belongs to another run."""


class NonFiniteLossError(FacemarginError):
    """The training loss became NaN or infinite.

    Attributes:
        step: optimizer step at which it happened.
        head: name of the loss head.
        checkpoint: the newest checkpoint from before it, if there is one.
    """

    def __init__(self, *, step: int, head: str, advice: str, checkpoint: Path | None = None) -> None:
        super().__init__(f"the loss of head '{head}' is not finite at step {step}: {advice}")
        self.step = step
        self.head = head
        self.checkpoint = checkpoint


class CalibrationError(FacemarginError):
    """Too little data to calibrate, or a bundle without calibration."""


class UnsupportedFmrError(CalibrationError):
    """The calibration data do not support a threshold at so low an FMR."""

    def __init__(self, fmr: float, smallest_supported: float) -> None:
        super().__init__(
            f"FMR {fmr:g} is below what the calibration data support; the smallest supported is {smallest_supported:g}"
        )
        self.fmr = fmr
        self.smallest_supported = smallest_supported


class ModelMismatchError(FacemarginError):
    """Embeddings of two different models cannot be compared."""


class IndexingError(FacemarginError):
    """A gallery index was asked for something impossible."""


class DuplicateIdError(IndexingError):
    """An id that is already in the index was added again."""


class UnknownIdError(IndexingError):
    """An id that is not in the index was asked for."""


class IndexDroppedError(IndexingError):
    """An index that somebody dropped since it was opened was asked for something."""


class IndexUnavailableError(FacemarginError):
    """A search engine outside this process does not answer; the next call tries again."""
