"""What a training run is: frozen, typed, unknown keys refused. Owns the TOML form and its defaults.

Paths are taken relative to the current folder, as on the command line.
"""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from facemargin.errors import ConfigError
from facemargin.preprocessing import Preprocessing

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class DataConfig(_Frozen):
    """The training images.

    Attributes:
        folders: data sets: image folders with one folder a person, or any other format of docs/data.md, a path each;
            people of different ones are different people.
        protocol: ``all`` trains on everyone; ``lfw-open`` keeps, in the first, which must be an image folder, only the
            people of LFW who appear in no pair of folds 5–10.
        pairs: LFW's ``pairs.txt``; needed by ``lfw-open``.
        min_images: people with fewer images are left out (counted in the run's report).
        cache: keep decoded crops in memory (112×112: 37 kB an image); None keeps them where they fit 1 GiB.
        workers: threads that make batches ahead of the training step; 0 makes each between two steps, on the network's
            threads. None is 0 beside a CPU of fewer than 8 cores, all cores but one (at most 8) beside a GPU.
        decode: where JPEG files are decoded: ``cpu``, or ``cuda`` (nvJPEG through torchvision; other files are left to
            the CPU).
        on_bad_image: ``fail`` ends the run at a picture that cannot be read, ``skip`` leaves it out, named and counted.
        max_bad_share: with ``skip``, largest share of an epoch's images that may be left out.
    """

    folders: tuple[Path, ...] = ()
    protocol: Literal["all", "lfw-open"] = "all"
    pairs: Path | None = None
    min_images: int = Field(default=1, ge=1)
    cache: bool | None = None
    workers: int | None = Field(default=None, ge=0)
    decode: Literal["cpu", "cuda"] = "cpu"
    on_bad_image: Literal["fail", "skip"] = "fail"
    max_bad_share: Probability = 0.01

    @model_validator(mode="after")
    def _protocol_has_pairs(self) -> "DataConfig":
        if self.protocol == "lfw-open" and self.pairs is None:
            raise ValueError("protocol 'lfw-open' needs data.pairs, the path of LFW's pairs.txt")
        return self


class EvaluationConfig(_Frozen):
    """Aligned images that the model is measured on; the people must not be in training.

    Attributes:
        images: folder with one folder a person.
        pairs: LFW ``pairs.txt``; without it every pair of images in the folder counts.
        folds: folds of ``pairs``, such as ``5`` or ``6-10``.
        flip_sum: add the embedding of the mirrored crop.
    """

    images: Path
    pairs: Path | None = None
    folds: str | None = None
    flip_sum: bool = False


class ValidationConfig(EvaluationConfig):
    """Evaluation during training.

    Attributes:
        every_epochs: epochs between two evaluations; the last epoch is always evaluated.
    """

    every_epochs: int = Field(default=1, ge=1)


class AugmentationConfig(_Frozen):
    """Random changes of a crop; every magnitude 0 and every probability 0 is no augmentation at all.

    Attributes:
        flip: probability of a mirrored crop.
        rotation_rad: standard deviation of the rotation, radians.
        shift: standard deviation of the shift, as a share of the side.
        log_scale: standard deviation of the natural logarithm of the scale.
        brightness, contrast, saturation: standard deviation of the factor around 1.
        grey: probability of a grey crop.
        low_resolution: probability of shrinking by a factor of 1.5 to 4 and enlarging again.
        erase: probability of a grey rectangle over 2 to 20 % of the crop.
    """

    flip: Probability = 0.5
    rotation_rad: NonNegative = 0.05
    shift: NonNegative = 0.02
    log_scale: NonNegative = 0.04
    brightness: NonNegative = 0.15
    contrast: NonNegative = 0.15
    saturation: NonNegative = 0.15
    grey: Probability = 0.05
    low_resolution: Probability = 0.1
    erase: Probability = 0.0


class BackboneConfig(_Frozen):
    """Arguments of ``facemargin.backbones.make_backbone``; the input size comes from ``preprocessing``."""

    name: str = "iresnet50"
    embedding_dim: int = Field(default=512, ge=2)
    width: Positive = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class OptimizerConfig(_Frozen):
    """The optimizer.

    Attributes:
        name: ``sgd`` (Nesterov momentum) or ``adamw``.
        learning_rate: at the top of the schedule.
        head_learning_rate_ratio: the head's learning rate as a multiple of the backbone's.
        weight_decay: on convolution and linear weights; heads say themselves which of theirs decay.
        momentum: of ``sgd``; ``adamw`` uses it as beta1.
        clip_norm: largest norm of the whole gradient; None does not clip.
        layer_decay: factor of the learning rate from each part of the backbone to the one before it, towards the input;
            1 is one rate for all. The last part and the head learn at the full rate.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 0.1
    head_learning_rate_ratio: Positive = 1.0
    weight_decay: NonNegative = 5e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    clip_norm: Positive | None = 5.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0


class ScheduleConfig(_Frozen):
    """The learning rate over the run, as a factor of ``optimizer.learning_rate``.

    Attributes:
        name: ``cosine``, ``poly`` ((1 − t)^power) or ``step`` (times ``gamma`` at each milestone).
        warmup: share of the run that rises linearly from 0.
        final: factor at the end of ``cosine`` and ``poly``.
        power: of ``poly``.
        milestones: of ``step``, as shares of the run.
        gamma: of ``step``.
    """

    name: Literal["cosine", "poly", "step"] = "cosine"
    warmup: Probability = 0.05
    final: Annotated[float, Field(ge=0, lt=1)] = 0.0
    power: Positive = 2.0
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75, 0.9)
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1


class TrainConfig(_Frozen):
    """One training run.

    Attributes:
        output: folder of the run: config, checkpoints, loss trace, TensorBoard events, report.
        seed: of weights, order and augmentation.
        epochs, batch_size: the length of the run; the last incomplete batch of an epoch is dropped. A batch is what one
            optimizer step learns from, of all processes together.
        accumulate: parts that each process computes its share of a batch in, one after the other, to need less memory;
            the step is the same but for batch norm, which measures each part, dropout, and draws of classes.
        device: ``auto`` is CUDA where there is one, else the CPU.
        precision: ``auto`` is bfloat16 where the CPU has AMX or the GPU supports it, else float32.
        sync_batch_norm: with several processes, batch norm measures the samples of all, as one process would, instead
            of those of each.
        compile: pass the backbone through ``torch.compile``.
        head: name of the loss head.
        heads: options of each head by its name, so that one recipe serves several heads.
        partition: name of the way to sum over the classes.
        partitions: options of each partition by its name; class counts come from the training images.
        start_from: run, checkpoint or bundle whose weights a new run starts with, the averaged ones where it has them;
            None starts from random weights.
        reset_head: of ``start_from`` take the backbone alone, as a run on other people must.
        freeze: parts of the backbone that stay as ``start_from`` has them: their names, or how many from the input.
        freeze_epochs: epochs after which they train as well; None keeps them fixed for the whole run.
        ema_decay: of an exponential moving average of the backbone's weights, which is then what is validated and
            exported; None keeps none.
        checkpoint_minutes: minutes between checkpoints (one is also written after each epoch and at the end).
        keep_checkpoints: newest checkpoints kept.
    """

    output: Path
    seed: int = Field(default=0, ge=0)
    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=128, ge=2)
    accumulate: int = Field(default=1, ge=1)
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    sync_batch_norm: bool = False
    compile: bool = False
    head: str = "am-softmax"
    heads: dict[str, dict[str, Any]] = {}
    partition: str = "dense"
    partitions: dict[str, dict[str, Any]] = {}
    start_from: Path | None = None
    reset_head: bool = False
    freeze: Annotated[int, Field(ge=0)] | tuple[str, ...] = ()
    freeze_epochs: int | None = Field(default=None, ge=1)
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    checkpoint_minutes: Positive = 10.0
    keep_checkpoints: int = Field(default=2, ge=1)
    data: DataConfig = DataConfig()
    preprocessing: Preprocessing = Preprocessing()
    augmentation: AugmentationConfig = AugmentationConfig()
    backbone: BackboneConfig = BackboneConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    validation: ValidationConfig | None = None
    test: EvaluationConfig | None = None

    @field_validator("heads", "partitions")
    @classmethod
    def _known_tables(cls, tables: dict[str, dict[str, Any]], info: ValidationInfo) -> dict[str, dict[str, Any]]:
        from facemargin.heads import HEADS  # torch loads only where a config names heads or partitions
        from facemargin.partitions import PARTITIONS

        known = list(HEADS if info.field_name == "heads" else PARTITIONS)
        for name in tables:
            if name not in known:
                raise ValueError(f"{info.field_name}.{name} is unknown; known {info.field_name}: {', '.join(known)}")
        return tables

    @field_validator("freeze", mode="before")
    @classmethod
    def _parts_or_number(cls, freeze: Any) -> Any:
        if isinstance(freeze, bool) or not isinstance(freeze, int | list | tuple):
            raise ValueError(f'must be a list of parts such as ["stem", "stage1"], or how many; got {freeze!r}')
        return freeze

    @model_validator(mode="after")
    def _reset_of_something(self) -> "TrainConfig":
        if self.reset_head and self.start_from is None:
            raise ValueError("reset_head needs start_from, the run whose backbone is taken over")
        if self.freeze and self.start_from is None:
            raise ValueError("freeze needs start_from: without it the parts that stay as they are would be random")
        if self.freeze_epochs is not None and self.freeze == ():  # --freeze 0 over a recipe is meant
            raise ValueError("freeze_epochs needs freeze, the parts that train after those epochs")
        if self.freeze_epochs is not None and self.freeze_epochs >= self.epochs:
            raise ValueError(
                f"freeze_epochs must be below epochs ({self.epochs}), got {self.freeze_epochs}; "
                "leave it out to keep the parts fixed for the whole run"
            )
        return self

    @field_validator("heads")
    @classmethod
    def _no_partition_among_head_options(cls, heads: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, options in heads.items():
            if "partition" in options:
                raise ValueError(f"heads.{name} cannot name a partition: set partition and [partitions.NAME] instead")
        return heads

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError(f"device must be auto, cpu, cuda or cuda:N; got {device!r}")
        return device

    @property
    def head_options(self) -> dict[str, Any]:
        """Options of the chosen head."""
        return self.heads.get(self.head, {})

    @property
    def partition_options(self) -> dict[str, Any]:
        """Name and options of the chosen partition."""
        return {"name": self.partition, **self.partitions.get(self.partition, {})}


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested values with changes laid over them; a table keeps the keys that the change does not name."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def explain(error: ValidationError) -> str:
    """One line that names each wrong key and what is wrong with it."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'config'}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False)
    ).replace("Extra inputs are not permitted", "unknown key")


def make_config(values: dict[str, Any], origin: str) -> TrainConfig:
    """Check values against `TrainConfig`.

    Raises:
        ConfigError: naming the origin and every wrong or unknown key.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {explain(error)}") from error


def _fill_protocol(values: dict[str, Any]) -> dict[str, Any]:
    """Validation and test of ``lfw-open`` are folds 5 and 6–10 of its own pairs unless the config says otherwise."""
    data = values.get("data")
    if not isinstance(data, dict) or data.get("protocol") != "lfw-open" or not data.get("folders"):
        return values
    filled = dict(values)
    for part, folds in (("validation", "5"), ("test", "6-10")):
        given = values.get(part, {})
        if isinstance(given, dict):
            filled[part] = {"images": data["folders"][0], "pairs": data.get("pairs"), "folds": folds} | given
    return filled


def load_config(path: Path | None, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """Read a TOML config and lay overrides (from flags) over it.

    Args:
        path: the file; None starts from the defaults.
        overrides: nested values that win over the file.

    Raises:
        ConfigError: a missing or malformed file, or a wrong or unknown key.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the config {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
    values = _fill_protocol(merge(values, overrides or {}))
    if "output" not in values:
        raise ConfigError("no output folder: set `output` in the config or pass --output DIR")
    return make_config(values, str(path) if path else "flags")
