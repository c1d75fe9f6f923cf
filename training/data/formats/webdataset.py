"""WebDataset shards: tar files in which the files of one sample share the name up to the first dot.

A sample is a picture (``.jpg``, ``.jpeg``, ``.png``, ``.webp``, ``.bmp``) with ``.cls``, a number, or ``.json``, an
object with ``person`` or ``label``; files of other kinds are passed over. Nothing is ever extracted: a picture is a
range of bytes of its tar file, so the tar must not be compressed.
"""

import io
import json
import re
import tarfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from facemargin.errors import DataError
from facemargin.preprocessing import IMAGE_SUFFIXES
from training.data.formats.base import Entry, file_stem, free_name, has_suffix
from training.data.formats.columns import PersonColumn, TextColumn, Texts, gaps_of
from training.data.formats.names import FILE_NAME, names_of, write_names
from training.data.pictures import LabelledImages, LazyPictures, Picture

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_BLOCK = 512
_LONGEST_LABEL = 64 * 1024  # bytes of a .cls or .json that is read


class _Sample(NamedTuple):
    """A picture's place in its tar, and its label as text."""

    name: str
    offset: int
    length: int
    person: str


@dataclass(frozen=True, eq=False)
class TarPictures(LazyPictures):
    """Pictures in tar files.

    Attributes:
        shards: the files.
        ends: int64 (shards,), number of pictures up to the end of each.
        names: of the members.
        offsets, lengths: int64 (N,), in bytes.
    """

    shards: tuple[Path, ...]
    ends: NDArray[np.int64]
    names: Texts
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.offsets)

    def name(self, index: int) -> str:
        """The member's name without its folder."""
        return self.names[index].rpartition("/")[2]

    def key(self, index: int) -> str:
        """The shard's name and the member's."""
        return f"{self._shard(index).name}/{self.names[index]}"

    def picture(self, index: int) -> Picture:
        """A range of bytes of its shard."""
        place = int(self.offsets[index]), int(self.lengths[index])
        return Picture(self.name(index), self._shard(index), (place,))

    def _shard(self, index: int) -> Path:
        return self.shards[int(np.searchsorted(self.ends, index, side="right"))]


class WebDataset:
    """The format ``webdataset``."""

    grouped = False

    def __init__(self, *, labelled: bool = True) -> None:
        """With `labelled` a sample without a label is refused; else its person is called ``""``."""
        self.labelled = labelled

    def recognises(self, path: Path) -> bool:
        """A ``.tar`` file, a pattern of them with braces, or a folder of them."""
        names = [".tar", ".tar.gz", ".tgz"]
        return any(path.name.endswith(name) for name in names) or (path.is_dir() and any(path.glob("*.tar")))

    def read(self, path: Path, *, root: Path | None = None) -> LabelledImages:
        """See `Format.read`; every tar header is read once."""
        shards, persons = shards_of(path), PersonColumn()
        names, columns, ends = TextColumn(), (array("q"), array("q")), []
        console = Console(stderr=True)
        for shard in track(shards, "shards", console=console, transient=True, disable=not console.is_terminal):
            for sample in _samples(shard, labelled=self.labelled):
                names.add(sample.name)
                columns[0].append(sample.offset)
                columns[1].append(sample.length)
                persons.add(sample.person)
            ends.append(len(names))
        people, labels = persons.finish(path)
        gaps = gaps_of(people)
        if (shards[0].parent / FILE_NAME).is_file() and all(name.isdecimal() for name in people):
            people = names_of(shards[0].parent, [int(name) for name in people])
        offsets, lengths = (np.array(column, dtype=np.int64) for column in columns)
        pictures = TarPictures(shards, np.array(ends, dtype=np.int64), names.finish(), offsets, lengths)
        return LabelledImages(pictures, labels, people, gaps=gaps)

    def outputs(self, target: Path) -> tuple[Path, ...]:
        """See `Format.outputs`; one ``.tar``, or a folder of shards."""
        if _BRACES.search(target.name):
            raise DataError(f"name a folder for the shards, or one .tar, instead of {target}")
        if target.suffix != ".tar":
            return (target,)
        others = sorted(path.name for path in target.parent.glob("*.tar") if path.name != target.name)
        if others:
            raise DataError(f"{target.parent} holds {others[0]} already; write to a folder of its own")
        return (target.with_name(FILE_NAME), target)

    def write(self, target: Path, people: Sequence[str], entries: Iterable[Entry], *, shard_pictures: int) -> None:
        """See `Format.write`; members are ``person/name.jpg`` and ``person/name.cls``."""
        single = target.suffix == ".tar"
        folder = target.parent if single else target
        folder.mkdir(exist_ok=True)
        for number, shard in groupby(enumerate(entries), lambda item: 0 if single else item[0] // shard_pictures):
            path = target if single else folder / f"shard-{number:06d}.tar"
            _write_shard(path, people, (entry for _, entry in shard))
        write_names(folder, people)


def shards_of(path: Path) -> tuple[Path, ...]:
    """The tar files of a path: itself, those that braces stand for, or those in the folder.

    Raises:
        DataError: none, or one of them is missing.
    """
    if path.is_dir():
        return tuple(sorted(path.glob("*.tar")))
    match = _BRACES.search(path.name)
    if match is None:
        return (path,)
    first, last = (int(number) for number in match.groups())
    if last < first or last - first >= 10**6:
        raise DataError(f"{path}: {match[0]} is no range of shards")
    start, stop = match.span()
    names = [f"{path.name[:start]}{n:0{len(match[1])}d}{path.name[stop:]}" for n in range(first, last + 1)]
    shards = tuple(path.with_name(name) for name in names)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of the {len(shards)} shards of {path} are missing: {', '.join(missing[:5])}")
    return shards


def _samples(shard: Path, *, labelled: bool) -> Iterator[_Sample]:
    """The samples of a tar file, in order."""
    seen: set[str] = set()
    try:
        with shard.open("rb") as file:
            _refuse_compressed(shard, file.read(2))
            file.seek(0)
            with tarfile.TarFile(fileobj=file) as tar:
                for key, members in groupby(_files(shard, file, tar), _key):
                    if key in seen:
                        raise DataError(f"{shard}: the files of sample '{key}' are not next to each other")
                    seen.add(key)
                    sample = _sample(shard, file, key, list(members), labelled=labelled)
                    if sample:
                        yield sample
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{shard} is truncated or no tar file: {error}") from error


def _files(shard: Path, file: BinaryIO, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The plain files of a tar, up to a true end; hidden ones are no part of a sample."""
    for member in tar:
        if member.isdir():
            continue
        if not member.isfile() or member.issparse():
            raise DataError(f"{shard}: '{member.name}' is a link, sparse or special; only plain files can be read")
        if not member.name.rpartition("/")[2].startswith("."):
            yield member
    _require_end(shard, file, tar.offset)


def _key(member: tarfile.TarInfo) -> str:
    """Folder and name up to the first dot."""
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _sample(shard: Path, file: BinaryIO, key: str, members: list[tarfile.TarInfo], *, labelled: bool) -> _Sample | None:
    """The picture and its label; None for files that are neither."""
    kinds = {member.name[len(key) :].lower(): member for member in members}
    pictures = [member for kind, member in kinds.items() if kind in IMAGE_SUFFIXES]
    told = [kind for kind in (".json", ".cls") if kind in kinds]
    if not pictures and not told:
        return None
    if len(pictures) != 1:
        found = ", ".join(member.name for member in pictures) or "none"
        raise DataError(f"{shard}: sample '{key}' should have one picture, it has {found}")
    persons = [_person(shard, kinds[kind], _content(shard, file, kinds[kind])) for kind in told]
    person = next((person for person in persons if person is not None), None if labelled else "")
    if person is None:
        raise DataError(f"{shard}: sample '{key}' has no label: no .cls, and no .json with 'person' or 'label'")
    return _Sample(pictures[0].name, pictures[0].offset_data, pictures[0].size, person)


def _content(shard: Path, file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    if member.size > _LONGEST_LABEL:
        raise DataError(f"{shard}: {member.name} has {member.size:,} bytes, too many for a label")
    file.seek(member.offset_data)
    return file.read(member.size)


def _person(shard: Path, member: tarfile.TarInfo, content: bytes) -> str | None:
    """A number, or a name, as text; None where the file tells neither."""
    try:
        text = content.decode("utf-8").strip()
        if member.name.lower().endswith(".cls"):
            float(text)
            return text
        told = json.loads(text)
        person = told.get("person", told.get("label")) if isinstance(told, dict) else None
    except ValueError as error:
        raise DataError(f"{shard}: {member.name} is not a label: {error}") from error
    if person is not None and (isinstance(person, bool) or not isinstance(person, str | int | float) or person == ""):
        raise DataError(f"{shard}: {member.name} is not a label: {person!r}")
    return None if person is None else str(person)


def _refuse_compressed(shard: Path, start: bytes) -> None:
    kind = _COMPRESSED.get(start)
    if kind:
        raise DataError(f"{shard} is compressed with {kind}, so its pictures have no place in it; decompress it first")


def _require_end(shard: Path, file: BinaryIO, offset: int) -> None:
    """After the last file stands a block of zeros; tarfile takes damage after the first file for the end."""
    file.seek(offset)
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise DataError(f"{shard} is truncated or damaged: no end mark at byte {offset:,}, after its last file")


def _write_shard(path: Path, people: Sequence[str], entries: Iterable[Entry]) -> None:
    taken: set[str] = set()
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for entry in entries:
            stem = f"{file_stem(people[entry.label])}/{file_stem(entry.stem).replace('.', '_')}"
            key = free_name(stem, taken.__contains__)
            taken.add(key)
            suffix = Path(entry.name).suffix.lower() if has_suffix(entry.name) else entry.suffix
            _add(tar, key + suffix, entry.data)
            _add(tar, key + ".cls", str(entry.label).encode())
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every member it has written


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """One file; its times and owners are zero, so that equal pictures make equal bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
