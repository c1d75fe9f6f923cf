"""The training loop: batches in, loss trace and checkpoints out.

What a run is made of (`build`, `images`), its moving parts (`trainer`), what it starts with (`starting`), how it is
read back (`restoring`), when things happen (`loop`) and what they leave behind (`events`, `history`, `trace`).
"""

from training.trainer.build import build_backbone, build_head
from training.trainer.history import History, TrainResult
from training.trainer.images import data_record, training_images
from training.trainer.loop import train
from training.trainer.restoring import require_same_run, restore_model
from training.trainer.starting import Source, open_source
from training.trainer.trainer import Trainer

__all__ = [
    "History",
    "Source",
    "TrainResult",
    "Trainer",
    "build_backbone",
    "build_head",
    "data_record",
    "open_source",
    "require_same_run",
    "restore_model",
    "train",
    "training_images",
]
