"""What a run is to make, whatever process makes it: the model, the sources, the options, and the parts these make.

Two runs with equal plans make equal parts; a folder is never filled by runs of different plans.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from training.bulk.sources import Sources

Faces = Literal["largest", "all", "one"]
Dtype = Literal["float32", "float16"]
FileFormat = Literal["parquet", "npy"]


class Options(BaseModel):
    """What decides which vectors are made, to the last bit, and how they are stored.

    Attributes:
        aligned: the pictures are crops by the model's template.
        faces: which faces of a photograph; None for crops.
        detector_sha256: of the detector's file; None for crops.
        score_threshold: lowest confidence of a detection; None for crops.
        batch: pictures that go through the network together.
        provider: where it runs.
        part_pictures: pictures of a part.
        to_format: files of a part.
        dtype: of the stored vectors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    aligned: bool
    faces: Faces | None
    detector_sha256: str | None
    score_threshold: float | None
    batch: int
    provider: Literal["cpu", "cuda"]
    part_pictures: int
    to_format: FileFormat
    dtype: Dtype


class PlannedSource(BaseModel):
    """A source as it was found; see `training.bulk.sources.Source`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    format: str
    pictures: int
    fingerprint: str


class Plan(BaseModel):
    """What is to be made.

    Attributes:
        format_version: of the output folder.
        model_id: of the bundle.
        embedding_dim: numbers of a vector.
        sources: in order.
        options: of the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    model_id: str
    embedding_dim: int
    sources: tuple[PlannedSource, ...]
    options: Options

    @property
    def pictures(self) -> int:
        """Pictures of all sources."""
        return sum(source.pictures for source in self.sources)

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.pictures // self.options.part_pictures)

    def rows(self, part: int) -> range:
        """The pictures of a part."""
        first = part * self.options.part_pictures
        return range(first, min(first + self.options.part_pictures, self.pictures))

    def batches(self, part: int) -> list[range]:
        """The pictures of a part, batch by batch: no batch holds pictures of two parts."""
        rows, size = self.rows(part), self.options.batch
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def differences(self, other: "Plan") -> list[str]:
        """What another plan has otherwise, in words: ``batch 16 (there 32)``."""
        return list(_differences(self.model_dump(), other.model_dump()))


def planned(sources: Sources) -> tuple[PlannedSource, ...]:
    """The sources as a plan holds them."""
    return tuple(
        PlannedSource(name=part.name, format=part.format, pictures=len(part), fingerprint=part.fingerprint())
        for part in sources.parts
    )


def _differences(mine: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    for key, value in mine.items():
        other = theirs[key]
        if value == other:
            continue
        if isinstance(value, dict):
            yield from _differences(value, other)
        elif key == "sources":
            yield _sources_differ(value, other)
        else:
            yield f"{key} {value} (there {other})"


def _sources_differ(mine: tuple[dict[str, Any], ...], theirs: tuple[dict[str, Any], ...]) -> str:
    names = [source["name"] for source in mine], [source["name"] for source in theirs]
    if names[0] != names[1]:
        return f"sources {', '.join(names[0])} (there {', '.join(names[1])})"
    changed = [source["name"] for source, other in zip(mine, theirs, strict=True) if source != other]
    return f"the pictures of {', '.join(changed)}, which are not those of then"
