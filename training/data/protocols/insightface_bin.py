"""InsightFace's ``.bin``: a pickle of two encoded pictures a pair, and a flag a pair. Read and written here.

``([picture, picture, …], [same, …])``: 2 P pictures as bytes or uint8 arrays of an encoded file, P flags. The pictures
are aligned crops by definition of the format. Folds are ten consecutive parts, as InsightFace cuts them. Who is in the
pictures is not told.

Source: the ``verification.py`` and ``lfw2pack.py`` of InsightFace's recognition code, by their behaviour.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from facemargin.errors import DataError
from facemargin.preprocessing import TEMPLATES
from training.data.pictures import Picture
from training.data.protocols.pair_set import PairSet, consecutive_folds
from training.data.protocols.restricted_pickle import plain, read_restricted
from training.data.protocols.source import Source
from training.whole_file import write_whole

SUFFIX = ".bin"
_HEAD = 40  # bytes of an array's pickle that hold the name of its module


@dataclass(frozen=True, eq=False)
class BinContent:
    """What is in a ``.bin``.

    Attributes:
        pictures: 2 P encoded pictures; those of pair k are 2k and 2k + 1.
        same: bool (P,), True where both show one person.
    """

    pictures: tuple[bytes, ...]
    same: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class HeldPicture(Picture):
    """A picture whose bytes are in memory, because a pickle need not hold them in one piece."""

    data: bytes = b""

    def read(self) -> bytes:
        """The encoded bytes."""
        return self.data


def load_bin(source: Source) -> PairSet:
    """Read a ``.bin``; equal pictures (LFW's occur in several pairs) are held once.

    Raises:
        DataError: as in `read_bin`, or folds that there are not.
    """
    path = source.images
    content = read_bin(path)
    number: dict[bytes, int] = {}
    rows = np.array([number.setdefault(picture, len(number)) for picture in content.pictures], dtype=np.int64)
    names = [f"picture {place}" for place in np.unique(rows, return_index=True)[1]]
    pairs = PairSet(
        name=path.name,
        photos=tuple(names),
        pictures=tuple(HeldPicture(name, path, (), b"", data) for name, data in zip(names, number, strict=True)),
        first=rows[::2],
        second=rows[1::2],
        same=content.same,
        fold=consecutive_folds(content.same.size),
        people=None,
        aligned=True,
    )
    return pairs if source.folds is None else pairs.select(source.folds)


def read_bin(path: Path) -> BinContent:
    """The pictures and flags of a ``.bin``, whichever version of Python and NumPy wrote it.

    Raises:
        DataError: a file that cannot be read, anything in the pickle but lists, bytes, bools and arrays (nothing of it
            is run), or pictures and flags that do not belong together.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        found = read_restricted(data)
        if not isinstance(found, list | tuple) or len(found) != 2:
            raise DataError("it holds no (pictures, flags)")
        pictures, flags = (_sequence(part) for part in found)
        made: dict[int, bytes] = {}  # an array that stands in many places of the list is copied once
        content = BinContent(
            tuple(made.get(id(p)) or made.setdefault(id(p), _encoded(k, p)) for k, p in enumerate(pictures)),
            np.array([_flag(k, flag) for k, flag in enumerate(flags)], dtype=np.bool_),
        )
    except DataError as error:
        raise DataError(f"{path} is no evaluation set of InsightFace: {error}") from error
    if len(content.pictures) != 2 * content.same.size or not content.same.size:
        raise DataError(
            f"{path} holds {len(content.pictures)} pictures and {content.same.size} flags; "
            "there must be two pictures for each flag"
        )
    return content


def write_bin(
    path: Path, pictures: Sequence[bytes], same: Sequence[bool], *, protocol: int = 4, as_arrays: bool = False
) -> None:
    """Write a ``.bin`` as InsightFace does: a pickle of a list of bytes and a list of bools.

    Args:
        path: the file; it is whole or not there.
        pictures: 2 P encoded pictures; those of pair k are 2k and 2k + 1.
        same: P flags.
        protocol: of the pickle, 3 to 5; 4 is read by Python from 3.4 on.
        as_arrays: the older form, a uint8 column of NumPy 1 for each picture; only under protocol 3.

    Raises:
        DataError: the file cannot be written.
        ValueError: not two pictures a flag, a picture that is no bytes or empty, or another pickle protocol.
    """
    if len(pictures) != 2 * len(same) or not len(same):
        raise ValueError(f"pictures must be two for each of the {len(same)} flags, got {len(pictures)}")
    if not all(isinstance(picture, bytes) and picture for picture in pictures):
        raise ValueError("pictures must be bytes, and not empty")
    if protocol not in (3, 4, 5):
        raise ValueError(f"protocol must be 3, 4 or 5, got {protocol}")
    if as_arrays and protocol != 3:
        raise ValueError(f"protocol must be 3 for arrays, got {protocol}")
    held = [np.frombuffer(bytearray(p), np.uint8).reshape(-1, 1) for p in pictures] if as_arrays else list(pictures)
    data = pickle.dumps((held, [bool(flag) for flag in same]), protocol=protocol)
    # The one place that names NumPy's module comes before the first picture; NumPy 2 reads the name of NumPy 1 too.
    if as_arrays:
        data = data[:_HEAD].replace(b"numpy._core.", b"numpy.core.") + data[_HEAD:]
    try:
        write_whole(path, data)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


class WrittenBin(BaseModel):
    """What was written into a ``.bin``.

    Attributes:
        pairs, genuine_pairs, pictures: counts; a picture of several pairs counts once.
        folds_kept: a reader, which cuts ten consecutive parts, will find the folds of the protocol again.
        missing: crops that were not found.
        pairs_left_out: pairs left out because of them, or because no face was found when the folder was aligned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: int
    genuine_pairs: int
    pictures: int
    folds_kept: bool
    missing: tuple[str, ...]
    pairs_left_out: int

    @property
    def text(self) -> str:
        """One line."""
        gone = (
            f"; LEFT OUT: {self.pairs_left_out:,} pairs without a crop of each picture" if self.pairs_left_out else ""
        )
        folds = "" if self.folds_kept else "; its ten equal parts are not the folds of the list"
        return f"{self.pairs:,} pairs ({self.genuine_pairs:,} genuine) of {self.pictures:,} pictures{gone}{folds}"


def convert_to_bin(pairs: PairSet, path: Path) -> WrittenBin:
    """Write the pairs of any protocol as a ``.bin``, fold by fold, with the pictures' files as they are.

    Pairs of a photograph in which no face was found cannot be in a ``.bin``: they are left out and counted.

    Raises:
        DataError: a picture that cannot be read or is no aligned crop, no pair at all, or a file that cannot be
            written.
        ImageError: a picture that does not decode.
    """
    pairs = pairs.without([k for k, picture in enumerate(pairs.pictures) if picture is None])
    if not len(pairs):
        raise DataError(f"no pair of {pairs.name} is left to write into {path}")
    encoded = [_crop(picture) for picture in pairs.pictures if picture is not None]
    order = np.argsort(pairs.fold, kind="stable")
    rows = np.stack([pairs.first, pairs.second], axis=1)[order].ravel()
    write_bin(path, [encoded[row] for row in rows], pairs.same[order].tolist())
    folds = np.unique(pairs.fold[order], return_inverse=True)[1] + 1
    return WrittenBin(
        pairs=len(pairs),
        genuine_pairs=int(pairs.same.sum()),
        pictures=len(encoded),
        folds_kept=bool((folds == consecutive_folds(len(pairs))).all()),
        missing=pairs.missing,
        pairs_left_out=pairs.pairs_left_out,
    )


def is_bin(source: Source) -> bool:
    """Whether the pictures are one ``.bin`` file."""
    return source.images.suffix == SUFFIX and not source.images.is_dir()


def _crop(picture: Picture) -> bytes:
    """Its bytes, once they are known to be a crop of a template's size."""
    size = picture.decode().shape[:2]
    if size not in {template.size for template in TEMPLATES.values()}:
        known = " or ".join(f"{height}x{width}" for height, width in {t.size: None for t in TEMPLATES.values()})
        raise DataError(f"{picture} is {size[0]}x{size[1]}, no aligned crop of {known}; use facemargin data align")
    return picture.read()


def _sequence(part: object) -> Sequence[object]:
    part = plain(part)
    if isinstance(part, np.ndarray) and part.ndim == 1 and part.dtype == np.bool_:
        return list(part)
    if not isinstance(part, list | tuple):
        raise DataError("its pictures and its flags must be lists")
    return part


def _encoded(place: int, picture: object) -> bytes:
    picture = plain(picture)
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.size == max(picture.shape, default=0):
        return picture.tobytes()
    if not isinstance(picture, bytes | bytearray):
        raise DataError(f"picture {place} is no encoded picture (bytes, or a uint8 array of one row or column)")
    return bytes(picture)


def _flag(place: int, flag: object) -> bool:
    flag = plain(flag)
    if not isinstance(flag, bool | int | np.bool_) or flag not in (0, 1):
        raise DataError(f"flag {place} is no bool")
    return bool(flag)
