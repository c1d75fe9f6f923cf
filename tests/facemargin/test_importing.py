from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from facemargin.bundle import Bundle, load_bundle
from facemargin.embedder import Embedder
from facemargin.errors import BundleError
from facemargin.importing import import_onnx
from facemargin.preprocessing import PRESETS, Preprocessing

INSIGHTFACE = PRESETS["insightface"]


def write_graph(path: Path, nodes: list[Any], shape: tuple[Any, ...] = ("N", 3), inputs: tuple[Any, ...] = ()) -> Path:
    helper = onnx.helper
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("crops", onnx.TensorProto.FLOAT, inputs or ("N", 3, 112, 112))],
        [value("embedding", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(np.float32(0), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def pooled(*more: Any) -> list[Any]:
    """Nodes that give the three channel means as `flat`, and what follows."""
    node = onnx.helper.make_node
    return [node("GlobalAveragePool", ["crops"], ["pool"]), node("Flatten", ["pool"], ["flat"]), *more]


def node(kind: str, inputs: list[str], **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs, ["embedding"], **attributes)


@pytest.mark.parametrize("batch", [None, 1])
def test_an_imported_model_embeds_as_before(tmp_path: Path, make_tiny_bundle: Any, batch: int | None) -> None:
    original = make_tiny_bundle(batch=batch)
    bundle = import_onnx(
        original.model_path,
        tmp_path / "bundle",
        preprocessing=INSIGHTFACE,
        name="foreign",
        licence="MIT",
        card="Of another project.",
    )
    manifest = load_bundle(bundle.path).manifest
    assert (manifest.name, manifest.licence, manifest.card) == ("foreign", "MIT", "Of another project.")
    assert (manifest.embedding_dim, manifest.opset) == (32, 17)
    assert (manifest.calibration, manifest.backbone, manifest.head) == (None, None, None)
    assert bundle.model_id == original.model_id
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Embedder(bundle).embed(crops), Embedder(original).embed(crops))


def test_the_name_is_by_default_that_of_the_file(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "w600k.onnx", pooled(node("Identity", ["flat"])), ("N", "D"))
    bundle = import_onnx(path, tmp_path / "bundle", preprocessing=PRESETS["opencv-sface"], flip_sum=True)
    assert (bundle.manifest.name, bundle.manifest.embedding_dim, bundle.manifest.opset) == ("w600k", 3, 13)
    assert bundle.manifest.flip_sum


def test_an_existing_bundle_is_kept_unless_told(tmp_path: Path, tiny_bundle: Bundle) -> None:
    for overwrite in (False, True):
        import_onnx(tiny_bundle.model_path, tmp_path / "b", preprocessing=INSIGHTFACE, overwrite=overwrite)
        with pytest.raises(BundleError, match="holds a bundle already"):
            import_onnx(tiny_bundle.model_path, tmp_path / "b", preprocessing=INSIGHTFACE)


REFUSED = {
    "channels last": (
        lambda path: write_graph(path, [node("ReduceMean", ["crops"], axes=[1, 2])], inputs=("N", 112, 112, 3)),
        r"input 'crops' is N x 112 x 112 x 3, the preprocessing makes N x 3 x 112 x 112",
    ),
    "another size": (
        lambda path: write_graph(path, pooled(node("Identity", ["flat"])), inputs=("N", 3, 112, 96)),
        "give --size or another --preset",
    ),
    "a map, not a vector": (
        lambda path: write_graph(path, [node("GlobalAveragePool", ["crops"])], ("N", 3, 1, 1)),
        r"output 'embedding' must be \(N, D\), for one crop it is \(1, 3, 1, 1\)",
    ),
    "a constant": (
        lambda path: write_graph(
            path, pooled(onnx.helper.make_node("Mul", ["flat", "zero"], ["rest"]), node("Exp", ["rest"]))
        ),
        "the same vector for different crops",
    ),
    "zeros": (lambda path: write_graph(path, pooled(node("Mul", ["flat", "zero"]))), "zero or not finite"),
    "not a number": (
        lambda path: write_graph(
            path, pooled(onnx.helper.make_node("Mul", ["flat", "zero"], ["rest"]), node("Div", ["rest", "zero"]))
        ),
        "zero or not finite",
    ),
    "a batch that mixes": (
        lambda path: write_graph(
            path,
            [
                *pooled(),
                onnx.helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[0]),
                onnx.helper.make_node("Sub", ["flat", "mean"], ["centred"]),
                onnx.helper.make_node("Mul", ["flat", "flat"], ["square"]),
                onnx.helper.make_node("Mul", ["square", "square"], ["fourth"]),
                node("Add", ["centred", "fourth"]),
            ],
        ),
        "another vector in a batch than alone",
    ),
    "text": (lambda path: path.write_text("this is text"), "cannot be loaded by ONNX Runtime"),
    "nothing in it": (lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)"),
    "no file": (lambda path: None, "cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_embedding_model_is_refused_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    make(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=message) as caught:
        import_onnx(tmp_path / "model.onnx", tmp_path / "bundle", preprocessing=Preprocessing())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()
