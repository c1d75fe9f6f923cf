"""What must hold for any input, searched by hypothesis: monotony, invariances, and what options mean."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from facemargin.heads import HEADS, Annealing, Head, make_head

D, C, N = 4, 5, 7
MARGIN_HEADS = [name for name, head in HEADS.items() if head.has_margin]

seeds = st.integers(0, 2**32 - 1)
angles = st.floats(0, math.pi, allow_subnormal=False)
schedules = st.one_of(st.none(), st.floats(0, 1e4).map(lambda base: Annealing(base=base, gamma=0.0)))
few = settings(deadline=None, max_examples=5, derandomize=True)
more = settings(deadline=None, max_examples=20, derandomize=True)


@st.composite
def margins_of(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """Any margin that the head takes, whole numbers and special ones among them."""
    if name == "am-softmax":
        return {"margin": draw(st.floats(0, 4)), "scale": draw(st.floats(0.1, 100))}
    if name == "arcface":
        return {"margin": draw(st.one_of(st.sampled_from([0.0, math.pi]), st.floats(0, math.pi))), "scale": 64.0}
    margin = draw(st.one_of(st.integers(1, 9), st.floats(1, 9)))
    return {"margin": margin, "annealing": draw(schedules)}


def build(name: str, seed: int, **options: Any) -> Head:
    torch.manual_seed(seed)
    head = make_head(name, embedding_dim=D, num_classes=C, **options).double()
    with torch.no_grad():
        head.weight.mul_(torch.rand(C, 1) * 3 + 0.1)
        if head.bias is not None:
            head.bias.normal_()
    return head


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, dtype=torch.float64, generator=generator)
    return x * 10 ** torch.empty(N, 1).uniform_(-2, 2, generator=generator), torch.arange(N) % C


def twin_of(head: Head, seed: int, weight: Tensor, bias: Tensor | None = None, **options: Any) -> Head:
    """A head like another one with other class rows."""
    twin = build(head.name, seed, **options)
    with torch.no_grad():
        twin.weight.copy_(weight)
        if head.bias is not None and twin.bias is not None:
            twin.bias.copy_(head.bias if bias is None else bias)
    return twin


def assert_same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", MARGIN_HEADS)
@more
@given(data=st.data(), theta=angles, further=angles)
def test_a_larger_angle_never_scores_higher(name, data, theta, further):
    near, far = sorted((theta, further))
    head = build(name, 0, **data.draw(margins_of(name)))
    unit = torch.tensor([[math.cos(t), math.sin(t), 0, 0] for t in (near, far)], dtype=torch.float64)
    row = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
    f_near, f_far = head.target_scores(head.features(unit), row.expand_as(unit)).tolist()
    assert f_far <= f_near + 1e-13 * (1 + abs(f_near)) * float(head.scale or 1)


@pytest.mark.parametrize("name", MARGIN_HEADS)
@more
@given(data=st.data(), seed=seeds)
def test_the_target_score_is_never_above_the_plain_one(name, data, seed):
    head = build(name, seed, **data.draw(margins_of(name)))
    x, y = batch(seed)
    x[0], x[1] = head.weight.detach()[y[0]], -2 * head.weight.detach()[y[1]]
    f_y = head.target_scores(head.features(x), head.weight[y]).detach()
    z_y = head.logits(x).detach().gather(1, y[:, None])[:, 0]
    assert bool((f_y <= z_y + 1e-12 * z_y.abs().clamp_min(float(head.scale or 1))).all())


@pytest.mark.parametrize("name", HEADS)
@few
@given(seed=seeds)
def test_a_rotation_of_the_space_changes_nothing(name, seed):
    head = build(name, seed)
    x, y = batch(seed)
    rotation = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q
    twin = twin_of(head, seed, head.weight.detach() @ rotation.T)
    assert_same(twin(x @ rotation.T, y), head(x, y))
    assert_same(twin.logits(x @ rotation.T), head.logits(x))


@pytest.mark.parametrize("name", HEADS)
@few
@given(seed=seeds, exponent=st.floats(-3, 3))
def test_lengths_do_not_count_exactly_where_they_are_normalised(name, seed, exponent):
    head = build(name, seed)
    x, y = batch(seed)
    factors = torch.full((N, 1), 10.0**exponent, dtype=torch.float64)
    shorter = twin_of(head, seed, head.weight.detach() * factors[:C])
    if head.unit_features:
        assert_same(head(x * factors, y), head(x, y))
    if head.unit_weights:
        assert_same(shorter(x, y), head(x, y))
    if abs(exponent) > 0.1:
        bias = 0 if head.bias is None else head.bias
        z = head.logits(x) - bias
        assert head.unit_features or not torch.allclose(head.logits(x * factors) - bias, z)
        assert head.unit_weights or not torch.allclose(shorter.logits(x) - bias, z)


@pytest.mark.parametrize("name", HEADS)
@few
@given(seed=seeds, order=st.permutations(range(C)))
def test_the_order_of_classes_does_not_matter(name, seed, order):
    weights = torch.rand(C, generator=torch.Generator().manual_seed(seed)) + 0.1
    head = build(name, seed, class_weights=weights, label_smoothing=0.1)
    place = torch.tensor(order)
    twin = twin_of(
        head,
        seed,
        head.weight.detach()[place],
        None if head.bias is None else head.bias.detach()[place],
        class_weights=weights[place],
        label_smoothing=0.1,
    )
    x, y = batch(seed)
    assert_same(twin(x, place.argsort()[y]), head(x, y))
    assert_same(twin.logits(x), head.logits(x)[:, place])


@pytest.mark.parametrize("name", HEADS)
@few
@given(seed=seeds)
def test_options_that_say_nothing_change_nothing(name, seed):
    x, y = batch(seed)
    plain = build(name, seed)(x, y)
    for nothing in ({"label_smoothing": 0.0}, {"temperature": 1.0}, {"class_weights": [1.0] * C}):
        assert torch.equal(build(name, seed, **nothing)(x, y), plain)
    assert_same(build(name, seed, class_weights=[0.37] * C)(x, y), plain)  # only their ratios count


@pytest.mark.parametrize("name", HEADS)
@few
@given(seed=seeds, dropped=st.integers(0, C - 1))
def test_a_class_weight_of_zero_removes_the_samples_of_the_class(name, seed, dropped):
    head = build(name, seed, class_weights=[0.0 if j == dropped else 1.0 for j in range(C)])
    x, y = batch(seed)
    kept = y != dropped
    assert_same(head(x, y), build(name, seed)(x[kept], y[kept]))
    assert_same(head(x, y), build(name, seed, ignore_index=dropped)(x, y))


@pytest.mark.parametrize("name", HEADS)
@few
@given(seed=seeds, temperature=st.floats(0.05, 20))
def test_a_temperature_divides_the_margined_scores(name, seed, temperature):
    """For heads with a scale: the same as the scale divided, where no bias is in the way."""
    head = build(name, seed, temperature=temperature)
    x, y = batch(seed)
    margined = head.logits(x).scatter(
        1,
        y[:, None],
        head.target_scores(head.features(x), head.weight[y], None if head.bias is None else head.bias[y])[:, None],
    )
    assert_same(head(x, y), torch.nn.functional.cross_entropy(margined / temperature, y))
    if head.scale is not None and not head.has_bias:
        assert_same(head(x, y), build(name, seed, scale=float(head.scale) / temperature)(x, y))
    if not head.unit_features and not head.has_bias:
        assert_same(head(x, y), build(name, seed)(x / temperature, y))


@pytest.mark.parametrize("name", HEADS)
@few
@given(seed=seeds, copies=st.integers(2, 4))
def test_the_loss_is_a_mean_that_copies_of_the_batch_do_not_move(name, seed, copies):
    head = build(name, seed, label_smoothing=0.2)
    x, y = batch(seed)
    assert_same(head(x.repeat(copies, 1), y.repeat(copies)), head(x, y))
    each = torch.stack([head(x[i : i + 1], y[i : i + 1]) for i in range(N)])
    assert_same(head(x, y), each.mean())
