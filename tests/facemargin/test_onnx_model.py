from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemargin.bundle import Bundle
from facemargin.errors import BundleError
from facemargin.onnx_model import OnnxModel, onnx_opset, shapes_agree, shown


def serialised(*opsets: tuple[str, int]) -> bytes:
    helper = onnx.helper
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 3]) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", values[:1], values[1:])
    ids = [helper.make_opsetid(domain, version) for domain, version in opsets]
    return bytes(helper.make_model(graph, opset_imports=ids, ir_version=8).SerializeToString())


@pytest.mark.parametrize("version", [1, 9, 17, 300])
def test_the_opset_is_read_off_the_bytes(version: int) -> None:
    assert onnx_opset(serialised(("", version))) == version
    assert onnx_opset(serialised(("com.microsoft", 1), ("", version))) == version
    assert onnx_opset(serialised(("ai.onnx", version), ("com.microsoft", 1))) == version


def test_bytes_without_an_opset_are_no_model() -> None:
    for data in (b"", b"hello, this is text", serialised(("com.microsoft", 1))):
        with pytest.raises(BundleError, match="not an ONNX model"):
            onnx_opset(data)


@given(st.binary(max_size=80), st.integers(0, 200))
def test_any_bytes_give_a_number_or_a_bundle_error(tail: bytes, keep: int) -> None:
    data = serialised(("", 17))[:keep] + tail
    try:
        assert onnx_opset(data) >= 0
    except BundleError:
        return


def test_a_model_tells_its_shapes(tiny_bundle: Bundle) -> None:
    model = OnnxModel(tiny_bundle.model_path, threads=1)
    assert (model.input_name, model.input_shape) == ("crops", (None, 3, 112, 112))
    assert (model.output_name, model.output_shape) == ("embedding", (None, 32))
    assert model.batch is None


def test_values_that_do_not_fit_are_an_error(tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="cannot be run"):
        OnnxModel(tiny_bundle.model_path).run(np.zeros((1, 3, 64, 64), np.float32))


def test_an_output_that_is_no_batch_is_refused(tmp_path: Path) -> None:
    helper = onnx.helper
    value = helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["N", 3])
    scalar = helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [])
    graph = helper.make_graph([helper.make_node("ReduceMean", ["a"], ["b"], keepdims=0)], "g", [value], [scalar])
    path = tmp_path / "mean.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    with pytest.raises(BundleError, match=r"the output for 2 crops has shape \(\)"):
        OnnxModel(path).run(np.ones((2, 3), np.float32))


def test_shapes() -> None:
    assert shapes_agree((None, 3, 112, 112), (None, 3, 112, 112))
    assert shapes_agree((8, None, None, None), (None, 3, 112, 112))
    assert shapes_agree((), (None, 32))
    assert not shapes_agree((None, 112, 112, 3), (None, 3, 112, 112))
    assert not shapes_agree((None, 32, 1, 1), (None, 32))
    assert shown((None, 3, 112, 112)) == "N x 3 x 112 x 112"
