"""Formats of training data: one format a file; adding one is a file here and a line in `FORMATS`."""

from pathlib import Path

from facemargin.errors import ConfigError
from training.data.formats.base import Entry, Format
from training.data.formats.folder import Folder
from training.data.formats.listing import Listing
from training.data.formats.mnist_idx import MnistIdx
from training.data.formats.recordio import RecordIO
from training.data.formats.webdataset import WebDataset

FORMATS: dict[str, Format] = {
    "folder": Folder(),
    "recordio": RecordIO(),
    "webdataset": WebDataset(),
    "mnist-idx": MnistIdx(),
    "list": Listing(),
}
"""By name, in the order in which they are asked whether they recognise a path."""


def format_name(path: Path, name: str | None = None) -> str:
    """Which format a path has.

    Args:
        path: file or folder; it need not exist.
        name: the format, where the caller knows it.

    Returns:
        A key of `FORMATS`; ``folder`` for what nothing else recognises.

    Raises:
        ConfigError: an unknown `name`, or a file that no format recognises.
    """
    if name is not None:
        if name not in FORMATS:
            raise ConfigError(f"unknown data format '{name}'; known: {', '.join(FORMATS)}")
        return name
    found = next((key for key, candidate in FORMATS.items() if candidate.recognises(path)), None)
    if found is None and path.is_file():
        raise ConfigError(f"{path}: no data format is recognised by this name; name one of {', '.join(FORMATS)}")
    return found or "folder"


__all__ = ["FORMATS", "Entry", "Format", "format_name"]
