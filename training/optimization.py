"""Optimizer, parameter groups and learning-rate schedule of a run."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from facemargin.backbones import Backbone
from facemargin.heads import Head
from facemargin.rowwise import RowwiseAdamW, RowwiseSGD
from training.config import OptimizerConfig, ScheduleConfig
from training.ranks import Ranks


def schedule_factor(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Learning rate of a step as a factor of the top one.

    A linear rise over the warm-up, then with u in [0, 1] over the rest: cosine final + (1 − final)(1 + cos πu)/2, poly
    final + (1 − final)(1 − u)^power; step gamma^(number of milestones that step / total_steps has passed).
    """
    warmup_steps = round(config.warmup * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    rest = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if config.name == "cosine":
        return config.final + (1 - config.final) * (1 + math.cos(math.pi * rest)) / 2
    if config.name == "poly":
        return float(config.final + (1 - config.final) * (1 - rest) ** config.power)
    return float(config.gamma ** sum(step >= milestone * total_steps for milestone in config.milestones))


def layer_rates(backbone: Backbone, config: OptimizerConfig) -> list[tuple[nn.Module, float]]:
    """The modules of a backbone that share a learning rate, from input to output, with that rate.

    Part k of n learns at learning_rate · layer_decay^(n−1−k): the last part, as the head, at the full rate.

    Source: J. Howard and S. Ruder, "Universal language model fine-tuning", arXiv 1801.06146, section 3.2.
    """
    if config.layer_decay == 1:
        return [(backbone, config.learning_rate)]
    parts = list(backbone.parts().values())
    return [(part, config.learning_rate * config.layer_decay ** (len(parts) - 1 - k)) for k, part in enumerate(parts)]


def _groups(module: nn.Module, rate: float, weight_decay: float) -> list[dict[str, Any]]:
    decayed = [p for p in module.parameters() if p.ndim > 1]
    free = [p for p in module.parameters() if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay, "lr": rate},
        {"params": free, "weight_decay": 0.0, "lr": rate},
    ]


def make_optimizer(backbone: Backbone, head: Head, config: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW over the backbone's and the head's parameter groups.

    Biases, batch-norm and PReLU parameters of the backbone do not decay; the head says itself which of its do. Where a
    partition gives sparse gradients, only the rows they name move; dense ones get PyTorch's own step. Rates of the
    backbone's parts are those of `layer_rates`.
    """
    head_rate = config.learning_rate * config.head_learning_rate_ratio
    rates = layer_rates(backbone, config)
    groups = [group for module, rate in rates for group in _groups(module, rate, config.weight_decay)]
    groups += [{**group, "lr": head_rate} for group in head.parameter_groups(config.weight_decay)]
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return RowwiseAdamW(groups, lr=config.learning_rate, betas=(config.momentum, 0.999))
    return RowwiseSGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0)


def clip_over_ranks(replicated: Sequence[Tensor], own: Sequence[Tensor], max_norm: float, ranks: Ranks) -> Tensor:
    """`facemargin.rowwise.clip_gradients` where parameters may be spread over ranks; a collective call.

    Args:
        replicated: parameters that all ranks have, with the same gradient on each.
        own: parameters of this rank alone.
        max_norm: > 0; infinity only measures.
        ranks: the processes of the run.

    Returns:
        0-dim: the norm before of all gradients, each counted once; the same on all ranks to the last bit, so that their
        replicated parameters stay the same.
    """
    shared, alone = (_gradient_numbers(parameters) for parameters in (replicated, own))
    squares = [nn.utils.get_total_norm(numbers).double().square() for numbers in (shared, alone)]
    device = replicated[0].device
    norm = ranks.sum(squares[0].to(device) / ranks.size + squares[1].to(device)).sqrt().to(replicated[0].dtype)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for numbers in shared + alone:
        numbers.mul_(factor)
    return norm


def _gradient_numbers(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The numbers of all gradients; of sparse ones those of the rows they name, each row once."""
    found = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
        if parameter.grad is not None:
            found.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
    return found


def make_schedule(optimizer: torch.optim.Optimizer, config: ScheduleConfig, total_steps: int) -> LambdaLR:
    """The schedule as PyTorch's ``LambdaLR``, stepped once per optimizer step."""
    return LambdaLR(optimizer, lambda step: schedule_factor(config, step, total_steps))
