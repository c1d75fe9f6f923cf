"""The networks: the paper's table, shapes, and wrong numbers."""

from typing import Any

import pytest
import torch
from torch import nn

from training.mnist.network import make_network


def test_the_full_network_is_the_papers_table() -> None:
    network = make_network("l-softmax-paper", width=64, convolutions=3, embedding_dim=256)
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels, layer.kernel_size) for layer in convolutions] == [
        (1, 64, (3, 3)),
        *[(64, 64, (3, 3))] * 9,
    ]
    order = [type(layer).__name__ for layer in network if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.Linear)]
    assert order == ["Conv2d"] * 4 + ["MaxPool2d"] + (["Conv2d"] * 3 + ["MaxPool2d"]) * 2 + ["Linear"]
    assert sum(isinstance(layer, nn.PReLU) for layer in network) == 11
    assert sum(isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d) for layer in network) == 11


@pytest.mark.parametrize("architecture", ["l-softmax-paper", "plane", "small"])
@pytest.mark.parametrize("dim", [2, 5])
def test_images_become_embeddings(architecture: Any, dim: int) -> None:
    network = make_network(architecture, width=2, convolutions=1, embedding_dim=dim)
    assert network(torch.zeros(3, 1, 28, 28)).shape == (3, dim)


@pytest.mark.parametrize("name", ["width", "convolutions", "embedding_dim"])
def test_wrong_numbers_are_named(name: str) -> None:
    numbers = {"width": 1, "convolutions": 1, "embedding_dim": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name}=0 is out of range"):
        make_network("plane", **numbers)


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(ValueError, match="'lenet' is unknown; known ones: l-softmax-paper, plane, small"):
        make_network("lenet", width=1, embedding_dim=2)  # type: ignore[arg-type]
