"""Schedules by their formulas, and which parameters decay."""

import math

import pytest
import torch

from facemargin.backbones import make_backbone
from facemargin.heads import HEADS, make_head
from training.config import OptimizerConfig, ScheduleConfig
from training.optimization import make_optimizer, make_schedule, schedule_factor

TOTAL = 1000


@pytest.mark.parametrize("name", ["cosine", "poly", "step"])
def test_warmup_rises_linearly_to_one(name: str) -> None:
    config = ScheduleConfig(name=name, warmup=0.1)
    assert [schedule_factor(config, step, TOTAL) for step in (0, 49, 99)] == pytest.approx([0.01, 0.5, 1.0])


def test_cosine_poly_and_step_values() -> None:
    cosine = ScheduleConfig(name="cosine", warmup=0, final=0.1)
    poly = ScheduleConfig(name="poly", warmup=0, final=0.0, power=2)
    steps = ScheduleConfig(name="step", warmup=0, milestones=(0.5, 0.8), gamma=0.1)
    assert schedule_factor(cosine, 250, TOTAL) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert schedule_factor(cosine, TOTAL, TOTAL) == pytest.approx(0.1)
    assert schedule_factor(poly, 500, TOTAL) == pytest.approx(0.25)
    assert [schedule_factor(steps, step, TOTAL) for step in (499, 500, 800)] == pytest.approx([1, 0.1, 0.01])


@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
@pytest.mark.parametrize("head_name", HEADS)
def test_every_parameter_is_optimised_once_and_norms_do_not_decay(optimizer_name: str, head_name: str) -> None:
    backbone = make_backbone("iresnet18", embedding_dim=8, width=0.0625, input_size=(32, 32))
    head = make_head(head_name, embedding_dim=8, num_classes=5)
    config = OptimizerConfig(name=optimizer_name, head_learning_rate_ratio=2.0)
    optimizer = make_optimizer(backbone, head, config)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    expected = [id(p) for module in (backbone, head) for p in module.parameters()]
    assert sorted(grouped) == sorted(expected)
    for group in optimizer.param_groups:
        if group["weight_decay"]:
            assert all(parameter.ndim > 1 for parameter in group["params"])
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in head.parameters()} == {0.2}
    assert {rates[id(p)] for p in backbone.parameters()} == {0.1}


def test_the_schedule_moves_every_group_alike() -> None:
    backbone = torch.nn.Linear(2, 8)
    optimizer = make_optimizer(
        backbone, make_head("am-softmax", embedding_dim=8, num_classes=3), OptimizerConfig(head_learning_rate_ratio=3)
    )
    schedule = make_schedule(optimizer, ScheduleConfig(warmup=0), 10)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr()[0] == pytest.approx(0.05)
    assert schedule.get_last_lr()[-1] == pytest.approx(0.15)
