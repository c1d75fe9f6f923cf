"""One run's moving parts: network, head, optimizer, schedule, average, history; how to step, save and restore them."""

import json
import math
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from facemargin import __version__
from facemargin.errors import CheckpointError, ConfigError
from facemargin.heads import BatchLosses
from facemargin.rowwise import clip_gradients
from training.averaging import averaged
from training.checkpoint import Checkpoint
from training.config import TrainConfig
from training.data.loader import Batch, BatchPlan
from training.data.pictures import LabelledImages
from training.freezing import Freezing
from training.hardware import choose_device, choose_precision
from training.optimization import make_optimizer, make_schedule, schedule_factor
from training.trainer.build import build_backbone, build_head
from training.trainer.history import History
from training.trainer.images import data_record
from training.trainer.restoring import require_same_run
from training.trainer.starting import Source, one_line


class Trainer:
    """One run's moving parts, and how to step, save and restore them."""

    def __init__(self, config: TrainConfig, images: LabelledImages) -> None:
        """Build everything from the config; weights depend on the seed alone.

        Raises:
            ConfigError: the config does not fit the machine or the data.
        """
        self.config, self.images = config, images
        self.plan = BatchPlan(len(images.pictures), config.batch_size, config.seed)
        if self.plan.steps_per_epoch == 0:
            raise ConfigError(
                f"batch_size {config.batch_size} is above the {len(images.pictures)} training images; lower it"
            )
        self.total_steps = self.plan.steps_per_epoch * config.epochs
        self.device = choose_device(config.device)
        self.precision = choose_precision(config.precision, self.device)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # a resumed run repeats itself
        torch.manual_seed(config.seed)
        backbone = build_backbone(config)
        self.backbone = backbone.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head = build_head(config, images.class_counts(), self.total_steps).to(self.device)
        self.network: nn.Module = torch.compile(self.backbone) if config.compile else self.backbone  # type: ignore[assignment]
        self.average = None if config.ema_decay is None else averaged(self.backbone, config.ema_decay)
        self.freezing = Freezing(self.backbone, config.freeze, config.freeze_epochs)
        self.optimizer = make_optimizer(self.backbone, self.head, config.optimizer)
        self.schedule = make_schedule(self.optimizer, config.schedule, self.total_steps)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.history = History()
        self.step = 0

    def train_step(self, batch: Batch) -> BatchLosses:
        """One optimizer step on a batch; returns its losses, detached.

        If loss or gradient is not finite, no weight changes and the step does not count; but the forward pass has
        measured the batch, so that the running statistics of batch norm may no longer be finite either.
        """
        self.freezing.apply(self.epoch)
        crops = batch.crops.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        labels = batch.labels.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            embeddings = self.network(crops)
        losses = self.head.batch_losses(embeddings.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        losses.loss.backward()  # type: ignore[no-untyped-call]
        limit = self.config.optimizer.clip_norm
        norm = clip_gradients(self.parameters, math.inf if limit is None else limit)
        loss = losses.loss.detach()
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            return losses._replace(loss=loss * math.nan)
        self._advance()
        if self.average is not None:
            self.average.update_parameters(self.backbone)
        return losses._replace(loss=loss)

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

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if it had never stopped."""
        cuda = torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        return {
            "config": json.loads(self.config.model_dump_json()),
            "data": data_record(self.images),
            "sampler": {"seed": self.plan.seed, "step": self.step, **self._place()},
            "backbone": self.backbone.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "head": self.head.state_dict(),
            "head_options": self.head.options(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {key: value for key, value in self.schedule.state_dict().items() if key != "lr_lambdas"},
            "random": {"torch": torch.get_rng_state(), "cuda": cuda},
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
            self.head.load_state_dict(state["head"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint.path} does not fit this run: {one_line(error)}") from error
        self.schedule.load_state_dict({**state["schedule"], "lr_lambdas": [None] * len(self.schedule.lr_lambdas)})
        torch.set_rng_state(state["random"]["torch"])
        if self.device.type == "cuda" and len(state["random"]["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random"]["cuda"])
        self.history = History.restored(state["history"])
        self.step = checkpoint.step

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
