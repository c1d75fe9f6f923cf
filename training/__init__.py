"""Training: data, augmentation, trainer, checkpoints, evaluation, export."""
