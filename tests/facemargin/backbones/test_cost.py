"""The table in docs/backbones.md is recomputed, and held against the published figures."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from facemargin.backbones import BACKBONES, Cost, count_cost, make_backbone

DOCS = Path(__file__).parents[3] / "docs" / "backbones.md"
ROW = re.compile(r"^\| `(\w+)` \| (\d+)×(\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|")
TABLE = [match.groups() for line in DOCS.read_text(encoding="utf-8").splitlines() if (match := ROW.match(line))]


def cost_of(name: str, height: int, width: int, embedding_dim: int) -> Cost:
    with torch.device("meta"):
        model = make_backbone(name, embedding_dim=embedding_dim, input_size=(height, width))
        return count_cost(model, (height, width))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}x{row[2]}-{row[3]}")
def test_the_documented_figures_are_the_counted_ones(row: tuple[str, ...]) -> None:
    name, height, width, dim, parameters, multiply_adds = row
    cost = cost_of(name, int(height), int(width), int(dim))
    assert f"{cost.parameters / 1e6:.2f}" == parameters
    assert f"{cost.multiply_adds / 1e9:.3f}" == multiply_adds


def test_every_backbone_is_in_the_table() -> None:
    assert {row[0] for row in TABLE} == set(BACKBONES)


@pytest.mark.parametrize(
    ("name", "dim", "parameters", "multiply_adds"),
    [("iresnet50", 512, 43.6e6, 6.3e9), ("iresnet100", 512, 65.2e6, 12.1e9), ("mobilefacenet", 128, 0.99e6, 0.221e9)],
)
def test_the_published_sizes_are_met(name: str, dim: int, parameters: float, multiply_adds: float) -> None:
    cost = cost_of(name, 112, 112, dim)
    assert cost.parameters == pytest.approx(parameters, rel=0.015)
    assert cost.multiply_adds == pytest.approx(multiply_adds, rel=0.015)


def test_grouped_convolutions_and_linear_layers_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3), nn.Flatten(), nn.Linear(6 * 16, 5))
    cost = count_cost(model, (8, 8))
    # 6 filters of 3·3·1 numbers at 4·4 positions, then 96 × 5.
    assert cost == Cost(parameters=6 * 9 + 6 + 96 * 5 + 5, multiply_adds=6 * 9 * 16 + 96 * 5)


def test_counting_leaves_the_module_as_it_was() -> None:
    model = make_backbone("iresnet18", width=0.125, input_size=(32, 32)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count_cost(model, (32, 32))
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
