"""Softmax in itself: shifts, overflow, log form, temperature and the partition function. Stated in docs/theory.md."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

RANGES = [(torch.float32, 89.0), (torch.bfloat16, 89.0), (torch.float16, 12.0)]
ULP = 2.0**-24  # half the distance from 1 to the next float32


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def naive(z: Tensor) -> Tensor:
    return z.exp() / z.exp().sum()


def shifted(z: Tensor) -> Tensor:
    return naive(z - z.max())


def entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(-1)


def test_a_shift_changes_nothing():
    z = numbers(1.3, -2.0, 0.4)
    for shift in (-700.0, -1.0, 700.0):
        torch.testing.assert_close(torch.softmax(z + shift, 0), torch.softmax(z, 0), rtol=1e-12, atol=0)


def test_a_scale_raises_every_probability_to_that_power_and_is_no_invariance():
    z, scale = numbers(1.3, -2.0, 0.4), 3.0
    p, scaled = torch.softmax(z, 0), torch.softmax(scale * z, 0)
    torch.testing.assert_close(scaled, p**scale / (p**scale).sum())
    assert float((scaled - p).abs().max()) > 0.2


@pytest.mark.parametrize(("dtype", "first_infinite"), RANGES)
def test_exp_overflows_just_past_the_log_of_the_largest_number(dtype, first_infinite):
    limit = math.log(torch.finfo(dtype).max)
    assert math.floor(limit) + 1 == first_infinite
    assert bool(torch.tensor(first_infinite - 1, dtype=dtype).exp().isfinite())
    assert bool(torch.tensor(first_infinite, dtype=dtype).exp().isinf())


@pytest.mark.parametrize(("dtype", "first_infinite"), RANGES)
def test_one_large_score_makes_the_naive_form_nan(dtype, first_infinite):
    z = torch.tensor([first_infinite, 0.0], dtype=dtype)
    assert bool(naive(z)[0].isnan())
    torch.testing.assert_close(shifted(z), torch.tensor([1.0, 0.0], dtype=dtype), rtol=0, atol=1e-5)


def test_when_all_terms_underflow_the_naive_form_is_zero_by_zero():
    z = torch.tensor([-104.0, -105.0])
    assert bool(naive(z).isnan().all())
    torch.testing.assert_close(shifted(z).double(), torch.softmax(numbers(-104, -105), 0), rtol=1e-6, atol=0)


def test_after_the_shift_the_sum_lies_between_1_and_the_number_of_classes():
    for spread in (0.0, 1.0, 1e3, 1e30):
        z = torch.randn(50, generator=torch.Generator().manual_seed(0)) * spread
        assert 1 <= float((z - z.max()).exp().sum()) <= 50


def test_log_of_softmax_loses_small_probabilities_and_their_gradient():
    z = torch.tensor([0.0, -200.0], requires_grad=True)
    outside = torch.softmax(z, 0).log()[1]
    assert outside.item() == -math.inf
    (gradient,) = torch.autograd.grad(outside, z)
    assert not bool(gradient.isfinite().all())
    inside = torch.log_softmax(z, 0)[1]
    assert inside.item() == -200
    (gradient,) = torch.autograd.grad(inside, z)
    assert gradient.tolist() == [-1, 1]


def test_exp_of_log_softmax_loses_digits_in_proportion_to_the_log():
    z = torch.tensor([0.5, 0.0, -80.0])
    exact = torch.softmax(z.double(), 0)[2]
    direct = abs(shifted(z)[2].double() / exact - 1)
    through_log = abs(torch.log_softmax(z, 0).exp()[2].double() / exact - 1)
    assert direct < 8 * ULP
    assert 8 * ULP < through_log < 81 * ULP


def test_neither_form_keeps_a_loss_below_the_rounding_of_1_and_log1p_does():
    z = torch.tensor([18.0, 0.0])
    exact = math.log1p(math.exp(-18))
    assert torch.log_softmax(z, 0)[0].item() == 0
    assert torch.softmax(z, 0).log()[0].item() == 0
    assert torch.log1p((z[1] - z[0]).exp()).item() == pytest.approx(exact, rel=1e-6)


def test_there_the_pull_on_the_label_is_lost_and_the_push_on_the_others_is_kept():
    z = torch.tensor([18.0, 0.0], requires_grad=True)
    (-torch.log_softmax(z, 0)[0]).backward()
    assert z.grad is not None
    assert z.grad[0].item() == 0
    assert z.grad[1].item() == pytest.approx(math.exp(-18), rel=1e-6)


def log_z(z: Tensor, beta: Tensor) -> Tensor:
    return torch.logsumexp(beta * z, 0)


def test_log_z_has_the_mean_score_as_derivative_in_beta_and_the_variance_as_second():
    z, beta = numbers(1.3, -2.0, 0.4, 3.1), numbers(0.7).requires_grad_()
    (first,) = torch.autograd.grad(log_z(z, beta), beta, create_graph=True)
    (second,) = torch.autograd.grad(first, beta)
    p = torch.softmax(0.7 * z, 0)
    mean = (p * z).sum()
    torch.testing.assert_close(first.squeeze(), mean)
    torch.testing.assert_close(second.squeeze(), (p * (z - mean) ** 2).sum())


def test_entropy_is_log_z_less_beta_times_the_mean_and_falls_by_beta_times_the_variance():
    z, beta = numbers(1.3, -2.0, 0.4, 3.1), numbers(0.7).requires_grad_()
    p = torch.softmax(beta * z, 0)
    h = entropy(p)
    mean = (p * z).sum()
    torch.testing.assert_close(h, log_z(z, beta) - 0.7 * mean)
    (slope,) = torch.autograd.grad(h, beta)
    torch.testing.assert_close(slope.squeeze(), -0.7 * (p * (z - mean) ** 2).sum())


def test_entropy_rises_with_temperature_from_0_to_log_c():
    z = numbers(1.3, -2.0, 0.4, 3.1)
    values = [float(entropy(torch.softmax(z / t, 0))) for t in (0.01, 0.1, 0.5, 1, 2, 10, 100, 1e5)]
    assert all(low < high for low, high in pairwise(values))
    assert values[0] == pytest.approx(0, abs=1e-12)
    assert values[-1] == pytest.approx(math.log(4), abs=1e-9)


def test_cold_softmax_is_argmax_with_ties_shared_and_hot_softmax_is_uniform():
    z = numbers(1.0, 3.0, 3.0, -2.0)
    torch.testing.assert_close(torch.softmax(z / 1e-3, 0), numbers(0, 0.5, 0.5, 0))
    torch.testing.assert_close(torch.softmax(z / 1e9, 0), torch.full_like(z, 0.25), rtol=1e-8, atol=0)


@pytest.mark.parametrize("t", [1e-3, 0.1, 1.0, 10.0])
def test_t_log_z_is_the_smooth_maximum_and_exceeds_the_maximum_by_at_most_t_log_c(t):
    z = numbers(1.3, -2.0, 0.4, 3.1)
    excess = t * torch.logsumexp(z / t, 0) - z.max()
    assert 0 <= float(excess) <= t * math.log(4)


def gradient_at(t: float, z: Tensor, target: Tensor) -> Tensor:
    z = z.detach().requires_grad_()
    (-(target * torch.log_softmax(z / t, 0)).sum()).backward()
    assert z.grad is not None
    return z.grad


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0])
def test_gradient_at_a_hard_label_is_p_minus_one_over_t(t):
    z, label = numbers(1.3, -2.0, 0.4, 3.1), numbers(0, 1, 0, 0)
    torch.testing.assert_close(gradient_at(t, z, label), (torch.softmax(z / t, 0) - label) / t)


def test_the_factor_of_one_over_t_squared_belongs_to_soft_targets_at_the_same_temperature():
    t, z, teacher = 1e4, numbers(1.3, -2.0, 0.4, 3.1), numbers(0.0, 1.0, 2.0, -1.0)
    soft = gradient_at(t, z, torch.softmax(teacher / t, 0))
    difference = (z - z.mean()) - (teacher - teacher.mean())
    torch.testing.assert_close(soft * t**2, difference / 4, rtol=1e-3, atol=0)
    hard = gradient_at(t, z, numbers(0, 1, 0, 0))
    torch.testing.assert_close(hard * t, numbers(0.25, -0.75, 0.25, 0.25), rtol=1e-3, atol=0)
