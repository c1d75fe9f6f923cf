"""The output folder: what is in it, which parts are complete, and when the whole is.

    OUT/parts/part-000000.parquet     the faces of a part (with --to-format npy without their vectors)
    OUT/vectors/part-000000.npy       their vectors, with --to-format npy
    OUT/progress/plan.json            what is made here; the first process writes it, the others compare
    OUT/progress/part-000000.json     written after the files of a part: it is complete
    OUT/errors.jsonl                  pictures without a face, once all parts are complete
    OUT/embeddings.json               the manifest, last of all

Every file is written beside its place and renamed, so that a kill or a full disk leaves whole files only.
"""

import hashlib
import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from facemargin.errors import ConfigError, DataError
from training.bulk.plan import Plan
from training.bulk.reading import Failure
from training.whole_file import write_whole

MANIFEST = "embeddings.json"
ERRORS = "errors.jsonl"
PARTS, VECTORS, PROGRESS = "parts", "vectors", "progress"
_PLAN = "plan.json"
_ADVICE = "free some space, or mend the folder, and run the same command again: complete parts are kept"


class PartFile(BaseModel):
    """A file of a part: its path below the output folder, and what is in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    bytes: int
    sha256: str


class Part(BaseModel):
    """A complete part.

    Attributes:
        number: from 0.
        pictures: that were looked at.
        faces: rows.
        files: of the part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    pictures: int
    faces: int
    files: tuple[PartFile, ...]


class PartRecord(Part):
    """What says that a part is complete; with the pictures without a face."""

    failures: tuple[Failure, ...]


class Manifest(BaseModel):
    """What ``embeddings.json`` says; it holds no times, so that equal plans give equal manifests.

    Attributes:
        plan: what was asked for.
        pictures: looked at.
        faces: embedded.
        failed: pictures without an embedding, by status.
        parts: in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Plan
    pictures: int
    faces: int
    failed: dict[str, int]
    parts: tuple[Part, ...]


class Output:
    """An output folder that this plan may fill; see `open_output`."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan

    def record(self, number: int) -> PartRecord | None:
        """The record of a part; None where it is not complete, or its files are not those that it tells of."""
        path = self._record_path(number)
        try:
            record = PartRecord.model_validate_json(path.read_bytes())
            whole = all((self.folder / file.path).stat().st_size == file.bytes for file in record.files)
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise DataError(f"{path} cannot be read ({error}); remove it to have its part made again") from error
        return record if whole else None

    def write(self, number: int, files: Mapping[str, bytes], *, faces: int, failures: Sequence[Failure]) -> PartRecord:
        """Write the files of a part, by their suffix, and then its record.

        Raises:
            DataError: a file cannot be written; nothing half-written is left.
        """
        written = []
        for suffix, content in files.items():
            name = f"{VECTORS if suffix == '.npy' else PARTS}/{_stem(number)}{suffix}"
            self._write(self.folder / name, content)
            written.append(PartFile(path=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()))
        record = PartRecord(
            number=number,
            pictures=len(self.plan.rows(number)),
            faces=faces,
            files=tuple(written),
            failures=tuple(failures),
        )
        self._write(self._record_path(number), record.model_dump_json(indent=1).encode())
        return record

    def missing(self) -> int:
        """Parts that are not complete."""
        return sum(self.record(number) is None for number in range(self.plan.parts))

    def finish(self) -> Manifest | None:
        """Write the manifest and the list of errors, if all parts are complete.

        Any process may do so, also several at a time: they write the same.
        """
        parts, failed, lines = [], Counter[str](), bytearray()
        for number in range(self.plan.parts):
            record = self.record(number)
            if record is None:
                return None
            parts.append(Part.model_validate(record.model_dump(exclude={"failures"})))
            failed.update(failure.status for failure in record.failures)
            for failure in record.failures:
                lines += failure.model_dump_json().encode() + b"\n"
        manifest = Manifest(
            plan=self.plan,
            pictures=self.plan.pictures,
            faces=sum(part.faces for part in parts),
            failed=dict(sorted(failed.items())),
            parts=tuple(parts),
        )
        self._write(self.folder / ERRORS, bytes(lines), shared=True)
        self._write(self.folder / MANIFEST, manifest.model_dump_json(indent=1).encode() + b"\n", shared=True)
        return manifest

    def sweep(self, numbers: Sequence[int]) -> None:
        """Remove what a killed process left of files of these parts that it had not finished."""
        stems = {_stem(number) for number in numbers}
        for folder in (PARTS, VECTORS, PROGRESS):
            for path in (self.folder / folder).glob(".part-*.partial"):
                if path.name.split(".")[1] in stems:
                    path.unlink(missing_ok=True)

    def _record_path(self, number: int) -> Path:
        return self.folder / PROGRESS / f"{_stem(number)}.json"

    def _write(self, path: Path, content: bytes, *, shared: bool = False) -> None:
        """Write a whole file; a shared one may be written by several processes at a time."""
        try:
            path.parent.mkdir(exist_ok=True)
            if shared:
                _beside(path, content, Path.replace)
            else:
                write_whole(path, content)
        except OSError as error:
            raise DataError(f"{path} cannot be written ({error.strerror or error}); {_ADVICE}") from error


def open_output(folder: Path, plan: Plan) -> Output:
    """Take a folder for a plan: a new or empty one, or one that an equal plan has begun.

    Raises:
        ConfigError: a folder of another plan, or with other things in it.
        DataError: it cannot be written or its plan cannot be read.
    """
    place = folder / PROGRESS / _PLAN
    try:
        if not place.is_file():
            others = sorted(path.name for path in folder.iterdir() if path.name != PROGRESS) if folder.exists() else []
            if others and not place.is_file():  # another process may have begun between the two looks
                raise ConfigError(f"{folder} holds {others[0]} and no {PROGRESS}/{_PLAN}; name an empty folder")
            place.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # the first process counts
                _beside(place, plan.model_dump_json(indent=1).encode() + b"\n", os.link)
        begun = Plan.model_validate_json(place.read_bytes())
    except OSError as error:
        raise DataError(f"{folder} cannot take the output: {error.strerror or error}") from error
    except ValidationError as error:
        raise DataError(f"{place} is no plan that can be gone on with; name another folder") from error
    if begun != plan:
        raise ConfigError(
            f"{folder} was begun otherwise: now {'; '.join(plan.differences(begun))}; name another folder, or go on "
            "as it was begun"
        )
    return Output(folder, plan)


def _beside(path: Path, content: bytes, take_name: Callable[[Path, Path], object]) -> None:
    """Write a file under a name that no other process on any machine has, then give it its own.

    Containers tend to have the same process number, so that it cannot be told apart by that.
    """
    own = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_whole(own, content)
        take_name(own, path)
    finally:
        own.unlink(missing_ok=True)


def _stem(number: int) -> str:
    return f"part-{number:06d}"
