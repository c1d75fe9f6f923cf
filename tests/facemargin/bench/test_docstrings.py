"""The examples in docstrings of the benchmarks hold."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["cell_runs", "growth_plot", "reckon_rates", "scale_subjects"])
def test_examples_hold(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"facemargin.bench.{module}"))
    assert result.attempted
    assert not result.failed
