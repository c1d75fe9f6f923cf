"""What a data format is: it recognises a path, reads it as labelled pictures, and writes pictures as they come."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from facemargin.errors import DataError
from training.data.pictures import LabelledImages

_SIGNATURES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"BM": ".bmp"}


class Entry(NamedTuple):
    """A picture to be written.

    Attributes:
        label: place of its person in the list of people.
        name: what its source calls it, with or without a suffix.
        data: the encoded bytes.
        size: (height, width) in pixels.
    """

    label: int
    name: str
    data: bytes
    size: tuple[int, int]

    @property
    def suffix(self) -> str:
        """File name ending that its first bytes stand for."""
        return next(suffix for start, suffix in _SIGNATURES.items() if self.data.startswith(start))

    @property
    def stem(self) -> str:
        """Its name without the ending of a picture."""
        return self.name.removesuffix(Path(self.name).suffix) if has_suffix(self.name) else self.name


class Format(Protocol):
    """One way to store labelled pictures; `training.data.formats.FORMATS` lists them.

    Attributes:
        grouped: whether the pictures of a person must come one after another when it is written.
    """

    @property
    def grouped(self) -> bool:
        """See the class."""

    def recognises(self, path: Path) -> bool:
        """Whether a path looks like this format, by its name or by what is in the folder."""

    def read(self, path: Path, *, root: Path | None = None) -> LabelledImages:
        """The pictures with their labels, everyone in it, without reading the pictures themselves.

        Args:
            path: file or folder.
            root: folder that the paths inside are relative to, for formats that hold paths.

        Raises:
            DataError: not this format, or damaged.
        """

    def outputs(self, target: Path) -> tuple[Path, ...]:
        """Every file and folder that writing `target` may leave, the one that completes it last.

        Raises:
            DataError: a target that this format cannot be written to.
        """

    def write(self, target: Path, people: Sequence[str], entries: Iterable[Entry], *, shard_pictures: int) -> None:
        """Write pictures, byte for byte; the caller sees to it that a half-written target is never seen.

        Args:
            target: file or folder.
            people: names, which the labels of the entries point into.
            entries: the pictures.
            shard_pictures: pictures a file, for formats of several files.

        Raises:
            DataError: something that this format cannot hold.
        """


def has_suffix(name: str) -> bool:
    """Whether a name ends like that of a picture."""
    return Path(name).suffix.lower() in (*_SIGNATURES.values(), ".jpeg")


def file_stem(name: str) -> str:
    """The name, where it is safe as one component of a path.

    Raises:
        DataError: empty, hidden, or with a separator or a control character in it.
    """
    if not name or name.startswith(".") or any(letter in "/\\" or ord(letter) < 32 for letter in name):
        raise DataError(f"{name!r} cannot be the name of a file or folder; rename it in the source")
    return name


def free_name(stem: str, taken: Callable[[str], bool]) -> str:
    """The stem, or with the lowest of -2, -3, … that is not taken."""
    name, number = stem, 1
    while taken(name):
        number += 1
        name = f"{stem}-{number}"
    return name
