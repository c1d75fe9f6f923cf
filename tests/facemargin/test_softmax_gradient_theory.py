"""Gradients of softmax, saturation, squared error, smoothing and the two-class case. Stated in docs/theory.md."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facemargin.heads import make_head

IGNORED = -100
LN2 = math.log(2)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def gradient(of: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    z = z.detach().requires_grad_()
    (result,) = torch.autograd.grad(of(z), z)
    return result


def softmax_backward(top: Tensor, dtop: Tensor, axes: int | tuple[int, ...]) -> Tensor:
    """top · (dtop − ⟨top, dtop⟩), the inner product along the axes that softmax ran over."""
    return top * (dtop - (top * dtop).sum(axes, keepdim=True))


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_softmax_backward_is_top_times_dtop_less_their_inner_product_on_any_axis(axis):
    z, dtop = random(2, 3, 4, 5), random(5, 4, 3, 2).permute(3, 2, 1, 0)
    expected = gradient(lambda t: (torch.softmax(t, axis) * dtop).sum(), z)
    mine = softmax_backward(torch.softmax(z, axis), dtop, axis)
    torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(mine.sum(axis), torch.zeros_like(mine.sum(axis)), rtol=0, atol=1e-14)


def test_spatial_softmax_has_the_same_backward_over_both_axes_at_once():
    z, dtop = random(2, 3, 4, 5), random(5, 4, 3, 2).permute(3, 2, 1, 0)

    def spatial(t: Tensor) -> Tensor:
        return torch.softmax(t.flatten(2), 2).view_as(t)

    expected = gradient(lambda t: (spatial(t) * dtop).sum(), z)
    torch.testing.assert_close(softmax_backward(spatial(z), dtop, (2, 3)), expected, rtol=1e-12, atol=1e-14)


def cross_entropy_backward(z: Tensor, labels: Tensor) -> Tensor:
    """(N, C, ...) → p − 1 at the label, p elsewhere, 0 where ignored, over the number of samples that count."""
    counts = labels != IGNORED
    index = labels.where(counts, 0).unsqueeze(1)
    p = torch.softmax(z, 1)
    at_label = torch.zeros_like(p).scatter_(1, index, 1.0)
    return (p - at_label) * counts.unsqueeze(1) / counts.sum()


@pytest.mark.parametrize("spatial", [(), (4,), (2, 3)])
def test_cross_entropy_backward_is_p_minus_one_at_the_label_p_elsewhere_and_0_where_ignored(spatial):
    z = random(6, 5, *spatial)
    labels = torch.randint(0, 5, (6, *spatial), generator=torch.Generator().manual_seed(6))
    labels.view(-1)[::4] = IGNORED
    mine = cross_entropy_backward(z, labels)
    torch.testing.assert_close(mine, gradient(lambda t: F.cross_entropy(t, labels, ignore_index=IGNORED), z))
    assert float(mine.sum(1).abs().max()) < 1e-15
    assert float(mine.movedim(1, -1)[labels == IGNORED].abs().max()) == 0


def test_cross_entropy_backward_is_softmax_backward_of_minus_one_over_p():
    z = random(5)
    p, label = torch.softmax(z, 0), F.one_hot(torch.tensor(2), 5)
    torch.testing.assert_close(softmax_backward(p, -label / p, 0), p - label)


def first_gap(reached: Callable[[Tensor], bool], low: float = 0.0, high: float = 256.0) -> float:
    """The smallest score gap g at which the float32 softmax of (g, 0) has the property."""
    for _ in range(40):
        middle = (low + high) / 2
        e = torch.tensor([0.0, -middle]).exp()
        low, high = (low, middle) if reached(e / e.sum()) else (middle, high)
    return high


def test_p_is_1_in_float32_from_a_gap_of_24_log_2():
    assert first_gap(lambda p: p[0].item() == 1) == pytest.approx(24 * LN2, abs=1e-3)


def test_p_is_0_in_float32_from_a_gap_of_150_log_2_or_126_where_subnormals_are_flushed():
    gap = first_gap(lambda p: p[1].item() == 0)
    assert gap == pytest.approx(150 * LN2, abs=1e-2) or gap == pytest.approx(126 * LN2, abs=1e-2)


def at_gap(loss: Callable[[Tensor], Tensor], gap: float) -> float:
    """∂ loss / ∂ z of the label in float32, the label's score lying ``gap`` above the only other."""
    return float(gradient(loss, torch.tensor([gap, 0.0]))[0])


def log_loss(z: Tensor) -> Tensor:
    return -torch.log_softmax(z, 0)[0]


def squared_error(z: Tensor) -> Tensor:
    return ((torch.softmax(z, 0) - torch.tensor([1.0, 0.0])) ** 2).sum() / 2


def test_cross_entropy_saturates_only_on_the_right_side():
    assert at_gap(log_loss, 25.0) == 0
    assert at_gap(log_loss, -25.0) == pytest.approx(-1)
    assert at_gap(log_loss, -200.0) == -1  # although p itself is 0 in float32


def test_squared_error_on_softmax_saturates_on_both_sides():
    assert abs(at_gap(squared_error, 25.0)) < 1e-10
    assert abs(at_gap(squared_error, -25.0)) < 1e-10
    assert at_gap(squared_error, -200.0) == 0


def test_squared_error_has_the_factor_p_times_one_minus_p():
    z = numbers(-3.0)
    p = torch.sigmoid(z)
    slope = gradient(lambda t: (torch.sigmoid(t) - 1).square().sum() / 2, z)
    torch.testing.assert_close(slope, (p - 1) * p * (1 - p))
    p = torch.linspace(0.001, 0.999, 999)
    assert p[(p * (1 - p) ** 2).argmax()].item() == pytest.approx(1 / 3, abs=1e-3)


def test_squared_error_of_many_classes_vanishes_at_a_confident_mistake_and_cross_entropy_does_not():
    z, label = numbers(0, 0, 30, 0), F.one_hot(torch.tensor(1), 4).double()
    squared = gradient(lambda t: ((torch.softmax(t, 0) - label) ** 2).sum() / 2, z)
    assert float(squared.abs().max()) < 1e-12
    torch.testing.assert_close(gradient(lambda t: F.cross_entropy(t, label), z), numbers(0, -1, 1, 0))


def descend(loss: Callable[[Tensor], Tensor], steps: int) -> float:
    z = torch.tensor(-10.0, dtype=torch.float64)
    for _ in range(steps):
        z = z - gradient(loss, z)
    return float(z)


def test_cross_entropy_mends_a_confident_mistake_in_a_dozen_steps_and_squared_error_not_in_a_thousand():
    assert descend(lambda z: F.softplus(-z), 12) > 0
    assert -10 < descend(lambda z: (torch.sigmoid(z) - 1) ** 2 / 2, 1000) < -9.9


def smoothed(gap: float, epsilon: float, classes: int) -> float:
    z = torch.zeros(1, classes, dtype=torch.float64)
    z[0, 0] = gap
    return F.cross_entropy(z, torch.tensor([0]), label_smoothing=epsilon).item()


def test_label_smoothing_bounds_the_loss_from_below_by_the_entropy_of_its_target_at_a_finite_gap():
    epsilon, c = 0.1, 5
    q = numbers(1 - epsilon + epsilon / c, *[epsilon / c] * (c - 1))
    gap = math.log(1 + c * (1 - epsilon) / epsilon)
    assert smoothed(gap, epsilon, c) == pytest.approx(float(-(q * q.log()).sum()), rel=1e-12)
    assert smoothed(gap, epsilon, c) < min(smoothed(gap - 0.1, epsilon, c), smoothed(gap + 0.1, epsilon, c))


def test_label_smoothing_leaves_the_loss_unbounded_above_on_both_sides():
    epsilon, c = 0.1, 5
    right = smoothed(2000, epsilon, c) - smoothed(1000, epsilon, c)
    wrong = smoothed(-2000, epsilon, c) - smoothed(-1000, epsilon, c)
    assert right == pytest.approx(1000 * epsilon * (c - 1) / c)
    assert wrong == pytest.approx(1000 * (1 - epsilon + epsilon / c))


def test_one_score_fixed_to_0_gives_the_sigmoid_and_softplus_as_its_loss():
    z = random(7)
    pair = torch.stack([z, torch.zeros_like(z)], 1)
    torch.testing.assert_close(torch.softmax(pair, 1)[:, 0], torch.sigmoid(z))
    torch.testing.assert_close(F.cross_entropy(pair, torch.zeros(7).long(), reduction="none"), F.softplus(-z))
    torch.testing.assert_close(F.cross_entropy(pair, torch.ones(7).long(), reduction="none"), F.softplus(z))


def test_subtracting_the_last_score_leaves_all_probabilities_so_c_minus_1_scores_are_free():
    z = random(3, 5)
    torch.testing.assert_close(torch.softmax(z - z[:, -1:], 1), torch.softmax(z, 1))


def test_hessian_is_diag_p_less_pp_singular_only_along_equal_shifts():
    z = random(5)
    p = torch.softmax(z, 0)
    hessian = torch.autograd.functional.hessian(lambda t: torch.logsumexp(t, 0), z)
    torch.testing.assert_close(hessian, torch.diag(p) - torch.outer(p, p))
    values, vectors = torch.linalg.eigh(hessian)
    assert abs(values[0].item()) < 1e-15 < 1e-3 < values[1].item()
    torch.testing.assert_close(vectors[:, 0].abs(), torch.full_like(z, 5**-0.5))


def test_with_one_score_fixed_the_hessian_has_the_product_of_all_p_as_determinant():
    p = torch.softmax(random(5), 0)
    free = p[:-1]
    torch.testing.assert_close(torch.linalg.det(torch.diag(free) - torch.outer(free, free)), p.prod())


def test_one_vector_added_to_all_rows_is_unseen_with_free_rows_and_seen_with_unit_rows():
    for name, changes in (("softmax", False), ("modified", True)):
        torch.manual_seed(0)
        head = make_head(name, embedding_dim=3, num_classes=4).double()
        x, y = random(5, 3), torch.tensor([0, 1, 2, 3, 0])
        before = head(x, y)
        before.backward()
        assert head.weight.grad is not None
        assert (float(head.weight.grad.sum(0).abs().max()) > 1e-3) == changes
        with torch.no_grad():
            head.weight.add_(numbers(0.3, -0.7, 0.2))
        assert (abs((head(x, y) - before).item()) > 1e-3) == changes
