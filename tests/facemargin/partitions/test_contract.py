"""What every head promises with every partition; an addition to either registry is tested by default."""

import itertools
import json

import pytest
import torch
from torch import Tensor

from facemargin.heads import HEADS, Head, make_head
from facemargin.partitions import PARTITIONS

D, C, N = 6, 5, 8
PAIRS = [pytest.param(*pair, id="-".join(pair)) for pair in itertools.product(HEADS, PARTITIONS)]
pytestmark = pytest.mark.parametrize(("name", "partition"), PAIRS)


def build(name: str, partition: str, **options: object) -> Head:
    torch.manual_seed(4)
    return make_head(name, embedding_dim=D, num_classes=C, partition=partition, **options)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(N, D, generator=generator), torch.arange(N) % C


def loss_of(head: Head, x: Tensor, y: Tensor) -> Tensor:
    """The loss with the same random draws every time."""
    torch.manual_seed(5)
    return head(x, y)


def gradients(head: Head, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    head.zero_grad()
    leaf = x.clone().requires_grad_()
    loss_of(head, leaf, y).backward()
    found = {key: p.grad.to_dense().clone() for key, p in head.named_parameters() if p.grad is not None}
    return {"x": leaf.grad, **found}


def test_loss_is_a_finite_scalar_with_gradients_for_everything(name, partition):
    head = build(name, partition)
    x, y = batch()
    loss = loss_of(head, x, y)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    found = gradients(head, x, y)
    assert set(found) == {"x", *(key for key, _ in head.named_parameters())}
    assert all(bool(g.isfinite().all()) and bool(g.any()) for g in found.values())


def test_descent_learns_the_batch(name, partition):
    head = build(name, partition)
    x, y = batch()
    leaf = x.clone().requires_grad_()
    optimizer = torch.optim.SGD([leaf, *head.parameters()], lr=0.05)
    losses = []
    for _ in range(80):  # the loss of nce falls towards a floor above 0
        optimizer.zero_grad()
        loss = head(leaf, y)
        loss.backward()
        optimizer.step()
        head.advance()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_callers_tensors_are_unchanged(name, partition):
    head = build(name, partition)
    x, y = batch()
    y[3] = -100
    before = x.clone(), y.clone(), {key: value.clone() for key, value in head.state_dict().items()}
    head(x, y).backward()
    head.logits(x)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    for key, value in head.state_dict().items():
        assert torch.equal(value, before[2][key])


def test_the_order_of_samples_does_not_matter(name, partition):
    head = build(name, partition).double()
    x, y = batch()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    there, back = gradients(head, x.double(), y), gradients(head, x.double()[order], y[order])
    torch.testing.assert_close(back["x"], there["x"][order])
    for key in there.keys() - {"x"}:
        torch.testing.assert_close(back[key], there[key])


def test_permuting_classes_permutes_gradients(name, partition):
    if not PARTITIONS[partition].exact:
        pytest.skip("which classes are drawn, or stand together, depends on their number")
    head, twin = build(name, partition).double(), build(name, partition).double()
    order = torch.randperm(C, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        if head.bias is not None:
            head.bias.normal_()
        for key, parameter in twin.named_parameters():
            source = head.get_parameter(key)
            parameter.copy_(source[order] if source.ndim else source)
    x, y = batch()
    moved = order.argsort()[y]
    there, back = gradients(head, x.double(), y), gradients(twin, x.double(), moved)
    torch.testing.assert_close(back["x"], there["x"])
    for key in there.keys() - {"x"}:
        torch.testing.assert_close(back[key], there[key][order] if there[key].ndim else there[key])


def test_ignored_samples_do_not_count_whatever_they_hold(name, partition):
    head = build(name, partition)
    x, y = batch()
    expected = gradients(head, x[1:], y[1:])
    y[0], x[0] = -100, torch.nan
    found = gradients(head, x, y)
    assert float(found["x"][0].abs().max()) == 0
    torch.testing.assert_close(found["x"][1:], expected["x"])
    for key in expected.keys() - {"x"}:
        torch.testing.assert_close(found[key], expected[key])


@pytest.mark.parametrize("size", [0, 3])
def test_nothing_to_learn_from_is_loss_zero_with_zero_gradients(name, partition, size):
    head = build(name, partition, label_smoothing=0.0)
    found = gradients(head, torch.randn(size, D), torch.full((size,), -100))
    assert head(torch.randn(size, D), torch.full((size,), -100)).item() == 0
    assert set(found) == {"x", *(key for key, _ in head.named_parameters())}
    assert all(not bool(g.any()) and bool(g.isfinite().all()) for g in found.values())


@pytest.mark.parametrize("label", [C, -1, -(2**40), 2**40])
def test_a_label_out_of_range_is_named(name, partition, label):
    head = build(name, partition)
    x, y = batch()
    y[2] = label
    with pytest.raises(ValueError, match=rf"label {label} is out of range.*\[0, {C - 1}\]"):
        head(x, y)
    assert bool(build(name, partition, check_labels=False)(x, y).isnan())


def test_any_integer_dtype_will_do_for_labels_and_nothing_else(name, partition):
    head = build(name, partition)
    x, y = batch()
    for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        assert loss_of(head, x, y.to(dtype)).item() == loss_of(head, x, y).item()
    for wrong in (y.float(), y.bool()):
        with pytest.raises(ValueError, match="integer dtype"):
            head(x, wrong)


def test_wrong_shapes_are_named(name, partition):
    head = build(name, partition)
    x, y = batch()
    for embeddings, labels, message in [
        (x[:, :-1], y, rf"embeddings have shape \(8, 5\); \(N, {D}"),
        (x[0], y[:1], r"embeddings have shape \(6,\)"),
        (x.long(), y, "floating dtype"),
        (x, y[:-1], r"labels have shape \(7,\); \(8,\)"),
        (x[:, :, None, None], y, r"labels have shape \(8,\); \(8, 1, 1\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            head(embeddings, labels)
    with pytest.raises(ValueError, match="embeddings have shape"):
        head.logits(x[:, :-1])


def test_spatial_embeddings_are_a_batch_of_positions(name, partition):
    head = build(name, partition).double()
    x = torch.randn(2, D, 3, 4, dtype=torch.float64)
    y = torch.randint(0, C, (2, 3, 4))
    flat = x.permute(0, 2, 3, 1).reshape(-1, D)
    torch.testing.assert_close(loss_of(head, x, y), loss_of(head, flat, y.reshape(-1)))
    z = head.logits(x)
    assert z.shape == (2, C, 3, 4)
    torch.testing.assert_close(z.permute(0, 2, 3, 1).reshape(-1, C), head.logits(flat))
    assert head.logits(x[:0]).shape == (0, C, 3, 4)
    assert torch.equal(head.predict(x), z.argmax(1))
    assert head.predict(x[:0]).shape == (0, 3, 4)


def test_a_forward_never_writes_the_step_and_the_state_keeps_it(name, partition):
    head = build(name, partition)
    head(*batch())
    assert int(head.step) == 0
    for _ in range(3):
        head.advance()
    state = {key: value.clone() for key, value in head.state_dict().items()}
    twin = build(name, partition)
    twin.load_state_dict(state)
    assert int(twin.step) == 3
    assert torch.equal(loss_of(twin, *batch()), loss_of(head, *batch()))


def test_one_class_is_no_choice(name, partition):
    options = {"alpha": 4.0} if name == "l2-softmax" else {}
    head = make_head(name, embedding_dim=D, num_classes=1, partition=partition, **options)
    if partition == "nce":
        pytest.skip("it tells data from noise, which one class does not make easy")
    assert head(torch.randn(3, D), torch.zeros(3, dtype=torch.int64)).item() == 0
    assert head.predict(torch.randn(3, D)).tolist() == [0, 0, 0]


def test_the_options_build_the_same_head(name, partition):
    head = build(name, partition)
    options = json.loads(json.dumps(head.options()))
    twin = make_head(options.pop("name"), **options)
    twin.load_state_dict(head.state_dict())
    assert torch.equal(loss_of(twin, *batch()), loss_of(head, *batch()))
    assert twin.options() == head.options()


def test_label_smoothing_needs_every_class(name, partition):
    if PARTITIONS[partition].sees_all_classes:
        assert bool(build(name, partition, label_smoothing=0.1)(*batch()).isfinite())
    else:
        with pytest.raises(ValueError, match=r"label_smoothing=0\.1 .*use label_smoothing=0, or partition 'dense'"):
            build(name, partition, label_smoothing=0.1)


def test_class_weights_and_temperature_act_on_each_sample(name, partition):
    """Σ w_i ℓ_i / Σ w_i: doubling the weight of a class counts its samples twice."""
    x, y = batch()
    weights = [2.0] + [1.0] * (C - 1)
    weighted = loss_of(build(name, partition, class_weights=weights, temperature=1.5), x, y)
    plain = build(name, partition, temperature=1.5)
    torch.manual_seed(5)
    nll = plain.batch_losses(x, y).nll
    v = torch.tensor(weights)[y]
    torch.testing.assert_close(weighted.detach(), (v * nll).sum() / v.sum())


def test_extreme_scores_stay_finite(name, partition):
    head = build(name, partition, temperature=1e-3)
    x, y = batch()
    found = gradients(head, x * 1e4, y)
    assert bool(head(x * 1e4, y).isfinite())
    assert all(bool(g.isfinite().all()) for g in found.values())


def test_gradients_of_half_precision_saturate_where_many_samples_share_short_rows(name, partition):
    """One row gets the gradients of all samples, scaled by 1/‖w‖ and the loss scale: their sum passes 65,504."""
    head = build(name, partition).half()
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim == 2:
                parameter.copy_(1e-3 * torch.nn.functional.normalize(parameter.float(), dim=1))
    x = torch.randn(96, D, generator=torch.Generator().manual_seed(6)).half().requires_grad_()
    torch.manual_seed(5)
    (1024 * head(x, torch.full((96,), 2))).backward()
    for parameter in (x, *head.parameters()):
        assert parameter.grad.dtype == torch.float16
        assert bool(parameter.grad.to_dense().isfinite().all())
