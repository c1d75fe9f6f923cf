"""What a run tells TensorBoard and the console."""

from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from facemargin.heads import HEADS, BatchLosses
from training.align import REPORT_NAME
from training.config import TrainConfig
from training.hardware import describe_hardware
from training.trainer.trainer import Trainer

LOG_EVERY_STEPS = 20


def introduce(trainer: Trainer, console: Console) -> None:
    """Say what is going to be trained on what, and warn of what is seldom meant."""
    config, images = trainer.config, trainer.images
    console.print(
        f"[bold]{config.head}[/] ({config.partition}) on {config.backbone.name}: "
        f"{len(images.people):,} people, {len(images.pictures):,} images"
        + (f" ({images.left_out:,} people left out)" if images.left_out else ""),
        highlight=False,
    )
    console.print(
        f"{describe_hardware(trainer.device)}; {trainer.precision}; {trainer.total_steps:,} steps"
        + (f" on {trainer.ranks.size} processes" if trainer.ranks.size > 1 else "")
        + (f", resumed at step {trainer.step:,}" if trainer.step else ""),
        highlight=False,
    )
    if frozen := _frozen(trainer):
        console.print(frozen, highlight=False)
    unaligned = [
        str(folder) for folder in config.data.folders if folder.is_dir() and not (folder / REPORT_NAME).exists()
    ]
    if unaligned:
        console.print(
            f"[yellow]note:[/] no {REPORT_NAME} in {', '.join(unaligned)}: the pictures are taken as aligned crops; "
            "`facemargin data align` makes them from photographs",
            highlight=False,
        )
    if problem := trainer.head.diagnose(trainer.total_steps):
        warn(console, problem)


def _frozen(trainer: Trainer) -> str:
    freezing = trainer.freezing
    if not freezing.names:
        return ""
    until = "" if freezing.epochs is None else f" for {freezing.epochs} of {trainer.config.epochs} epochs"
    rest = ": only the head learns" if freezing.leaves_the_head_alone else ""
    return f"frozen{until}: {', '.join(freezing.names)}{rest}"


def warn(console: Console, problem: str) -> None:
    """A warning on the console."""
    console.print(f"[yellow]warning:[/] {problem}", highlight=False)


def log_step(writer: SummaryWriter, trainer: Trainer, losses: BatchLosses, rate_img_s: float) -> None:
    """Loss, saturation, learning rate and speed, and what the head has of λ and scale."""
    writer.add_scalar("train/loss", float(losses.loss), trainer.step)
    for name, share in zip(("zero", "one"), losses.saturation(), strict=True):
        writer.add_scalar(f"train/softmax_{name}_share", share, trainer.step)
    writer.add_scalar("train/learning_rate", trainer.learning_rate, trainer.step)
    writer.add_scalar("train/images_per_second", rate_img_s, trainer.step)
    if trainer.head.uses_annealing:
        writer.add_scalar("head/lambda", trainer.head.current_lambda, trainer.step)
    if (scale := trainer.head.scale) is not None:
        writer.add_scalar("head/scale", float(scale), trainer.step)


def log_validation(writer: SummaryWriter, trainer: Trainer, figures: dict[str, float], console: Console) -> None:
    """A validation's figures."""
    for name, value in figures.items():
        writer.add_scalar(f"validation/{name}", value, trainer.step)
    shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
    console.print(f"epoch {trainer.epoch}: {shown}", highlight=False)


def advice(config: TrainConfig) -> str:
    """What to change when the loss of a run is no longer finite."""
    options = []
    if config.optimizer.clip_norm is None:
        options.append("set optimizer.clip_norm (5 is a good start)")
    options.append(f"lower optimizer.learning_rate (now {config.optimizer.learning_rate:g})")
    options.append("lengthen schedule.warmup")
    if config.head in ("l-softmax", "a-softmax"):
        options.append(f"raise the minimum of heads.{config.head}.annealing")
    elif HEADS[config.head].has_margin:
        options.append(f"lower heads.{config.head}.margin")
    return ", or ".join(options) + "; then start anew in another output folder"
