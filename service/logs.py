"""The log of a service: lines for people at a terminal, JSON for machines, each with the id of its request.

Owns the form of a line. What is said is everybody's own business, within this rule: no names, no images, no embeddings,
no query strings, no paths with their parameters, no keys.
"""

import logging
import sys
import time
from typing import Final, Literal

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from service.current import current

LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"
_FIELDS: Final = ("asctime", "levelname", "name", "message", "request_id")
_NAMES: Final = {"asctime": "time", "levelname": "level", "name": "logger"}
_COLOURED: Final = "color_message"  # uvicorn's, for terminals
_NOWHERE: Final = "-"


class RequestIds(logging.Filter):
    """Gives every line the id of the request that it was written for, whoever wrote it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add it; every line passes."""
        request = current()
        record.request_id = request.id if request is not None else _NOWHERE
        return True


def configure(log_format: LogFormat, level: LogLevel) -> None:
    """Log to stderr in the given form, uvicorn's lines and Python's warnings included.

    A process that has arranged its logging already keeps it.

    Args:
        log_format: ``auto`` is text where stderr is a terminal, JSON otherwise.
        level: the least level.
    """
    handler = logging.StreamHandler()
    handler.addFilter(RequestIds())
    handler.setFormatter(formatter(log_format))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)


def formatter(log_format: LogFormat) -> logging.Formatter:
    """The formatter of that name; it expects records that passed `RequestIds`."""
    if log_format == "text" or (log_format == "auto" and sys.stderr.isatty()):
        return logging.Formatter(_TEXT)
    made = JsonFormatter(_FIELDS, rename_fields=_NAMES, reserved_attrs=[*RESERVED_ATTRS, _COLOURED])
    made.default_time_format, made.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
    made.converter = _utc
    return made


def _utc(seconds: float | None) -> time.struct_time:
    return time.gmtime(seconds)
