"""The console: a web page that the service serves itself. Files for a browser, with no build step."""

from importlib.resources import files
from typing import NamedTuple

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

PAGE = "index.html"


class Asset(NamedTuple):
    """A file of the console."""

    content: bytes
    media_type: str


def load_assets() -> dict[str, Asset]:
    """The files of the console by name, as they are in this package."""
    found = {}
    for file in files(__name__).iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in _MEDIA_TYPES:
            found[file.name] = Asset(file.read_bytes(), _MEDIA_TYPES[suffix])
    return found
