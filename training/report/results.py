"""What a run of a comparison leaves in its folder: ``result.json`` where it was measured, ``failure.json`` where it
diverged or could not be exported. Either is all that the report needs of it.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from facemargin.errors import DataError
from training.config import explain
from training.data.pairs import Pairs
from training.evaluation_report import EvaluationReport
from training.whole_file import write_whole

RESULT_NAME = "result.json"
FAILURE_NAME = "failure.json"

_RECORD = ConfigDict(frozen=True, extra="forbid")
_MOST_POINTS = 200

_Record = TypeVar("_Record", bound=BaseModel)


class Cost(BaseModel):
    """What a run took.

    Attributes:
        step_ms: lower quartile, median and upper quartile of the time of a step, in ms, over the last 1,000 steps.
        images_per_second: over the whole training loop.
        peak_memory_bytes: of the process, or of the GPU where ``device`` is one.
        device: "cpu" or "cuda".
        backbone_parameters, head_parameters: how many numbers each has, frozen parts included.
    """

    model_config = _RECORD

    step_ms: tuple[float, float, float] | None = None
    images_per_second: float
    peak_memory_bytes: int | None = None
    device: Literal["cpu", "cuda"]
    backbone_parameters: int
    head_parameters: int


class TrainingData(BaseModel):
    """The training set: its size, its protocol, and the SHA-256 over people, file names and labels."""

    model_config = _RECORD

    protocol: str
    people: int
    images: int
    sha256: str


class PairPeople(BaseModel):
    """The people of each pair by number, on one and on the other side; numbers, so that no name is passed on."""

    model_config = _RECORD

    first: tuple[int, ...]
    second: tuple[int, ...]

    @classmethod
    def of(cls, pairs: Pairs) -> "PairPeople":
        """The people of a protocol's pairs, numbered in the order of their names."""
        number = {name: k for k, name in enumerate(pairs.people())}
        return cls(
            first=tuple(number[photo.name] for photo in pairs.first),
            second=tuple(number[photo.name] for photo in pairs.second),
        )


class Variant(BaseModel):
    """Cosines of the validation pairs, with or without averaged weights and the mirrored crop."""

    model_config = _RECORD

    average: bool
    flip_sum: bool
    similarity: tuple[float, ...]


class VariantScores(BaseModel):
    """What averaging and the mirrored crop change, on the validation pairs.

    Attributes:
        protocol: which pairs, in words.
        average, flip_sum: as the run is configured, which is what its test measures.
        same, group: of each pair; ``group`` is the fold, or the half where there is one fold.
        people: of each pair.
        variants: the cosines.
    """

    model_config = _RECORD

    protocol: str
    average: bool
    flip_sum: bool
    same: tuple[bool, ...]
    group: tuple[int, ...]
    people: PairPeople
    variants: tuple[Variant, ...]

    def similarity(self, *, average: bool, flip_sum: bool) -> tuple[float, ...] | None:
        """Cosines of a variant, if it was measured."""
        wanted = (average, flip_sum)
        return next((v.similarity for v in self.variants if (v.average, v.flip_sum) == wanted), None)


class CentreAngles(BaseModel):
    """Angles in radians between training embeddings and class centres, over a sample of the training images.

    Attributes:
        own: to the mean direction of the other sampled images of the same person.
        nearest_other: to the nearest mean direction of another sampled person.
        people: how many people the sample has.
    """

    model_config = _RECORD

    own: tuple[float, ...]
    nearest_other: tuple[float, ...]
    people: int


class LossCurve(BaseModel):
    """The loss trace, averaged over at most 200 equal parts of the run; ``step`` is the last of each part."""

    model_config = _RECORD

    step: tuple[int, ...]
    loss: tuple[float, ...]


class HeadResult(BaseModel):
    """What one head reached with one seed.

    Attributes:
        head, partition, seed: which run.
        epochs, steps, images: its length; images are those trained on, with repetition.
        minutes: time in the training loop.
        loss: of the last step.
        hardware, precision: what it ran on.
        validation: figures of the last validation (fold 5 of ``lfw-open``).
        test: the report on the test pairs.
        people: of each test pair; None in results of earlier versions, whose intervals cannot be made again.
        variants: None where the recipe has no validation pairs.
        angles: None where nobody in the training set has two images.
        curve: the loss trace.
        annealing: λ schedule of heads that have one.
        cost: time, memory, parameters.
        data: the training set.
        recipe: the resolved config but for head, partition, seed and output.
        command: as it was called.
        finished_at: ISO 8601, UTC.
        versions: of Python and the packages that the figures depend on.
    """

    model_config = _RECORD

    head: str
    partition: str = "dense"
    seed: int
    epochs: int
    steps: int
    images: int
    minutes: float
    loss: float | None
    hardware: str
    precision: str
    validation: dict[str, float]
    test: EvaluationReport
    people: PairPeople | None = None
    variants: VariantScores | None = None
    angles: CentreAngles | None = None
    curve: LossCurve | None = None
    annealing: dict[str, float] | None = None
    cost: Cost | None = None
    data: TrainingData | None = None
    recipe: dict[str, Any] = {}
    command: str = ""
    finished_at: str = ""
    versions: dict[str, str] = {}


class FailedRun(BaseModel):
    """A run without a result.

    Attributes:
        head, partition, seed: which run.
        step: optimizer step at which the loss was no longer finite; None where training ended and the export failed.
        failure: one line for tables, such as ``diverged at step 12``.
        advice: the whole message.
    """

    model_config = _RECORD

    head: str
    partition: str
    seed: int
    step: int | None
    failure: str
    advice: str


Run = HeadResult | FailedRun


def save(record: BaseModel, path: Path) -> None:
    """Write a result or failure; the file is whole or not there."""
    write_whole(path, record.model_dump_json(indent=1))


def load(kind: type[_Record], path: Path) -> _Record | None:
    """The record at a path; None where there is none, or only a torn one, whose run is then measured again.

    Raises:
        DataError: a whole file that is no such record.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        if any(problem["type"] == "json_invalid" for problem in error.errors()):
            return None
        raise DataError(f"{path} is of another version of facemargin: {explain(error)}; delete it") from error


def read_curve(trace: Path) -> LossCurve | None:
    """The thinned loss trace of a run's ``loss.csv``; None where it has no step."""
    try:
        lines = trace.read_text(encoding="utf-8").splitlines()[1:]
    except FileNotFoundError:
        return None
    values = [line.split(",") for line in lines if re.fullmatch(r"[^,]+,[^,]+", line)]  # a skipped step has no loss
    if not values:
        return None
    steps, losses = (np.array(column, dtype=np.float64) for column in zip(*values, strict=True))
    parts = np.array_split(np.arange(steps.size), min(_MOST_POINTS, steps.size))
    return LossCurve(
        step=tuple(int(steps[part[-1]]) for part in parts),
        loss=tuple(float(f"{losses[part].mean():.6g}") for part in parts),
    )


def rounded(values: ArrayLike) -> tuple[float, ...]:
    """Numbers with seven significant digits, all that a float32 has."""
    numbers: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    return tuple(float(f"{number:.7g}") for number in numbers)


def finished(runs: Sequence[Run]) -> list[HeadResult]:
    """The runs that have a result."""
    return [run for run in runs if isinstance(run, HeadResult)]


def brief(run: Run) -> dict[str, Any]:
    """A run as JSON values, without what has a number a pair or an image, and without the recipe."""
    bulk = ("people", "variants", "angles", "curve", "recipe")
    record = {key: value for key, value in run.model_dump(mode="json").items() if key not in bulk}
    if isinstance(run, HeadResult):
        record["test"] = run.test.model_dump(mode="json", exclude={"similarity", "same", "fold"})
    return record
