"""What noise-contrastive estimation, negative sampling and self-normalisation give up. Stated in docs/theory.md."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from scipy.special import hyp0f1
from torch import Tensor


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


DATA, NOISE = numbers(0.6, 0.3, 0.1), numbers(0.2, 0.3, 0.5)
UNIFORM = torch.full_like(DATA, 1 / 3)


def nce(s: Tensor, data: Tensor, noise: Tensor, k: float) -> Tensor:
    """Expected NCE loss: one draw of data against k of noise, told apart by σ(s − log kq)."""
    logit = s - (k * noise).log()
    return (data * F.softplus(-logit) + k * noise * F.softplus(logit)).sum()


def negative_sampling(s: Tensor, data: Tensor, noise: Tensor, k: float) -> Tensor:
    """The same without log kq in the logit."""
    return (data * F.softplus(-s) + k * noise * F.softplus(s)).sum()


def gradient(loss: object, s: Tensor, *rest: object) -> Tensor:
    s = s.detach().requires_grad_()
    (result,) = torch.autograd.grad(loss(s, *rest), s)  # type: ignore[operator]
    return result


@pytest.mark.parametrize("k", [1, 5, 100])
def test_nce_on_free_scores_finds_log_p_with_its_normaliser_for_every_k(k):
    at_truth = gradient(nce, DATA.log(), DATA, NOISE, k)
    assert float(at_truth.abs().max()) < 1e-14 * k
    beside = gradient(nce, DATA.log() + 0.1, DATA, NOISE, k)  # the same softmax, but not normalised
    assert float(beside.min()) > 1e-4


def test_nces_gradient_tends_to_that_of_likelihood_as_k_grows_with_an_error_of_one_over_k():
    s = torch.log_softmax(numbers(0.3, -0.4, 0.9), 0)
    exact = torch.softmax(s, 0) - DATA
    errors = [float((gradient(nce, s, DATA, NOISE, k) - exact).abs().max()) for k in (100.0, 200.0, 1e6)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.03)
    assert errors[2] < 1e-5


def contexts(t: float) -> Tensor:
    """Two contexts whose softmax is the same for all t, (1, e^t), and whose normalisers are e^t apart."""
    return torch.stack([numbers(0, t), numbers(t, 2 * t)])


def best_t(k: float, *, shared: bool) -> float:
    """t at the minimum of NCE where the data has t = 1, with one log Z for both contexts or one for each."""
    data, noise = torch.softmax(contexts(1.0), 1), torch.full((2, 2), 0.5, dtype=torch.float64)

    def loss(v: list[float]) -> float:
        log_z = numbers(v[1], v[1] if shared else v[2])
        return nce(contexts(v[0]) - log_z[:, None], data, noise, k).item()

    return float(minimize(loss, [0.5, 1.0, 1.0], tol=1e-10).x[0])


@pytest.mark.parametrize("k", [1, 100])
def test_nce_with_one_normaliser_for_all_contexts_misses_the_truth_for_every_k_and_with_one_each_finds_it(k):
    assert best_t(k, shared=False) == pytest.approx(1, abs=1e-4)
    assert best_t(k, shared=True) < 0.5


@pytest.mark.parametrize("k", [1, 5])
def test_negative_sampling_finds_the_ratio_to_the_noise_less_log_k_and_not_the_probability(k):
    shifted_pmi = (DATA / NOISE).log() - math.log(k)
    assert float(gradient(negative_sampling, shifted_pmi, DATA, NOISE, k).abs().max()) < 1e-15
    assert float(gradient(negative_sampling, DATA.log(), DATA, NOISE, k).abs().max()) > 0.05
    assert float((torch.softmax(shifted_pmi, 0) - DATA).abs().max()) > 0.1
    recovered = torch.softmax(shifted_pmi + NOISE.log(), 0)
    torch.testing.assert_close(recovered, DATA)


def test_negative_sampling_is_nce_only_for_uniform_noise_with_k_the_number_of_classes():
    s = numbers(0.3, -0.4, 0.9)
    torch.testing.assert_close(negative_sampling(s, DATA, UNIFORM, 3), nce(s, DATA, UNIFORM, 3))
    for noise, k in ((UNIFORM, 2), (NOISE, 3)):
        assert abs(float(negative_sampling(s, DATA, noise, k) - nce(s, DATA, noise, k))) > 0.1


def self_normalised(z: Tensor, weight: float) -> Tensor:
    log_z = torch.logsumexp(z, 0)
    return log_z - (DATA * z).sum() + weight * log_z**2


def test_self_normalisation_costs_free_scores_nothing_and_fixes_their_shift():
    at_log_p = gradient(self_normalised, DATA.log(), 0.1)
    assert float(at_log_p.abs().max()) < 1e-15
    shifted = gradient(self_normalised, DATA.log() + 2, 0.1)
    torch.testing.assert_close(shifted, 2 * 0.1 * 2 * DATA)
    assert float(shifted.sum()) == pytest.approx(0.4)


def test_cosine_scores_cannot_reach_log_z_of_0_while_s_is_below_log_c():
    s, c = 8.0, 10_000
    lowest = torch.logsumexp(torch.full((c,), -s, dtype=torch.float64), 0).item()
    assert lowest == pytest.approx(math.log(c) - s)
    assert lowest > 1


@pytest.mark.parametrize(("s", "dim"), [(30.0, 512), (64.0, 512), (30.0, 128)])
def test_log_z_of_cosine_scores_starts_near_log_c_plus_s_squared_over_2d(s, dim):
    exact = math.log(hyp0f1(dim / 2, s**2 / 4))  # log E exp(s cosθ) over uniform directions
    assert exact < s**2 / (2 * dim)
    assert exact == pytest.approx(s**2 / (2 * dim), rel=0.03)
