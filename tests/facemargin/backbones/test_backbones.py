"""Contract test over the registry: every backbone, every promise."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from facemargin.backbones import BACKBONES, Backbone, make_backbone

SMALL: dict[str, Any] = {"embedding_dim": 16, "width": 0.125}


@pytest.fixture(params=list(BACKBONES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def small(name: str, **changes: object) -> Backbone:
    torch.manual_seed(0)
    return make_backbone(name, **{"input_size": (32, 32), **SMALL, **changes})


@pytest.mark.parametrize("size", [(32, 32), (48, 33), (64, 64), (112, 96)])
def test_gives_one_raw_embedding_an_image(name: str, size: tuple[int, int]) -> None:
    model = small(name, input_size=size)
    embeddings = model(torch.randn(2, 3, *size))
    assert embeddings.shape == (2, 16)
    assert embeddings.isfinite().all()


def test_the_registry_name_is_the_class_name(name: str) -> None:
    assert BACKBONES[name].name == name


def test_options_rebuild_the_same_architecture(name: str) -> None:
    model = small(name, dropout=0.25)
    again = make_backbone(**model.options())
    assert again.options() == model.options()
    again.load_state_dict(model.state_dict())


def test_weights_depend_on_the_seed_alone(name: str) -> None:
    first, second = small(name).state_dict(), small(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(1)
    other = make_backbone(name, input_size=(32, 32), **SMALL).state_dict()
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = small(name)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    silent = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert silent == []
    # In deep layers gradients may vanish in float32; in linear layers they must not.
    assert all(value.grad is not None and value.grad.any() for value in model.parameters() if value.ndim == 2)


def test_embeddings_of_different_images_differ_before_training(name: str) -> None:
    model = small(name).eval()
    out = model(torch.randn(2, 3, 32, 32))
    assert (out[0] - out[1]).abs().max() > 1e-5


def test_eval_does_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    model = small(name).eval()
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[:2], model(images[:2]), rtol=1e-4, atol=1e-5)


def test_memory_format_changes_speed_not_results(name: str) -> None:
    model = small(name).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        got = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


def test_torch_export_keeps_the_batch_dynamic(name: str) -> None:
    model = small(name).eval()
    program = torch.export.export(model, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim("n")},))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model(images), rtol=1e-4, atol=1e-5)


def test_width_scales_channels_not_the_embedding(name: str) -> None:
    narrow, wide = (small(name, width=w) for w in (0.25, 0.5))
    count = [sum(p.numel() for p in m.parameters()) for m in (narrow, wide)]
    assert count[0] < count[1]
    assert wide.embedding_dim == narrow.embedding_dim == 16


def test_dropout_acts_in_training_only(name: str) -> None:
    model = small(name, dropout=0.5)
    images = torch.randn(8, 3, 32, 32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_dim": 0}, "embedding_dim must be an integer of 1 or more, got 0"),
        ({"width": 0.0}, "width must be a finite number above 0, got 0.0"),
        ({"width": math.nan}, "width must be a finite number above 0, got nan"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"input_size": (31, 112)}, r"input_size must be \(height, width\), integers of 32 or more, got \(31, 112\)"),
        ({"input_size": (112,)}, "input_size must be"),
    ],
)
def test_a_wrong_argument_is_named(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(name, **changes)


def test_each_parameter_and_layer_is_in_one_part(name: str) -> None:
    model = small(name)
    parts = list(model.parts().values())
    layers = [layer for layer in model.modules() if not list(layer.children())]
    found = [id(layer) for part in parts for layer in part.modules() if not list(layer.children())]
    assert sorted(found) == sorted(map(id, layers))
    assert sorted(id(p) for part in parts for p in part.parameters()) == sorted(map(id, model.parameters()))
    assert model.state_dict().keys() == small(name).state_dict().keys()  # parts register nothing


def test_parts_are_in_the_order_in_which_an_image_passes_them(name: str) -> None:
    model, passed = small(name), []
    for number, part in enumerate(model.parts().values()):
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(lambda *_, number=number: passed.append(number))
    model(torch.randn(2, 3, 32, 32))
    assert passed == sorted(passed)
    assert set(passed) == set(range(len(model.parts())))


def test_the_last_part_ends_with_the_projection(name: str) -> None:
    parts = small(name).parts()
    assert list(parts)[-1] == "embedding"
    assert any(isinstance(layer, nn.Linear) for layer in parts["embedding"].modules())


def test_an_iresnets_stages_are_its_papers() -> None:
    counts = [len(list(part.children())) for part in small("iresnet34").parts().values()]
    assert counts[1:5] == [3, 4, 6, 3]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"iresnet18, .*sphereface20; got 'resnet'"):
        make_backbone("resnet")


@pytest.mark.parametrize("shape", [(2, 3, 32, 31), (2, 1, 32, 32), (3, 32, 32)])
def test_images_of_another_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must have shape \(N, 3, 32, 32\), got"):
        small(name)(torch.zeros(shape))
