from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from facemargin.backbones import BACKBONES, make_backbone
from facemargin.bundle import load_bundle
from facemargin.embedder import Embedder
from facemargin.errors import CheckpointError
from facemargin.preprocessing import Preprocessing
from training.importing import import_checkpoint, read_state, restore_backbone

SMALL = Preprocessing(size=(32, 32))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return make_backbone("mobilefacenet", embedding_dim=24, width=0.25, input_size=(32, 32)).state_dict()


def test_a_checkpoint_becomes_a_bundle_that_embeds_alike(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    bundle = import_checkpoint(path, tmp_path / "b", backbone="mobilefacenet", preprocessing=SMALL, licence="MIT")
    manifest = load_bundle(bundle.path).manifest
    assert (manifest.name, manifest.embedding_dim, manifest.licence) == ("weights", 24, "MIT")
    assert manifest.backbone is not None
    assert (manifest.backbone["name"], manifest.backbone["width"]) == ("mobilefacenet", 0.25)
    assert sorted(manifest.files) == ["model.onnx", "weights.safetensors"]
    model = make_backbone("mobilefacenet", embedding_dim=24, width=0.25, input_size=(32, 32)).eval()
    model.load_state_dict(state)
    crops = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model(torch.from_numpy(SMALL.normalise(crops)))).numpy()
    np.testing.assert_allclose(Embedder(bundle).embed(crops), expected, atol=1e-4)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("nested", [False, True])
def test_every_form_of_state_dict_is_read(tmp_path: Path, state: dict[str, Tensor], suffix: str, nested: bool) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        prefix = "_orig_mod." if nested else ""
        safetensors.torch.save_file({prefix + name: value for name, value in state.items()}, path)
    else:
        torch.save({"model": {"backbone": state}} if nested else state, path)
    found = read_state(path)
    assert set(found) == set(state)
    for name, value in state.items():
        assert torch.equal(found[name], value)


@pytest.mark.parametrize("name", BACKBONES)
def test_width_and_dimension_are_read_off_the_weights(tmp_path: Path, name: str) -> None:
    original = make_backbone(name, embedding_dim=40, width=0.125, input_size=(48, 32))
    found = restore_backbone(original.state_dict(), name, (48, 32), tmp_path)
    assert found.options() == original.options()
    for key, value in original.state_dict().items():
        assert torch.equal(found.state_dict()[key], value)


def test_half_precision_weights_become_float32(tmp_path: Path, state: dict[str, Tensor]) -> None:
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    torch.save(half, tmp_path / "half.pt")
    assert {value.dtype for value in read_state(tmp_path / "half.pt").values()} == {torch.float32, torch.int64}


class Dangerous:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path("pickle-ran"),)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (lambda path: None, "missing.pt", "no such file"),
        (lambda path: path.write_bytes(b""), "empty.pt", "damaged or holds more than weights"),
        (lambda path: path.write_bytes(b"this is text"), "text.pth", "damaged or holds more than weights"),
        (lambda path: path.write_bytes(b"this is text"), "text.safetensors", "damaged or holds more than weights"),
        (lambda path: torch.save({"model": Dangerous()}, path), "pickle.pt", "damaged or holds more than weights"),
        (lambda path: torch.save({"epoch": 3}, path), "numbers.pt", "holds no state dict"),
        (lambda path: torch.save([1, 2], path), "list.pt", "holds no state dict"),
        (lambda path: path.write_bytes(b"x"), "weights.h5", r"ends in \.pt, \.pth, \.safetensors"),
    ],
)
def test_what_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], object], name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pickle-ran").exists()


def test_weights_of_another_network(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match="does not hold a iresnet18: there is no 'stem"):
        restore_backbone(state, "iresnet18", (32, 32), tmp_path)
    with pytest.raises(CheckpointError, match=r"does not fit a mobilefacenet for \(112, 112\): size mismatch"):
        restore_backbone(state, "mobilefacenet", (112, 112), tmp_path)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="backbone must be one of iresnet18"):
        import_checkpoint(tmp_path / "w.pt", tmp_path / "b", backbone="resnet", preprocessing=SMALL)
    with pytest.raises(CheckpointError):
        import_checkpoint(tmp_path / "w.pt", tmp_path / "b", backbone="sphereface20", preprocessing=SMALL)
    assert not (tmp_path / "b").exists()
