"""Schedules by their formulas, and which parameters decay."""

import math

import pytest
import torch

from facemargin.backbones import BACKBONES, make_backbone
from facemargin.heads import HEADS, make_head
from facemargin.partitions import Sampled
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


@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
@pytest.mark.parametrize("backbone_name", BACKBONES)
def test_each_part_learns_at_its_own_rate(backbone_name: str, optimizer_name: str) -> None:
    backbone = make_backbone(backbone_name, embedding_dim=8, width=0.0625, input_size=(32, 32))
    head = make_head("am-softmax", embedding_dim=8, num_classes=5)
    config = OptimizerConfig(name=optimizer_name, learning_rate=0.2, head_learning_rate_ratio=3, layer_decay=0.5)
    optimizer = make_optimizer(backbone, head, config)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for module in (backbone, head) for p in module.parameters())
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = 0.2
    for part in reversed(backbone.parts().values()):
        assert all(rates[id(p)] == pytest.approx(expected) for p in part.parameters())
        expected *= 0.5
    assert all(rates[id(p)] == pytest.approx(0.6) for p in head.parameters())
    assert all((decays[id(p)] > 0) == (p.ndim > 1) for p in backbone.parameters())


def test_layer_rates_of_a_known_network_by_hand() -> None:
    backbone = make_backbone("iresnet18", embedding_dim=8, width=0.0625, input_size=(32, 32))
    head = make_head("am-softmax", embedding_dim=8, num_classes=5)
    optimizer = make_optimizer(backbone, head, OptimizerConfig(learning_rate=1.0, layer_decay=0.5))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: rates[id(parameter)] for name, parameter in backbone.named_parameters()}
    assert by_name["stem.0.weight"] == 1 / 32
    assert [by_name[f"stages.{unit}.body.1.weight"] for unit in range(8)] == [
        1 / 16, 1 / 16, 1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 2, 1 / 2,
    ]  # fmt: skip
    assert by_name["projection.weight"] == by_name["embedding_norm.bias"] == 1


@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
def test_dense_gradients_are_moved_as_by_pytorch_bit_for_bit(optimizer_name: str) -> None:
    def trained(by_pytorch: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        backbone, head = torch.nn.Linear(4, 8), make_head("softmax", embedding_dim=8, num_classes=5)
        optimizer = make_optimizer(backbone, head, OptimizerConfig(name=optimizer_name, weight_decay=0.1))
        if by_pytorch:
            groups = [{**group} for group in optimizer.param_groups]
            made = torch.optim.SGD if optimizer_name == "sgd" else torch.optim.AdamW
            optimizer = made(groups, **optimizer.defaults if optimizer_name == "sgd" else {})
        x, y = torch.randn(6, 4), torch.arange(6) % 5
        for _ in range(4):
            optimizer.zero_grad()
            head(backbone(x), y).backward()
            optimizer.step()
        return [p.detach() for module in (backbone, head) for p in module.parameters()]

    assert all(torch.equal(*pair) for pair in zip(trained(False), trained(True), strict=True))


@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
def test_rows_that_are_not_sampled_do_not_move(optimizer_name: str) -> None:
    torch.manual_seed(0)
    backbone = torch.nn.Linear(4, 8)
    head = make_head("softmax", embedding_dim=8, num_classes=40, partition=Sampled(samples=5))
    optimizer = make_optimizer(backbone, head, OptimizerConfig(name=optimizer_name, weight_decay=0.1))
    for _ in range(3):
        before = head.weight.detach().clone()
        optimizer.zero_grad()
        head(backbone(torch.randn(4, 4)), torch.tensor([1, 7, 7, 39])).backward()
        optimizer.step()
        moved = (head.weight != before).any(1).nonzero().squeeze(1)
        assert torch.equal(moved, head.partition.active_rows)
        assert len(moved) == 8


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
