"""A config that differs from a bundle, and a bundle whose own preprocessing is wrong, are found."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from facemargin.preprocessing import Preprocessing
from training.doctor import agreement
from training.doctor.agreement import Trial, agreement_findings, alternatives, clearly_better, trial_places
from training.doctor.case import Case


@pytest.fixture
def compared(make_tiny_bundle: Any) -> Callable[..., Any]:
    def make(expected: Preprocessing, stated: Preprocessing) -> Any:
        case = Case((), make_tiny_bundle(preprocessing=stated), expected)
        (found,) = agreement_findings(case)
        return found

    return make


@pytest.mark.parametrize("mean", [127.5, (127.5, 127.5, 127.5)])
def test_equal_descriptions_are_ok(compared: Callable[..., Any], mean: Any) -> None:
    assert compared(Preprocessing(), Preprocessing(mean=mean)).state == "ok"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"std": 128.0}, "std 127.5 against 128.0"),
        ({"mean": (127.5, 0.0, 127.5)}, "mean 127.5 against (127.5, 0.0, 127.5)"),
        ({"colour": "bgr"}, "colour rgb against bgr"),
        ({"size": (112, 96), "template": "sphereface-112x96"}, "template arcface-112 against sphereface-112x96"),
    ],
)
def test_each_field_that_differs_is_a_problem(change: dict[str, Any], words: str, compared: Callable[..., Any]) -> None:
    found = compared(Preprocessing(), Preprocessing(**change))
    assert found.state == "problem"
    assert words in found.detail


def test_the_weights_that_a_run_starts_from_must_agree() -> None:
    (right,) = agreement_findings(Case((), None, Preprocessing(), ("the run x", Preprocessing())))
    (wrong,) = agreement_findings(Case((), None, Preprocessing(), ("the run x", Preprocessing(std=1.0))))
    assert (right.state, wrong.state) == ("ok", "problem")
    assert "the run x" in wrong.detail


def test_the_alternatives_swap_the_colours_and_never_repeat_what_is_stated() -> None:
    found = alternatives(Preprocessing(colour="bgr", mean=(127.5, 127.5, 127.5)))
    assert "colour rgb" in found
    assert "(v − 127.5) / 127.5" not in found
    assert len({one.model_dump_json() for one in found.values()}) == len(found)


def test_a_gain_must_be_large_and_sure() -> None:
    stated = Trial("", np.linspace(0.8, 0.9, 10))
    rng = np.random.default_rng(0)
    assert clearly_better(Trial("a", stated.areas + 0.03 + 0.005 * rng.standard_normal(10)), stated)
    assert not clearly_better(Trial("b", stated.areas + 0.005), stated)
    assert not clearly_better(Trial("c", stated.areas + 0.03 + 0.1 * rng.standard_normal(10)), stated)


def test_a_gain_of_few_groups_is_not_sure() -> None:
    stated = Trial("", np.zeros(10))
    lucky = np.full(10, 0.01)
    lucky[:2] = 0.2
    assert lucky.mean() > agreement.GAIN  # and 1.9 standard errors: two groups make all of it
    assert not clearly_better(Trial("lucky", lucky), stated)


def people_of_colour(seed: int, count: int = 60) -> dict[str, list[Any]]:
    """People told apart by the red of their picture alone, while blue is noise."""
    rng = np.random.default_rng(seed)
    people = {}
    for k in range(count):
        red = rng.integers(0, 256, (7, 7))
        pictures = []
        for _ in range(3):
            picture = np.zeros((7, 7, 3), dtype=np.uint8)
            picture[..., 0] = np.clip(red + rng.normal(0, 25, (7, 7)), 0, 255)
            picture[..., 2] = rng.integers(0, 256, (7, 7))
            pictures.append(picture.repeat(4, axis=0).repeat(4, axis=1))
        people[f"p{k:02}"] = pictures
    return people


@pytest.fixture
def red_bundle(tmp_path: Any, make_tiny_bundle: Any) -> Callable[..., Any]:
    """A model that looks at its first channel only; with ``bgr`` in the manifest it is given blue."""
    import onnx
    import onnx.numpy_helper

    from facemargin.bundle import Manifest, write_bundle

    helper = onnx.helper
    weights = np.zeros((3, 49, 32), dtype=np.float32)
    weights[0] = np.random.default_rng(0).standard_normal((49, 32))
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["crops"], ["blocks"], kernel_shape=[4, 4], strides=[4, 4]),
            helper.make_node("Flatten", ["blocks"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
        ],
        "red",
        [helper.make_tensor_value_info("crops", onnx.TensorProto.FLOAT, ["N", 3, 28, 28])],
        [helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["N", 32])],
        [onnx.numpy_helper.from_array(weights.reshape(147, 32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def make(colour: str) -> Any:
        manifest = Manifest(
            name="red", embedding_dim=32, opset=17, preprocessing=Preprocessing(size=(28, 28), colour=colour)
        )
        return write_bundle(tmp_path / colour, manifest, {"model.onnx": model.SerializeToString()})

    return make


@pytest.mark.parametrize(("colour", "state"), [("rgb", "ok"), ("bgr", "problem")])
def test_the_model_is_asked_for_its_colour_order(
    colour: str, state: str, red_bundle: Any, write: Any, case_of: Callable[..., Case]
) -> None:
    case = case_of(data=write("set", people_of_colour(0)))
    case.bundle = red_bundle(colour)
    (found,) = agreement_findings(case)
    assert found.state == state
    assert ("colour rgb" in found.detail) == (colour == "bgr")


def test_too_few_people_with_two_pictures_cannot_be_asked(
    red_bundle: Any, write: Any, case_of: Callable[..., Case]
) -> None:
    case = case_of(data=write("set", people_of_colour(0, count=8)))
    case.bundle = red_bundle("rgb")
    (found,) = agreement_findings(case)
    assert found.state == "missing"


def test_the_trial_takes_people_with_two_pictures_and_a_few_of_each(
    monkeypatch: pytest.MonkeyPatch, drawn_faces: Any, write: Any, case_of: Callable[..., Case]
) -> None:
    monkeypatch.setattr(agreement, "OF_ONE", 2)
    people = dict(drawn_faces) | {"alone": drawn_faces["person-0"][:1]}
    data = case_of(data=write("set", people)).sets[0]
    names = [data.person(int(place)) for place in trial_places(data, data.places)]
    assert {name: names.count(name) for name in names} == {f"person-{k}": 2 for k in range(8)}
