"""Rewritten graphs compute what they did, by ONNX's own reference implementation."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from training.channelwise import without_batch_norm, without_prelu

CHANNELS = 5
VALUES = np.random.default_rng(0).standard_normal((2, CHANNELS, 4, 3)).astype(np.float32)


def model(nodes: list[Any], shape: tuple[int, ...] = VALUES.shape, **constants: NDArray[np.float32]) -> onnx.ModelProto:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
        [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def prelu(slopes: NDArray[np.float32]) -> onnx.ModelProto:
    nodes = [onnx.helper.make_node("Identity", ["x"], ["h"]), onnx.helper.make_node("PRelu", ["h", "slopes"], ["y"])]
    return model(nodes, slopes=slopes)


def run(graph: onnx.ModelProto, values: NDArray[np.float32] = VALUES) -> NDArray[np.float32]:
    onnx.checker.check_model(graph, full_check=True)
    output: NDArray[np.float32] = ReferenceEvaluator(graph).run(None, {"x": values})[0]
    return output


def kinds(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


@given(st.lists(st.floats(-2, 3, width=32), min_size=CHANNELS, max_size=CHANNELS), st.booleans())
@settings(max_examples=40)
def test_prelu_is_what_its_formula_says(slopes: list[float], four_axes: bool) -> None:
    factors = np.array(slopes, np.float32).reshape((1, CHANNELS, 1, 1) if four_axes else (CHANNELS, 1, 1))
    original = prelu(factors)
    rewritten = without_prelu(original)
    assert "PRelu" not in kinds(rewritten)
    assert "PRelu" in kinds(original), "the model that was given is left as it is"
    expected = np.where(VALUES > 0, VALUES, factors * VALUES)
    np.testing.assert_allclose(run(rewritten), expected, atol=1e-5)


def test_slopes_up_to_one_take_one_pass_less() -> None:
    relu_last = kinds(without_prelu(prelu(np.full((CHANNELS, 1, 1), 0.25, np.float32))))
    relu_first = kinds(without_prelu(prelu(np.full((CHANNELS, 1, 1), 1.5, np.float32))))
    assert relu_last == ["Identity", "Conv", "Conv", "Relu", "Add"]
    assert relu_first == ["Identity", "Conv", "Relu", "Conv", "Add"]


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1), (3,), (4, 1), (CHANNELS, 4, 3)])
def test_other_slopes_are_left_as_they_are(shape: tuple[int, ...]) -> None:
    original = prelu(np.full(shape, 0.25, np.float32))
    assert kinds(without_prelu(original)) == kinds(original)


def test_slopes_that_are_computed_are_left_as_they_are() -> None:
    nodes = [
        onnx.helper.make_node("Neg", ["s"], ["slopes"]),
        onnx.helper.make_node("PRelu", ["x", "slopes"], ["y"]),
    ]
    original = model(nodes, s=np.full((CHANNELS, 1, 1), -0.25, np.float32))
    assert kinds(without_prelu(original)) == ["Neg", "PRelu"]


def batch_norm(shape: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    names = ("gamma", "beta", "mean", "variance")
    constants = {name: rng.standard_normal(CHANNELS).astype(np.float32) for name in names}
    constants["variance"] **= 2
    node = onnx.helper.make_node
    nodes = [node("Identity", ["x"], ["h"]), node("BatchNormalization", ["h", *names], ["y"], **attributes)]
    return model(nodes, shape, **constants)


@pytest.mark.parametrize("attributes", [{}, {"epsilon": 0.1}])
def test_batch_normalisation_of_maps_is_what_it_was(attributes: dict[str, Any]) -> None:
    original = batch_norm(VALUES.shape, **attributes)
    rewritten = without_batch_norm(original)
    assert kinds(rewritten) == ["Identity", "Conv"]
    np.testing.assert_allclose(run(rewritten), run(original), atol=1e-5)
    assert {tensor.name for tensor in rewritten.graph.initializer} == {"y_factors", "y_offsets"}


def test_batch_normalisation_of_vectors_is_left_as_it_is() -> None:
    assert kinds(without_batch_norm(batch_norm((2, CHANNELS)))) == ["Identity", "BatchNormalization"]
