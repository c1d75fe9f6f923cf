"""The scale is positive however hard an optimizer pushes, exact at the start, and moves like a plain parameter."""

import pytest
import torch

from facemargin.heads import make_head
from facemargin.heads.scale import PositiveScale


@pytest.mark.parametrize("start", [1e-3, 0.5, 10.305, 20.0, 64.0, 500.0])
@pytest.mark.parametrize("learn", [False, True])
def test_it_starts_where_it_is_told_in_float64(start, learn):
    scale = PositiveScale(start, learn=learn).double()
    assert scale(torch.zeros((), dtype=torch.float64)).item() == pytest.approx(start, rel=1e-13)


@pytest.mark.parametrize("push", [-1.0, 1.0])
def test_it_stays_positive_and_finite(push):
    scale = PositiveScale(30.0, learn=True)
    optimizer = torch.optim.SGD(scale.parameters(), lr=10.0)
    for _ in range(12):
        optimizer.zero_grad()
        (-push * scale(torch.zeros(()))).backward()
        optimizer.step()
    value = scale(torch.zeros(())).item()
    assert 0 < value < 1000


def test_a_large_scale_moves_as_a_plain_parameter_would():
    scale = PositiveScale(30.0, learn=True)
    scale(torch.zeros(())).backward()
    assert scale.offset is not None
    assert scale.offset.grad.item() == pytest.approx(1.0)


def test_normface_learns_its_scale():
    torch.manual_seed(0)
    head = make_head("normface", embedding_dim=2, num_classes=3)
    start = head.scale.item()
    x = head.weight.detach().clone()
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    head(x, torch.arange(3)).backward()
    optimizer.step()
    assert head.scale.item() > start  # perfect features ask for a sharper softmax
    assert not head.scale.requires_grad


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_wrong_scales_are_named(value):
    for name, option in [("am-softmax", "scale"), ("arcface", "scale"), ("normface", "scale"), ("l2-softmax", "alpha")]:
        with pytest.raises(ValueError, match=rf"{option}=.*> 0"):
            make_head(name, embedding_dim=2, num_classes=3, **{option: value})
