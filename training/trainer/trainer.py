"""One run's moving parts: network, head, optimizer, schedule, average, history; how to step, save and restore them.

With several ranks each has its part of every batch. The backbone's gradients are averaged by DistributedDataParallel. A
head sees the embeddings of all ranks: where its class rows are split, its partition sees to that; where every rank has
all of it, the trainer does, and each rank computes the loss of the whole batch and the same step of the head from it.
"""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facemargin import __version__
from facemargin.errors import CheckpointError, ConfigError
from facemargin.heads import BatchLosses
from facemargin.partitions import Sharded
from training.averaging import averaged
from training.batch_norm import synced
from training.checkpoint import Checkpoint, Rows, read_rows
from training.config import TrainConfig
from training.data.loader import Batch, BatchPlan
from training.data.pictures import LabelledImages
from training.freezing import Freezing
from training.hardware import choose_device, choose_precision
from training.optimization import clip_over_ranks, make_optimizer, make_schedule, schedule_factor
from training.ranks import ALONE, Ranks, averages_after
from training.trainer.accumulation import added_up, shares_of, spans_of
from training.trainer.build import ROW_NAMES, build_backbone, build_head, class_range
from training.trainer.history import History
from training.trainer.images import data_record
from training.trainer.restoring import require_same_run
from training.trainer.starting import Source, one_line

_SMALLEST = 2
"""Samples that batch norm can measure."""

_BACKBONE, _HEAD = 0, 1
"""Who draws random numbers."""


class Trainer:
    """One run's moving parts, and how to step, save and restore them.

    With several ranks, stepping, `agree` and `connect` are collective calls.
    """

    def __init__(self, config: TrainConfig, images: LabelledImages, ranks: Ranks = ALONE) -> None:
        """Build everything from the config; weights depend on the seed alone.

        Args:
            config: the run.
            images: its training set.
            ranks: the processes of the run; where there are several, `connect` before the first step.

        Raises:
            ConfigError: the config does not fit the machine, the data or the number of processes.
        """
        self.config, self.images, self.ranks = config, images, ranks
        self.plan = BatchPlan(len(images.pictures), config.batch_size, config.seed)
        if self.plan.steps_per_epoch == 0:
            raise ConfigError(
                f"batch_size {config.batch_size} is above the {len(images.pictures)} training images; lower it"
            )
        if config.batch_size < _SMALLEST * ranks.size * config.accumulate:
            raise ConfigError(
                f"batch_size {config.batch_size} over {ranks.size} processes in {config.accumulate} parts leaves fewer "
                f"than {_SMALLEST} images for each; raise it, start fewer processes, or lower accumulate"
            )
        self.total_steps = self.plan.steps_per_epoch * config.epochs
        self.device = choose_device(config.device, local_rank=ranks.local_rank, local_size=ranks.local_size)
        self.precision = choose_precision(config.precision, self.device)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # a resumed run repeats itself
        torch.manual_seed(config.seed)
        backbone = build_backbone(config)
        if config.sync_batch_norm:
            synced(backbone)
        self.backbone = backbone.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head = build_head(config, images.class_counts(), self.total_steps).to(self.device)
        self.network: nn.Module = torch.compile(self.backbone) if config.compile else self.backbone  # type: ignore[assignment]
        self.average = None if config.ema_decay is None else averaged(self.backbone, config.ema_decay)
        self.freezing = Freezing(self.backbone, config.freeze, config.freeze_epochs)
        self.optimizer = make_optimizer(self.backbone, self.head, config.optimizer)
        self.schedule = make_schedule(self.optimizer, config.schedule, self.total_steps)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._split_rows()
        self.history = History()
        self.step = 0

    def _split_rows(self) -> None:
        """Tell the parameters that all ranks have from the rows that this one has alone."""
        partition = self.head.partition
        if self.ranks.size > 1 and isinstance(partition, Sharded) and not partition.gradients_are_averaged:
            raise ConfigError(
                "partitions.sharded.gradients_are_averaged must be true in training: DistributedDataParallel averages"
            )
        self.row_names = ROW_NAMES if isinstance(partition, Sharded) else ()
        self.own_rows = [rows for name, rows in self.head.named_parameters() if name in self.row_names]
        own = {id(rows) for rows in self.own_rows}
        self.replicated = [parameter for parameter in self.parameters if id(parameter) not in own]

    def connect(self) -> None:
        """Let the ranks average the backbone's gradients from here on."""
        self.network = self.ranks.averaging(self.network, self.device)

    def train_step(self, batch: Batch) -> BatchLosses:
        """One optimizer step on a batch; returns the losses of all ranks' samples, detached.

        If loss or gradient is not finite, no weight changes and the step does not count; but the forward pass has
        measured the batch, so that the running statistics of batch norm may no longer be finite either.
        """
        self.freezing.apply(self.epoch)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._accumulated(batch)
        limit = self.config.optimizer.clip_norm
        norm = clip_over_ranks(self.replicated, self.own_rows, math.inf if limit is None else limit, self.ranks)
        if not bool(torch.isfinite(losses.loss) & torch.isfinite(norm)):
            return losses._replace(loss=losses.loss * math.nan)
        self._advance()
        if self.average is not None:
            self.average.update_parameters(self.backbone)
        return losses

    def can_learn_from(self, batch: Batch) -> bool:
        """Whether every part of every rank has the two samples that batch norm needs."""
        return min(batch.sizes) >= _SMALLEST * self.config.accumulate

    def _accumulated(self, batch: Batch) -> BatchLosses:
        """Losses of a batch, and their gradients, added up over its parts."""
        spans = spans_of(len(batch.labels), self.config.accumulate)
        shares = shares_of([batch.labels[span] for span in spans], self.head.class_weights, self.ranks)
        found = []
        for number, (span, share) in enumerate(zip(spans, shares, strict=True)):
            with averages_after(self.network, last=number == len(spans) - 1):
                losses = self._losses(batch.crops[span], batch.labels[span], number)
                (losses.loss * share).backward()  # type: ignore[no-untyped-call]
            found.append(losses._replace(loss=losses.loss.detach() * share))
        return added_up(found)

    def _losses(self, crops: Tensor, labels: Tensor, number: int) -> BatchLosses:
        """Losses of the samples that all ranks have in one of their parts."""
        crops = crops.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(self.device, non_blocking=True)
        self._seed(_BACKBONE, self.ranks.rank, number)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            embeddings = self.network(crops)
        embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        split = bool(self.row_names)
        if not split:
            embeddings, labels = self.ranks.whole_batch(embeddings, labels)
        # Rows that all ranks have are drawn alike on all of them, those that one has by it alone.
        self._seed(_HEAD, self.ranks.rank if split else 0, number)
        return self.head.batch_losses(embeddings, labels)

    def _seed(self, *who: int) -> None:
        """Random numbers that depend on the seed, the step and who draws, however often the run was stopped."""
        seed = int(np.random.SeedSequence((self.config.seed, self.step, *who)).generate_state(1, np.uint64)[0])
        # torch.manual_seed takes half a millisecond, for devices that are not there.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)

    def skip_step(self) -> None:
        """A step without a batch: nothing learns, and step, learning rate and λ go on as planned."""
        self.optimizer.zero_grad(set_to_none=True)  # without gradients the optimizer moves nothing
        self._advance()

    def _advance(self) -> None:
        self.optimizer.step()
        self.schedule.step()
        self.head.advance()
        self.step += 1

    @property
    def epoch(self) -> int:
        """Of the next step, counted from 0."""
        return self.step // self.plan.steps_per_epoch

    @property
    def learning_rate(self) -> float:
        """Of the next step, without the factors of head and layers."""
        config = self.config
        return config.optimizer.learning_rate * schedule_factor(config.schedule, self.step, self.total_steps)

    @property
    def measured(self) -> nn.Module:
        """The network that validation measures: the averaged one where the run keeps an average."""
        return self.backbone if self.average is None else self.average.module

    def agree(self) -> None:
        """Give all ranks the first one's batch-norm statistics, and what else rounding may have driven apart."""
        kept = [*self.backbone.state_dict().values()]
        kept += [value for name, value in self.head.state_dict().items() if name not in self.row_names]
        if self.average is not None:
            kept += self.average.state_dict().values()
        self.ranks.copy_first(kept)

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if it had never stopped, on any number of ranks."""
        return {
            "config": json.loads(self.config.model_dump_json()),
            "data": data_record(self.images),
            "sampler": {"seed": self.plan.seed, "step": self.step, **self._place()},
            "backbone": self.backbone.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "head": self._marked_head(),
            "head_options": self.head.options(),
            "optimizer": self._marked_optimizer(),
            "schedule": {key: value for key, value in self.schedule.state_dict().items() if key != "lr_lambdas"},
            "history": asdict(self.history),
            "version": __version__,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint's state.

        Raises:
            CheckpointError: the checkpoint is of another config or of other training data.
        """
        state = checkpoint.state
        require_same_run(self.config, state["config"], checkpoint.path)
        self._require_same_images(state["data"], checkpoint)
        try:
            self.backbone.load_state_dict(state["backbone"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.head.load_state_dict(read_rows(state["head"], *self._classes))
            self.optimizer.load_state_dict(read_rows(state["optimizer"], *self._classes))
            self._require_shapes()
            self.schedule.load_state_dict({**state["schedule"], "lr_lambdas": [None] * len(self.schedule.lr_lambdas)})
            self.history = History.restored(state["history"])
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise CheckpointError(f"{checkpoint.path} does not fit this run: {one_line(error)}") from error
        self.step = checkpoint.step

    def _require_shapes(self) -> None:
        """What the optimizer keeps of a parameter has its shape, or one number a row; PyTorch does not look."""
        for parameter, kept in self.optimizer.state.items():
            for key, value in kept.items():
                if isinstance(value, Tensor) and value.shape not in ((), parameter.shape[:1], parameter.shape):
                    raise ValueError(f"{key} has shape {tuple(value.shape)}, its parameter {tuple(parameter.shape)}")

    def start_from(self, source: Source) -> None:
        """Take over the weights of a source; step, λ, schedule, optimizer and average start anew.

        Raises:
            CheckpointError: of another backbone, or, without ``reset_head``, of other people or another head.
        """
        source.load_backbone(self.backbone)
        if not self.config.reset_head:
            source.load_head(self.head, data_record(self.images)["people_sha256"])
        if self.average is not None:
            self.average.module.load_state_dict(self.backbone.state_dict())

    @property
    def _classes(self) -> tuple[int, int]:
        """The classes whose rows this rank has."""
        return class_range(self.head)

    def _marked_head(self) -> dict[str, Any]:
        return {name: self._marked(value, name in self.row_names) for name, value in self.head.state_dict().items()}

    def _marked_optimizer(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()
        rows = {id(parameter) for parameter in self.own_rows}
        ours = {number for number, parameter in enumerate(self.parameters) if id(parameter) in rows}
        kept = {
            number: {key: self._marked(value, number in ours) for key, value in values.items()}
            for number, values in state["state"].items()
        }
        return {**state, "state": kept}

    def _marked(self, value: Any, by_class: bool) -> Any:
        """A value of the state, told to be rows of this rank's classes where it is."""
        by_class = by_class and isinstance(value, Tensor) and value.ndim > 0
        return Rows(value, self._classes[0]) if by_class else value

    def _require_same_images(self, saved: dict[str, Any], checkpoint: Checkpoint) -> None:
        now = data_record(self.images)
        if any(now[key] != value for key, value in saved.items()):
            raise CheckpointError(
                f"{checkpoint.path} was trained on {saved['people']} people and {saved['images']} "
                f"images; data.folders now holds {len(self.images.people)} people and {len(self.images.pictures)} "
                "images, or other files; resume with the same data, or start a new run from this one's backbone: "
                "--start-from RUN --reset-head"
            )

    def _place(self) -> dict[str, int]:
        epoch, batch = divmod(self.step, self.plan.steps_per_epoch)
        return {"epoch": epoch, "batch": batch}
