"""What make_head accepts, what it refuses and how it says so."""

import copy
import json

import pytest
import torch

from facemargin.heads import HEADS, Annealing, make_head, option_names

MARGINLESS = [name for name, head in HEADS.items() if not head.has_margin]


def test_the_eight_heads():
    assert set(HEADS) == {
        *("softmax", "modified", "l-softmax", "a-softmax", "am-softmax", "l2-softmax", "normface", "arcface"),
    }
    assert all(head.name == name for name, head in HEADS.items())


def test_which_heads_have_a_margin():
    assert set(MARGINLESS) == {"softmax", "modified", "l2-softmax", "normface"}


def test_an_unknown_head_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"head='sphere'.*softmax.*arcface"):
        make_head("sphere", embedding_dim=2, num_classes=3)


@pytest.mark.parametrize("name", MARGINLESS)
def test_heads_without_a_margin_refuse_one(name):
    with pytest.raises(ValueError, match=rf"margin=0.35.*{name}.*takes no margin"):
        make_head(name, embedding_dim=2, num_classes=3, margin=0.35)


@pytest.mark.parametrize("name", HEADS)
def test_an_unknown_option_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"sharpness=3.*label_smoothing"):
        make_head(name, embedding_dim=2, num_classes=3, sharpness=3)
    assert {"partition", "class_weights", "temperature", "label_smoothing", "ignore_index"} <= set(option_names(name))


@pytest.mark.parametrize(
    ("name", "margin", "range_"),
    [
        ("l-softmax", 0.99, "m ≥ 1"),
        ("a-softmax", float("inf"), "m ≥ 1"),
        ("am-softmax", -0.1, "m ≥ 0"),
        ("am-softmax", float("nan"), "m ≥ 0"),
        ("arcface", -0.1, r"\[0, π\]"),
        ("arcface", 3.2, r"\[0, π\]"),
    ],
)
def test_a_wrong_margin_is_named_with_its_range(name, margin, range_):
    with pytest.raises(ValueError, match=rf"margin={margin}.*{range_}"):
        make_head(name, embedding_dim=2, num_classes=3, margin=margin)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_dim": 0}, "embedding_dim=0"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"label_smoothing": 1.1}, r"label_smoothing=1.1.*\[0, 1\]"),
        ({"class_weights": [1.0, 2.0]}, r"class_weights have shape \(2,\); \(3,\)"),
        ({"class_weights": [1.0, -2.0, 1.0]}, "class_weights.*≥ 0"),
        ({"class_weights": [1.0, float("nan"), 1.0]}, "class_weights.*finite"),
    ],
)
def test_wrong_common_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_head("softmax", **{"embedding_dim": 2, "num_classes": 3, **options})


def test_l2_softmax_with_two_classes_needs_alpha():
    with pytest.raises(ValueError, match=r"alpha.*num_classes=2.*give alpha"):
        make_head("l2-softmax", embedding_dim=2, num_classes=2)
    assert make_head("l2-softmax", embedding_dim=2, num_classes=2, alpha=5.0).scale.item() == 5.0


@pytest.mark.parametrize("name", HEADS)
def test_options_are_json_and_build_the_same_head(name):
    head = make_head(name, embedding_dim=3, num_classes=4, class_weights=[1, 2, 3, 4.1], temperature=2.0)
    options = json.loads(json.dumps(head.options()))
    twin = make_head(**options)
    assert twin.options() == head.options()
    twin.load_state_dict(head.state_dict())
    x, y = torch.randn(5, 3), torch.arange(5) % 4
    assert torch.equal(twin(x, y), head(x, y))


def test_annealing_may_come_from_a_config_file():
    numbers = {"base": 9.0, "gamma": 0.5, "power": 2.0, "minimum": 1.0}
    head = make_head("a-softmax", embedding_dim=3, num_classes=4, annealing=numbers)
    assert head.annealing == Annealing(**numbers)


def test_class_weights_are_copied():
    weights = torch.ones(4)
    head = make_head("softmax", embedding_dim=3, num_classes=4, class_weights=weights)
    weights.zero_()
    assert head.options()["class_weights"] == [1, 1, 1, 1]


@pytest.mark.parametrize("name", HEADS)
def test_weight_decay_goes_only_where_it_is_real(name):
    head = make_head(name, embedding_dim=3, num_classes=4, **({"learn_alpha": True} if name == "l2-softmax" else {}))
    decay = {id(p): group["weight_decay"] for group in head.parameter_groups(0.05) for p in group["params"]}
    assert set(decay) == {id(p) for p in head.parameters()}
    assert decay[id(head.weight)] == (0.05 if name in ("softmax", "l-softmax", "l2-softmax") else 0.0)
    for key, parameter in head.named_parameters():
        if key != "weight":
            assert decay[id(parameter)] == 0.0
    torch.optim.SGD(head.parameter_groups(0.05), lr=0.1)


@pytest.mark.parametrize("name", HEADS)
def test_initial_rows_are_reproducible_and_of_length_about_one(name):
    weights = []
    for _ in range(2):
        torch.manual_seed(12)
        weights.append(make_head(name, embedding_dim=128, num_classes=50).weight)
    assert torch.equal(*weights)
    assert weights[0].detach().norm(dim=1).mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", HEADS)
def test_a_copy_is_independent_and_equal(name):
    head = make_head(name, embedding_dim=3, num_classes=4)
    twin = copy.deepcopy(head)
    x, y = torch.randn(5, 3), torch.arange(5) % 4
    assert torch.equal(twin(x, y), head(x, y))
    twin.advance()
    assert int(head.step) == 0


def test_print_names_the_margin():
    assert "margin=0.35" in repr(make_head("am-softmax", embedding_dim=3, num_classes=4))
