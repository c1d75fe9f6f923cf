"""Fixtures that several test packages share."""

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from facemargin.bundle import Bundle, Manifest, MetricRecord, write_bundle
from facemargin.metrics.calibration import Calibration, calibrate

pytest_plugins = ("tests.postgres",)

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch is imported later; many small tests on two cores are faster so

DATA = Path(os.environ.get("FACEMARGIN_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real faces, the detector and MNIST; the test is skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"needs the real-face data folder (looked at {DATA}; set FACEMARGIN_DATA)")
    return DATA


class MakeTinyBundle(Protocol):
    """Writes a bundle with a real but tiny model: block means of the crop times a fixed random matrix, 32 numbers."""

    def __call__(
        self, *, seed: int = 0, calibrated: bool = True, batch: int | None = None, **fields: Any
    ) -> Bundle: ...


def tiny_model(*, seed: int = 0, dim: int = 32, batch: int | None = None, size: tuple[int, int] = (112, 112)) -> bytes:
    """An ONNX file (N, 3, *size) -> (N, dim): the means of 16x16 blocks times a random matrix."""
    helper = onnx.helper
    blocks = (size[0] // 16) * (size[1] // 16)
    projection = np.random.default_rng(seed).standard_normal((3 * blocks, dim)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["crops"], ["blocks"], kernel_shape=[16, 16], strides=[16, 16]),
            helper.make_node("Flatten", ["blocks"], ["flat"]),
            helper.make_node("MatMul", ["flat", "projection"], ["embedding"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("crops", onnx.TensorProto.FLOAT, [batch or "N", 3, *size])],
        [helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, [batch or "N", dim])],
        [onnx.numpy_helper.from_array(projection, "projection")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def synthetic_calibration() -> Calibration:
    """A real fit to random vectors: 100 made-up people, four vectors each around a centre."""
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.standard_normal((100, 32)), 4, axis=0) + 0.6 * rng.standard_normal((400, 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    people = [f"person {index // 4}" for index in range(400)]
    return calibrate(vectors.astype(np.float32), people, source="random vectors, for tests")


@pytest.fixture(scope="session")
def make_tiny_bundle(tmp_path_factory: pytest.TempPathFactory, synthetic_calibration: Calibration) -> MakeTinyBundle:
    """Makes a new tiny bundle; another seed is another model, `batch` fixes the batch size, fields the manifest."""

    def make(*, seed: int = 0, calibrated: bool = True, batch: int | None = None, **fields: Any) -> Bundle:
        manifest = Manifest(
            **{
                "name": f"tiny {seed}",
                "embedding_dim": 32,
                "opset": 17,
                "card": "Block means and a random matrix, for tests.",
                "licence": "Apache-2.0",
                "metrics": (MetricRecord(protocol="none", name="accuracy", value=0.5),),
                "calibration": synthetic_calibration if calibrated else None,
                **fields,
            }
        )
        size = manifest.preprocessing.size
        model = tiny_model(seed=seed, dim=manifest.embedding_dim, batch=batch, size=size)
        return write_bundle(tmp_path_factory.mktemp("tiny") / "bundle", manifest, {"model.onnx": model})

    return make


@pytest.fixture(scope="session")
def tiny_bundle(make_tiny_bundle: MakeTinyBundle) -> Bundle:
    """One tiny bundle with calibration, shared by all tests: read it, never change it."""
    return make_tiny_bundle()
