"""From paths and configs to the data sets and the preprocessing under examination.

Image folders are read leniently here: a person without a picture is a finding of the doctor, where training refuses it.
"""

import tomllib
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from facemargin.bundle import MANIFEST_NAME, load_bundle
from facemargin.doctor import Request
from facemargin.errors import CheckpointError, DataError
from facemargin.preprocessing import Preprocessing
from training.config import EvaluationConfig, TrainConfig, load_config
from training.data.folder import images_of, person_folders
from training.data.formats import format_name
from training.data.pairs import parse_folds, read_pairs
from training.data.pictures import LabelledImages, Picture
from training.data.protocols.insightface_bin import is_bin, load_bin
from training.data.protocols.pair_set import PairSet
from training.data.protocols.source import Source
from training.data.sources import label_people, read_source
from training.doctor.case import Case, DataSet, Role


def open_case(request: Request) -> Case:
    """Everything that a request names, opened but not read.

    Raises:
        ConfigError: a config that cannot be used.
        DataError: a data set that cannot be used.
        CheckpointError: a run to start from that cannot be read.
    """
    roles: list[tuple[Path, Role]] = [(path, "data") for path in request.data]
    roles += [(path, role) for path, role in ((request.train, "training"), (request.test, "test")) if path]  # type: ignore[misc]
    sets = [open_set(path, _set_name(role, path), role, request.sample) for path, role in roles]
    expected = request.bundle.manifest.preprocessing if request.bundle else None
    start = None
    if request.config is not None:
        config = load_config(request.config, {"output": "."} if _names_no_output(request.config) else None)
        sets += sets_of_config(config, request.sample)
        expected = config.preprocessing
        start = _start(config)
    return Case(tuple(sets), request.bundle, expected, start)


def _names_no_output(path: Path) -> bool:
    try:
        return "output" not in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False  # load_config says what is wrong


def _set_name(role: Role, path: Path) -> str:
    return path.name if role == "data" else f"{role} {path.name}"


def open_set(path: Path, name: str, role: Role, sample: int) -> DataSet:
    """A data set under examination; see `open_data`. A ``.bin`` does not tell who is in its pictures."""
    return DataSet(name, role, open_data(path), sample, tells_people=not is_bin(Source(images=path)))


def open_data(path: Path) -> LabelledImages:
    """The pictures of a data set in any format, or of an evaluation ``.bin``.

    Raises:
        ConfigError: a file of no known format.
        DataError: it does not exist, or is damaged.
    """
    if is_bin(Source(images=path)):
        return _of_pairs(load_bin(Source(images=path)))
    if not path.exists() and format_name(path) == "folder":
        raise DataError(f"the data set {path} does not exist")
    if format_name(path) == "folder":
        return _of_folder(path)
    return read_source(path)


def _of_folder(path: Path) -> LabelledImages:
    people = {person.name: images_of(person) for person in person_folders(path)}
    if not people:
        raise DataError(f"{path} has no folders; expected one folder a person with pictures inside")
    pictures = tuple(Picture.of_file(file) for files in people.values() for file in files)
    labels = np.repeat(np.arange(len(people), dtype=np.int64), [len(files) for files in people.values()])
    return LabelledImages(pictures, labels, tuple(people))


def _of_pairs(pairs: PairSet) -> LabelledImages:
    """The pictures of a protocol; where it tells no people, the groups that its genuine pairs make stand for them."""
    person: dict[int, str] = {}
    for numbers, names in zip((pairs.first, pairs.second), pairs.sides, strict=True):
        person.update(zip(numbers.tolist(), names, strict=True))
    present = [k for k in sorted(person) if pairs.pictures[k] is not None]
    people, labels = np.unique([person[k] for k in present], return_inverse=True)
    pictures = tuple(picture for k in present if (picture := pairs.pictures[k]) is not None)
    return LabelledImages(pictures, labels.astype(np.int64), tuple(map(str, people)))


def sets_of_config(config: TrainConfig, sample: int) -> list[DataSet]:
    """The training, validation and test sets of a run; a protocol's own people only.

    Raises:
        ConfigError: no training images are named.
        DataError: a set that cannot be used.
    """
    from training.trainer.images import training_images  # loads torch

    sets = [DataSet("training", "training", training_images(config), sample)]
    parts: tuple[tuple[Role, EvaluationConfig | None], ...] = (("validation", config.validation), ("test", config.test))
    return sets + [_evaluated(role, part, sample) for role, part in parts if part is not None]


def _evaluated(role: Role, part: EvaluationConfig, sample: int) -> DataSet:
    if part.pairs is None:
        return open_set(part.images, role, role, sample)
    pairs = read_pairs(part.pairs)
    chosen = pairs.select(parse_folds(part.folds)) if part.folds else pairs
    return DataSet(role, role, label_people([part.images], only=chosen.people()), sample)


def _start(config: TrainConfig) -> tuple[str, Preprocessing] | None:
    """The preprocessing of the bundle, run or checkpoint that a run starts from."""
    path = config.start_from
    if path is None:
        return None
    if (path / MANIFEST_NAME).is_file():
        return f"the bundle {path}", load_bundle(path).manifest.preprocessing
    from training.checkpoint import open_checkpoint  # loads torch

    try:
        values = open_checkpoint(path).state["config"]["preprocessing"]
        return f"the run {path}", Preprocessing.model_validate(values)
    except (KeyError, TypeError, ValidationError) as error:
        raise CheckpointError(f"{path} says nothing about its preprocessing ({error})") from error
