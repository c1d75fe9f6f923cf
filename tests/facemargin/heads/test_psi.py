"""ψ: values, monotony, and derivatives at its ends and joins."""

import math

import pytest
import torch

from facemargin.heads.psi import psi, psi_of_angle, psi_of_cosine

WHOLE = (1, 2, 3, 4, 5, 8)


def slope(cosine: float, margin: int, dtype: torch.dtype = torch.float64) -> float:
    c = torch.tensor(cosine, dtype=dtype, requires_grad=True)
    psi_of_cosine(c, margin).backward()
    return float(c.grad)


@pytest.mark.parametrize("margin", WHOLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slope_in_the_cosine_is_m_squared_at_both_ends(margin, dtype):
    assert slope(1.0, margin, dtype) == pytest.approx(margin**2, rel=1e-6)
    assert slope(-1.0, margin, dtype) == pytest.approx(margin**2, rel=1e-6)


@pytest.mark.parametrize("margin", WHOLE)
def test_slope_is_zero_at_every_join(margin):
    for j in range(1, margin):
        assert slope(math.cos(j * math.pi / margin), margin) == pytest.approx(0, abs=1e-12 * margin**2)


def test_the_acos_form_that_this_avoids_has_no_finite_gradient_at_the_ends():
    c = torch.tensor([1.0, -1.0], requires_grad=True)
    torch.cos(4 * c.acos()).sum().backward()
    assert not bool(c.grad.isfinite().any())


@pytest.mark.parametrize("margin", [1.0, 1.35, 1.7, 2.0, 3.0, 4.0, 5.0, 7.3])
def test_psi_falls_all_the_way_and_is_continuous(margin):
    theta = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    unit = torch.stack([theta.cos(), theta.sin()], -1)
    axis = torch.tensor([1.0, 0.0], dtype=torch.float64)
    values = psi(unit[:, 0], unit, axis, margin)
    falls = -values.diff()
    assert float(falls.min()) > -1e-12
    assert float(falls.max()) < 2 * margin * math.pi / 20_000
    assert float(values[0]) == pytest.approx(1)
    if margin.is_integer():
        assert float(values[-1]) == pytest.approx(1 - 2 * margin)


@pytest.mark.parametrize("margin", WHOLE)
def test_polynomial_and_angle_forms_agree(margin):
    theta = torch.linspace(0, math.pi, 997, dtype=torch.float64)
    torch.testing.assert_close(psi_of_cosine(theta.cos(), margin), psi_of_angle(theta, margin), rtol=0, atol=1e-12)


def test_cosines_just_beyond_one_are_harmless():
    beyond = torch.tensor([1 + 1e-6, -1 - 1e-6], requires_grad=True)
    value = psi_of_cosine(beyond, 4)
    value.sum().backward()
    torch.testing.assert_close(value, torch.tensor([1.0, -7.0]), rtol=0, atol=1e-4)
    torch.testing.assert_close(beyond.grad, torch.tensor([16.0, 16.0]), rtol=1e-3, atol=0)
