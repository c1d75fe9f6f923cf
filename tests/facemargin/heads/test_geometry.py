"""Angles to the last digits where acos has lost them."""

import pytest
import torch

from facemargin.heads.geometry import angle, direction, length, widen


@pytest.mark.parametrize("theta", [0.0, 1e-7, 1e-4, 0.3, torch.pi / 2, 3.0, torch.pi - 1e-5])
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 2e-7), (torch.float64, 1e-15)])
def test_angle_is_accurate_everywhere(theta, dtype, digits):
    a = torch.tensor([1.0, 0.0], dtype=dtype)
    wide = torch.tensor(theta, dtype=torch.float64)
    b = torch.stack([wide.cos(), wide.sin()]).to(dtype)
    assert angle(a, b).item() == pytest.approx(theta, rel=digits, abs=digits)


def test_acos_would_not_be():
    b = torch.tensor([1.0, 1e-4])
    b = b / b.norm()
    assert torch.acos(b[0]).item() != pytest.approx(1e-4, rel=0.5)


def test_zero_vectors_have_finite_gradients():
    for function in (direction, length):
        v = torch.zeros(2, 3, requires_grad=True)
        function(v).sum().backward()
        assert bool(v.grad.isfinite().all())


def test_widen_does_not_touch_what_is_wide_enough():
    x = torch.ones(2)
    assert widen(x, torch.float32) is x
