import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from facemargin.bundle import Bundle, Manifest, write_bundle
from facemargin.embedder import DEFAULT_BATCH, Embedder
from facemargin.errors import BundleError
from facemargin.preprocessing import TEMPLATES, Face, Preprocessing


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (DEFAULT_BATCH + 6, 112, 112, 3), dtype=np.uint8)


def projection(bundle: Bundle) -> np.ndarray:
    return onnx.numpy_helper.to_array(onnx.load(bundle.model_path).graph.initializer[0])


def by_hand(bundle: Bundle, crops: np.ndarray) -> np.ndarray:
    """The tiny model in numpy: raw output for RGB crops of 112x112."""
    values = (crops.astype(np.float64) - 127.5) / 127.5
    blocks = values.reshape(len(crops), 7, 16, 7, 16, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
    return blocks.reshape(len(crops), -1) @ projection(bundle)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_embeddings_against_numpy(tiny_bundle: Bundle, crops: np.ndarray) -> None:
    embedder = Embedder(tiny_bundle, threads=1)
    found = embedder.embed(crops)
    assert found.shape == (len(crops), 32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(found, unit(by_hand(tiny_bundle, crops)), atol=2e-5)


def test_it_says_what_it_is(tiny_bundle: Bundle) -> None:
    embedder = Embedder(tiny_bundle)
    assert embedder.dim == 32
    assert embedder.model_id == tiny_bundle.model_id
    assert embedder.preprocessing == Preprocessing()
    assert embedder.bundle is tiny_bundle


def test_flip_sum(make_tiny_bundle: Any, crops: np.ndarray) -> None:
    bundle = make_tiny_bundle(flip_sum=True)
    found = Embedder(bundle).embed(crops[:5])
    expected = unit(by_hand(bundle, crops[:5]) + by_hand(bundle, crops[:5, :, ::-1]))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(found, Embedder(bundle).embed(crops[:5, :, ::-1]), atol=1e-6)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_filled_and_looped_over(make_tiny_bundle: Any, crops: np.ndarray, batch: int) -> None:
    fixed, free = Embedder(make_tiny_bundle(batch=batch)), Embedder(make_tiny_bundle())
    for count in (1, 3, 4, 9):
        np.testing.assert_allclose(fixed.embed(crops[:count]), free.embed(crops[:count]), atol=1e-6)


def test_no_crops_and_wrong_crops(tiny_bundle: Bundle, crops: np.ndarray) -> None:
    embedder = Embedder(tiny_bundle)
    assert embedder.embed(crops[:0]).shape == (0, 32)
    for wrong in (crops[0], crops.astype(np.float32), crops[..., :1], np.empty((0, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8 of shape"):
            embedder.embed(wrong)


def test_crops_of_other_sizes_are_resized(tiny_bundle: Bundle, crops: np.ndarray) -> None:
    embedder = Embedder(tiny_bundle)
    large = crops[:3].repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(embedder.embed(large), embedder.embed(crops[:3]), atol=1e-6)


def test_the_crop_uses_the_template_of_the_manifest(make_tiny_bundle: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    points = TEMPLATES["arcface-112"].points.astype(np.float32)
    face = Face((0, 0, 112, 112), points, 1.0)
    np.testing.assert_array_equal(Embedder(make_tiny_bundle()).crop(image, face), image)


def test_threads_share_one_embedder(tiny_bundle: Bundle, crops: np.ndarray) -> None:
    embedder = Embedder(tiny_bundle, threads=1)
    alone = [embedder.embed(crops[start : start + 5]) for start in range(0, 60, 5)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda start: embedder.embed(crops[start : start + 5]), range(0, 60, 5)))
    np.testing.assert_array_equal(alone, together)
    with pytest.raises(ValueError, match="threads must be at least 0, got -1"):
        Embedder(tiny_bundle, threads=-1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"preprocessing": Preprocessing(size=(64, 64))},
            r"input 'crops' is N x 3 x 112 x 112; by preprocessing\.size",
        ),
        ({"embedding_dim": 64}, r"output 'embedding' is N x 32; by embedding_dim in the manifest it must be N x 64"),
    ],
)
def test_a_model_that_is_not_as_the_manifest_says(
    tmp_path: Path, tiny_bundle: Bundle, fields: dict[str, Any], message: str
) -> None:
    manifest = Manifest.model_validate(dict(tiny_bundle.manifest) | fields)
    model = tiny_bundle.model_path.read_bytes()
    with pytest.raises(BundleError, match=message):
        Embedder(write_bundle(tmp_path / "bundle", manifest, {"model.onnx": model}))


def graph_bundle(path: Path, nodes: list[Any], outputs: list[Any], *, element: int = onnx.TensorProto.FLOAT) -> Bundle:
    helper = onnx.helper
    inputs = [helper.make_tensor_value_info("crops", element, ["N", 3, 112, 112])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    manifest = Manifest(name="odd", embedding_dim=3, opset=17)
    return write_bundle(path / "bundle", manifest, {"model.onnx": model.SerializeToString()})


def channel_means() -> list[Any]:
    helper = onnx.helper
    return [
        helper.make_node("GlobalAveragePool", ["crops"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]


def float_output(name: str = "embedding", shape: tuple[Any, ...] = ("N", 3)) -> Any:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def test_odd_models_are_refused_with_the_reason(tmp_path: Path) -> None:
    helper = onnx.helper
    two = graph_bundle(tmp_path / "two", channel_means(), [float_output(), float_output("pooled", ("N", 3, 1, 1))])
    with pytest.raises(BundleError, match="one output, it has 2: embedding, pooled"):
        Embedder(two)
    half = onnx.TensorProto.FLOAT16
    output = helper.make_tensor_value_info("embedding", half, ["N", 3])
    with pytest.raises(BundleError, match=r"'crops' must be tensor\(float\), it is tensor\(float16\)"):
        Embedder(graph_bundle(tmp_path / "half", channel_means(), [output], element=half))
    manifest = Manifest(name="text", embedding_dim=3, opset=17)
    with pytest.raises(BundleError, match="cannot be loaded by ONNX Runtime"):
        Embedder(write_bundle(tmp_path / "text", manifest, {"model.onnx": b"this is text, not a network"}))


def test_a_zero_or_infinite_vector_is_an_error_not_a_number(tmp_path: Path) -> None:
    nodes = [*channel_means()[:1], onnx.helper.make_node("Flatten", ["pooled"], ["flat"])]
    log = graph_bundle(
        tmp_path / "log", [*nodes, onnx.helper.make_node("Log", ["flat"], ["embedding"])], [float_output()]
    )
    embedder = Embedder(log)
    white = np.full((1, 112, 112, 3), 255, np.uint8)
    black = np.zeros((1, 112, 112, 3), np.uint8)
    for crops in (white, black, np.concatenate([white // 2 + 70, black])):  # log 1 = 0, log -1 = nan
        with pytest.raises(BundleError, match="zero or not finite"):
            embedder.embed(crops)
    assert np.isfinite(embedder.embed(white // 2 + 70)).all()


def test_an_output_length_that_only_running_shows(tmp_path: Path) -> None:
    node = onnx.helper.make_node
    constants = [
        node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.array(value)))
        for name, value in (("zero", np.float32(0)), ("two", np.float32(2)), ("one", [1]), ("axis", [0]))
    ]
    twice = [  # repeats the three means 0 * max + 2 times, which no shape inference finds out
        *constants,
        node("GlobalAveragePool", ["crops"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("ReduceMax", ["flat"], ["most"], keepdims=0),
        node("Mul", ["most", "zero"], ["nothing"]),
        node("Add", ["nothing", "two"], ["sum"]),
        node("Cast", ["sum"], ["count"], to=onnx.TensorProto.INT64),
        node("Unsqueeze", ["count", "axis"], ["times"]),
        node("Concat", ["one", "times"], ["repeats"], axis=0),
        node("Tile", ["flat", "repeats"], ["embedding"]),
    ]
    assert Embedder(graph_bundle(tmp_path / "open", channel_means(), [float_output(shape=("N", "D"))])).dim == 3
    with pytest.raises(BundleError, match=r"shape \(1, 6\); by embedding_dim in the manifest it must be \(1, 3\)"):
        Embedder(graph_bundle(tmp_path / "double", twice, [float_output(shape=("N", "D"))]))


def test_a_model_that_disappears_after_loading(tmp_path: Path, tiny_bundle: Bundle) -> None:
    copy = Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))
    (copy / "model.onnx").unlink()
    with pytest.raises(BundleError, match="cannot be loaded"):
        Embedder(Bundle(copy, tiny_bundle.manifest))
