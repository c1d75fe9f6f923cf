"""int8: a model of its own, close to the float32 one, with its own thresholds or none."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from facemargin.backbones import make_backbone
from facemargin.bundle import Bundle, load_bundle
from facemargin.cli import app
from facemargin.embedder import Embedder
from facemargin.errors import BundleError, ConfigError, DataError, ExportRefusedError
from facemargin.metrics.calibration import Calibration
from facemargin.preprocessing import TEMPLATES, Preprocessing, decode, encode_png
from training import quantize
from training.export import export_bundle
from training.publish_int8 import _crops_in, publish_int8
from training.quantize import quantize_bundle
from training.synthetic import draw_face, draw_identity, draw_scene

SIZE = (32, 32)
PEOPLE, PICTURES = 12, 4


@pytest.fixture(scope="module")
def crops() -> NDArray[np.uint8]:
    """Four pictures of each of twelve drawn people."""
    rng = np.random.default_rng(0)
    people = [draw_identity(rng) for _ in range(PEOPLE)]
    return np.stack([draw_face(person, draw_scene(rng), rng) for person in people for _ in range(PICTURES)])


@pytest.fixture(scope="module")
def folder(crops: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("people")
    for number, crop in enumerate(crops):
        person = root / f"person {number // PICTURES:02}"
        person.mkdir(exist_ok=True)
        (person / f"{number % PICTURES}.png").write_bytes(encode_png(crop))
    return root


@pytest.fixture(scope="module")
def original(
    crops: NDArray[np.uint8], synthetic_calibration: Calibration, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """A float32 bundle with PReLUs, flip-sum and a calibration."""
    torch.manual_seed(0)
    model = make_backbone("mobilefacenet", embedding_dim=16, width=0.25, input_size=SIZE)
    preprocessing = Preprocessing(size=SIZE)
    for _ in range(3):
        model(torch.from_numpy(preprocessing.normalise(crops)))
    fields: dict[str, Any] = {"calibration": synthetic_calibration, "flip_sum": True, "card": "a test."}
    output = tmp_path_factory.mktemp("original") / "bundle"
    return export_bundle(model, output, crops=crops, preprocessing=preprocessing, name="small", **fields)


@pytest.fixture(scope="module")
def quantised(original: Bundle, crops: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return quantize_bundle(original, tmp_path_factory.mktemp("quantised") / "bundle", crops)


def test_it_embeds_nearly_like_the_original(original: Bundle, quantised: Bundle, crops: NDArray[np.uint8]) -> None:
    cosines = (Embedder(load_bundle(quantised.path)).embed(crops) * Embedder(original).embed(crops)).sum(axis=1)
    assert 0.98 < cosines.mean() < 0.999999  # as near as is asked, and yet another model
    recorded = {record.name: record.value for record in quantised.manifest.metrics}
    assert recorded["cosine mean"] == pytest.approx(cosines[1::2].mean(), abs=1e-6)
    assert recorded["cosine min"] == pytest.approx(cosines[1::2].min(), abs=1e-6)
    assert quantised.manifest.metrics[0].protocol == f"int8 beside float32 model {original.model_id}, 24 crops"


def test_it_is_a_model_of_its_own_without_the_thresholds_of_the_original(original: Bundle, quantised: Bundle) -> None:
    assert original.manifest.calibration is not None
    assert quantised.manifest.calibration is None
    assert quantised.model_id != original.model_id
    assert quantised.manifest.name == "small int8"
    assert quantised.manifest.card == f"a test. Quantised to 8 bits from model {original.model_id}."
    for field in ("preprocessing", "flip_sum", "embedding_dim", "opset", "backbone", "licence"):
        assert getattr(quantised.manifest, field) == getattr(original.manifest, field)
    assert set(quantised.manifest.files) == {"model.onnx"}


def test_weights_are_int8_with_a_scale_for_each_channel(quantised: Bundle) -> None:
    graph = onnx.load(quantised.model_path).graph
    kinds = {node.op_type for node in graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
    assert not {"PRelu", "BatchNormalization"} & kinds
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [values for values in constants.values() if values.ndim == 4]
    assert weights
    assert all(values.dtype == np.int8 for values in weights)
    scales = [
        constants[node.input[1]] for node in graph.node if node.input[0] in constants and node.input[1] in constants
    ]
    assert max(scale.size for scale in scales) > 1


def test_what_is_too_far_from_the_original_is_refused(
    original: Bundle, crops: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "MIN_MEAN_COSINE", 0.9999999)
    with pytest.raises(
        ExportRefusedError, match=r"too far from the float32 one: mean cosine 0\.9.*nothing was written"
    ):
        quantize_bundle(original, tmp_path / "bundle", crops)
    assert not (tmp_path / "bundle").exists()


def test_bad_input_is_refused(original: Bundle, quantised: Bundle, crops: NDArray[np.uint8], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at least 32 aligned crops.*got 3"):
        quantize_bundle(original, tmp_path / "bundle", crops[:3])
    with pytest.raises(ExportRefusedError, match="quantised already"):
        quantize_bundle(quantised, tmp_path / "bundle", crops)
    old = Bundle(original.path, original.manifest.model_copy(update={"opset": 11}))
    with pytest.raises(ExportRefusedError, match=r"opset 11.*needs 13"):
        quantize_bundle(old, tmp_path / "bundle", crops)
    with pytest.raises(BundleError, match="holds a bundle already"):
        quantize_bundle(original, quantised.path, crops)
    assert load_bundle(quantised.path).model_id == quantised.model_id
    assert not (tmp_path / "bundle").exists()


def test_the_command_fits_thresholds_to_the_calibration_images(original: Bundle, folder: Path, tmp_path: Path) -> None:
    command = ["export", "--run", str(original.path), "--output", str(tmp_path / "bundle"), "--quantize", "int8"]
    result = CliRunner().invoke(app, [*command, "--calibration-images", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "small int8" in result.output
    assert "next: facemargin calibrate" not in result.output
    bundle = load_bundle(tmp_path / "bundle")
    fitted, old = bundle.manifest.calibration, original.manifest.calibration
    assert fitted is not None
    assert old is not None
    assert (fitted.people, fitted.source) == (PEOPLE, folder.name)
    assert fitted.rows[0].threshold != old.rows[0].threshold


def test_larger_crops_are_used_too_and_others_are_named(original: Bundle, folder: Path, tmp_path: Path) -> None:
    person = tmp_path / "people" / "one"
    person.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.rglob("*.png"))[:6]):
        crop = decode(path.read_bytes())
        scale = 1 + number % 3  # the first is not the largest
        larger = np.repeat(np.repeat(crop, scale, axis=0), scale, axis=1)
        (person / f"{number}.png").write_bytes(encode_png(larger))
    height, width = TEMPLATES[original.manifest.preprocessing.template].size
    assert _crops_in(tmp_path / "people", original).shape == (6, height, width, 3)
    (person / "wide.png").write_bytes(encode_png(np.zeros((112, 224, 3), np.uint8)))
    with pytest.raises(DataError, match=r"wide.png is 112x224, not a crop .*112x112"):
        _crops_in(tmp_path / "people", original)


def test_a_bundle_needs_crops_and_takes_no_options_of_a_run(original: Bundle, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--calibration-images DIR or --crops DIR"):
        publish_int8(original.path, tmp_path / "bundle")
    with pytest.raises(ConfigError, match="flip_sum belong to the export of a run"):
        publish_int8(original.path, tmp_path / "bundle", crops=folder, flip_sum=True)
    with pytest.raises(ConfigError, match="goes with --quantize"):
        CliRunner().invoke(
            app,
            ["export", "--run", "r", "--output", "o", "--calibration-images", str(folder)],
            catch_exceptions=False,
        )
