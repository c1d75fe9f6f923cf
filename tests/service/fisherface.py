"""A face recogniser fitted in seconds without torch, for tests that need real error rates: Fisherfaces.

Block means of the crop, principal components, then the directions in which people differ most against how one person
differs from photograph to photograph (Belhumeur, Hespanha and Kriegman, IEEE PAMI 19(7), 1997).
"""

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

from facemargin.bundle import Bundle, Manifest, write_bundle

BLOCK = 4
COMPONENTS = 200
DIM = 64
_RIDGE = 1e-3  # of the mean variance within a person

Floats = NDArray[np.float32]


def blocks(crops: NDArray[np.uint8]) -> Floats:
    """Crops (N, 112, 112, 3) -> means of 4 x 4 blocks as the network sees them, (N, 3 * 28 * 28), in -1 … 1."""
    means = np.stack([cv2.resize(crop, (112 // BLOCK,) * 2, interpolation=cv2.INTER_AREA) for crop in crops])
    return (means.transpose(0, 3, 1, 2).reshape(len(crops), -1).astype(np.float32) - 127.5) / 127.5


def fit_fisherface(features: Floats, people: list[str]) -> tuple[Floats, Floats]:
    """Mean (F,) and projection (F, DIM) of features (N, F) of people with several photographs each."""
    mean = features.mean(axis=0)
    components = np.linalg.svd(features - mean, full_matrices=False)[2][:COMPONENTS].T
    scores = (features - mean) @ components
    labels = np.unique(people, return_inverse=True)[1]
    centres = np.stack([scores[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    within = np.cov((scores - centres[labels]).T, bias=True)
    within += _RIDGE * np.trace(within) / len(within) * np.eye(len(within))
    variances, directions = np.linalg.eigh(within)
    white = directions / np.sqrt(variances)
    total = np.cov((scores @ white).T)
    best = np.linalg.eigh(total)[1][:, : -DIM - 1 : -1]
    return mean, (components @ white @ best).astype(np.float32)


def write_fisherface(folder: Path, mean: Floats, projection: Floats) -> Bundle:
    """The bundle of a fitted Fisherface, without calibration."""
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["crops"], ["means"], kernel_shape=[BLOCK] * 2, strides=[BLOCK] * 2),
            helper.make_node("Flatten", ["means"], ["flat"]),
            helper.make_node("Sub", ["flat", "mean"], ["centred"]),
            helper.make_node("MatMul", ["centred", "projection"], ["embedding"]),
        ],
        "fisherface",
        [helper.make_tensor_value_info("crops", onnx.TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["N", DIM])],
        [onnx.numpy_helper.from_array(mean, "mean"), onnx.numpy_helper.from_array(projection, "projection")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    manifest = Manifest(
        name="fisherface", embedding_dim=DIM, opset=17, card="Fisherfaces, for tests.", licence="", metrics=()
    )
    return write_bundle(folder, manifest, {"model.onnx": model.SerializeToString()})
