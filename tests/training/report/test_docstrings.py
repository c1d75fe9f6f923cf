"""The examples in the docstrings run."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["measure", "tables"])
def test_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"training.report.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
