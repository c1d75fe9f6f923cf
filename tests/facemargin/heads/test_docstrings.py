"""The examples in the docstrings of heads and partitions run."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import facemargin.heads
import facemargin.partitions


def modules() -> list[str]:
    names = []
    for package in (facemargin.heads, facemargin.partitions):
        names += [package.__name__, *(m.name for m in pkgutil.iter_modules(package.__path__, package.__name__ + "."))]
    return names


@pytest.mark.parametrize("module", modules())
def test_examples(module):
    torch.manual_seed(0)
    result = doctest.testmod(importlib.import_module(module), extraglobs={"torch": torch})
    assert result.failed == 0


@pytest.mark.parametrize("head", facemargin.heads.HEADS.values(), ids=facemargin.heads.HEADS)
def test_every_head_has_an_example(head):
    assert ">>>" in head.__doc__
