from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemargin.bundle import Bundle
from facemargin.errors import BundleError, ConfigError
from facemargin.onnx_model import OnnxModel, available_cores, onnx_opset, shapes_agree, shown


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


def test_cuda_without_cuda_is_a_clear_error(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigError, match="no CUDA; install the package onnxruntime-gpu"):
        OnnxModel(tiny_bundle.model_path, provider="cuda")


def test_falling_back_to_the_cpu_without_a_word_is_an_error(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ONNX Runtime does where CUDA was built in and its libraries do not load."""
    real = onnxruntime.InferenceSession
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        "onnxruntime.InferenceSession", lambda *given, providers: real(*given, providers=["CPUExecutionProvider"])
    )
    with pytest.raises(ConfigError, match="cannot start CUDA"):
        OnnxModel(tiny_bundle.model_path, provider="cuda")


def test_an_unknown_provider_is_refused(tiny_bundle: Bundle) -> None:
    unknown: Any = "tpu"
    with pytest.raises(ValueError, match="provider is 'tpu'; it must be one of cpu, cuda"):
        OnnxModel(tiny_bundle.model_path, provider=unknown)


def test_threads_by_default_are_the_cores_of_the_process(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 2, 5}, raising=False)
    assert available_cores() == 3
    taken: list[int] = []
    real = onnxruntime.InferenceSession

    def noted(path: str, options: Any, **more: Any) -> Any:
        taken.append(options.intra_op_num_threads)
        return real(path, options, **more)

    monkeypatch.setattr("onnxruntime.InferenceSession", noted)
    OnnxModel(tiny_bundle.model_path)
    OnnxModel(tiny_bundle.model_path, threads=1)
    assert taken == [3, 1]


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
