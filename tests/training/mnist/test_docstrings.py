"""The examples in the docstrings run."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["recipe", "loop"])
def test_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"training.mnist.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
