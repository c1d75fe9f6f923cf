"""The REST API of CompreFace, so that its clients work here unchanged; one place for the rest of the service to name.

Owns paths, fields, codes and the similarity scale of that API; everything behind them is what the native routes use.
"""

from service.compreface.detection import router as detection
from service.compreface.errors import ErrorForm, install
from service.compreface.faces import router as faces
from service.compreface.recognition import router as recognition
from service.compreface.subjects import router as subjects
from service.compreface.verification import router as verification

ROUTERS = (subjects, faces, recognition, detection, verification)

__all__ = ["ROUTERS", "ErrorForm", "install"]
