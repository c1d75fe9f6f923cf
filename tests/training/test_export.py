"""Export: what is written runs as PyTorch does; what disagrees is refused and leaves nothing behind."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facemargin.backbones import Backbone, make_backbone
from facemargin.bundle import Bundle, load_bundle
from facemargin.embedder import Embedder
from facemargin.errors import BundleError, ExportRefusedError
from facemargin.preprocessing import Preprocessing
from training import export
from training.export import OPSET, check_parity, export_bundle, plain_copy, to_onnx
from training.synthetic import draw_face, draw_identity, draw_scene

SIZE = (32, 32)
PREPROCESSING = Preprocessing(size=SIZE)


@pytest.fixture(scope="module")
def crops() -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return np.stack([draw_face(draw_identity(rng), draw_scene(rng), rng) for _ in range(9)])


def network(name: str = "sphereface20", seed: int = 0) -> Backbone:
    """A small network whose batch statistics are not the initial ones."""
    torch.manual_seed(seed)
    model = make_backbone(name, embedding_dim=16, width=0.125, input_size=SIZE)
    for _ in range(3):
        model(torch.randn(8, 3, *SIZE))
    return model


@dataclass(frozen=True)
class Exported:
    model: Backbone
    before: dict[str, Tensor]
    bundle: Bundle
    fields: dict[str, Any]


@pytest.fixture(scope="module")
def exported(crops: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model = network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fields: dict[str, Any] = {
        "backbone": model.options(),
        "head": {"name": "am-softmax", "scale": 30.0},
        "card": "a test",
        "licence": "CC0-1.0",
        "flip_sum": True,
    }
    target = tmp_path_factory.mktemp("export") / "bundle"
    export_bundle(model, target, crops=crops, preprocessing=PREPROCESSING, name="small", **fields)
    return Exported(model, before, load_bundle(target), fields)


@pytest.fixture
def converted(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The conversion, which takes seconds, replaced by its result for ``network()``."""
    data = exported.bundle.model_path.read_bytes()
    monkeypatch.setattr(export, "to_onnx", lambda model, size: data)
    return data


@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet"])
def test_the_bundle_gives_the_embeddings_of_pytorch(name: str, tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    model = network(name).to(memory_format=torch.channels_last)
    bundle = export_bundle(model, tmp_path / "bundle", crops=crops, preprocessing=PREPROCESSING, name="test")
    model.eval()
    with torch.no_grad():
        expected = nn.functional.normalize(model(torch.from_numpy(PREPROCESSING.normalise(crops)))).numpy()
    embedder = Embedder(load_bundle(bundle.path))
    np.testing.assert_allclose(embedder.embed(crops), expected, atol=2e-5)
    np.testing.assert_allclose(embedder.embed(crops[:1]), expected[:1], atol=2e-5)


def test_the_manifest_says_what_was_given(exported: Exported) -> None:
    manifest = exported.bundle.manifest
    assert manifest.embedding_dim == 16
    assert manifest.opset == OPSET
    assert {key: getattr(manifest, key) for key in exported.fields} == exported.fields
    assert torch.__version__.startswith(manifest.versions["torch"])
    assert set(manifest.files) == {"model.onnx", "weights.safetensors"}


def test_the_weights_rebuild_the_network(exported: Exported) -> None:
    again = make_backbone(**exported.fields["backbone"])
    again.load_state_dict(safetensors.torch.load_file(exported.bundle.path / "weights.safetensors"))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in exported.before.items())


def test_export_leaves_the_model_as_it_was(exported: Exported) -> None:
    assert exported.model.training
    assert all(torch.equal(exported.before[key], value) for key, value in exported.model.state_dict().items())


def test_the_model_file_is_whole_and_names_no_path(exported: Exported) -> None:
    data = exported.bundle.model_path.read_bytes()
    model = onnx.load_from_string(data)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert [dim.dim_param or dim.dim_value for dim in shape] == ["batch", 3, *SIZE]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert b".py" not in data


def test_the_same_weights_give_the_same_file(exported: Exported) -> None:
    assert to_onnx(plain_copy(network()), SIZE) == exported.bundle.model_path.read_bytes()


@pytest.mark.usefixtures("converted")
def test_disagreement_is_refused_and_nothing_is_left(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    with pytest.raises(ExportRefusedError, match=r"disagrees with PyTorch: cosine -?\d\.\d+ in batches of 1, 0\.9999"):
        export_bundle(network(seed=1), tmp_path / "bundle", crops=crops, preprocessing=PREPROCESSING, name="small")
    assert list(tmp_path.iterdir()) == []


class Centred(nn.Module):
    """Embeddings that depend on the rest of the batch."""

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)[:, :24]
        return flat - flat.mean(0, keepdim=True) * (flat.shape[0] > 1)


def test_a_model_that_only_works_alone_is_refused() -> None:
    images = np.random.default_rng(0).standard_normal((4, 3, *SIZE), dtype=np.float32)
    model = Centred().eval()
    with pytest.raises(ExportRefusedError, match="disagrees"):
        check_parity(model, to_onnx(model, SIZE), images)


@pytest.mark.usefixtures("converted")
def test_values_that_are_not_finite_are_refused(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    model = network()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ExportRefusedError, match="zero or not finite"):
        export_bundle(model, tmp_path / "bundle", crops=crops, preprocessing=PREPROCESSING, name="small")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_conversion_is_refused(
    tmp_path: Path, crops: NDArray[np.uint8], converted: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "to_onnx", lambda model, size: converted[:-1000])
    with pytest.raises(ExportRefusedError, match="ONNX Runtime cannot run the model"):
        export_bundle(network(), tmp_path / "bundle", crops=crops, preprocessing=PREPROCESSING, name="small")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("converted")
def test_an_existing_bundle_stays_unless_told(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    def once(*, name: str, overwrite: bool = False) -> Bundle:
        return export_bundle(
            network(), tmp_path / "b", crops=crops, preprocessing=PREPROCESSING, name=name, overwrite=overwrite
        )

    once(name="first")
    with pytest.raises(BundleError, match="holds a bundle already"):
        once(name="second")
    assert load_bundle(tmp_path / "b").manifest.name == "first"
    once(name="third", overwrite=True)
    assert load_bundle(tmp_path / "b").manifest.name == "third"


def test_parity_needs_a_crop(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="at least one aligned crop"):
        export_bundle(network(), tmp_path / "bundle", crops=crops[:0], preprocessing=PREPROCESSING, name="small")
