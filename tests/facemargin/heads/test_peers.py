"""Against pytorch-metric-learning 2.9: where its heads agree with ours, and where they go wrong and ours do not.

Its heads take W as (D, C), scale each logit, and know no λ, no temperature and no bias; ArcFace's margin is in degrees.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from facemargin.heads import Head, make_head

peers: Any = pytest.importorskip("pytorch_metric_learning.losses")

# Their constructor hands scipy tensors for exponents, which NumPy 2 deprecates; the numbers come out right.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")

D, C, N = 5, 6, 40


def pair(name: str, peer: type, ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[Head, Any]:
    """Two heads in float64 with the same class rows, of lengths 0.4 to 2.5."""
    torch.manual_seed(6)
    head = make_head(name, embedding_dim=D, num_classes=C, **ours).double()
    with torch.no_grad():
        head.weight.mul_(torch.linspace(0.4, 2.5, C).unsqueeze(1))
    other = peer(num_classes=C, embedding_size=D, **theirs).double()
    other.W.data = head.weight.detach().T.clone()
    return head, other


def batch(head: Head) -> tuple[Tensor, Tensor]:
    """Random vectors of many lengths, a third of them near to or far from their own class row."""
    x = torch.randn(N, D, dtype=torch.float64) * torch.logspace(-2, 1, N, dtype=torch.float64)[:, None]
    y = torch.arange(N) % C
    own = head.weight.detach()[y] * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(N // 2)[:, None]
    return torch.where(torch.arange(N)[:, None] % 3 == 0, own + 0.05 * x, x), y


def outcome(loss: Any, weight: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its gradients to the embeddings and to the class rows."""
    x = x.clone().requires_grad_()
    value = loss(x, y)
    return value.detach(), *torch.autograd.grad(value, (x, weight))


def assert_equal(head: Head, other: Any, x: Tensor, y: Tensor, *, rtol: float = 1e-11) -> None:
    value, to_x, to_rows = outcome(head, head.weight, x, y)
    peer_value, peer_to_x, peer_to_rows = outcome(other, other.W, x, y)
    torch.testing.assert_close(value, peer_value, rtol=rtol, atol=0)
    for ours, theirs in ((to_x, peer_to_x), (to_rows, peer_to_rows.T)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=rtol * float(ours.abs().max()))


@pytest.mark.parametrize(("scale", "margin"), [(64.0, 0.35), (30.0, 0.0), (4.0, 1.5)])
def test_am_softmax_is_their_cosface(scale, margin):
    options = {"scale": scale, "margin": margin}
    head, other = pair("am-softmax", peers.CosFaceLoss, options, options)
    assert_equal(head, other, *batch(head))


@pytest.mark.parametrize("margin", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("name", "peer"), [("l-softmax", "LargeMarginSoftmaxLoss"), ("a-softmax", "SphereFaceLoss")])
def test_angular_margins_without_lambda_are_theirs(name, peer, margin):
    """They take k from acos but the value from the multiple-angle formula, so no digits are lost but at joins."""
    head, other = pair(
        name, getattr(peers, peer), {"margin": margin, "annealing": None}, {"margin": margin, "scale": 1}
    )
    assert_equal(head, other, *batch(head))


@pytest.mark.parametrize("margin", [0.2, 0.5, 1.0])
def test_arcface_is_theirs_while_the_angle_and_the_margin_stay_below_pi(margin):
    """acos costs both digits: 1/sinθ of rounding, so 1e-9 at the angles from 0.05 kept here."""
    head, other = pair("arcface", peers.ArcFaceLoss, {"margin": margin}, {"margin": math.degrees(margin)})
    x, y = batch(head)
    theta = torch.nn.functional.cosine_similarity(x, head.weight.detach()[y]).clamp(-1, 1).acos()
    inside = (theta > 0.05) & (theta + margin < math.pi - 0.05)
    assert int(inside.sum()) > N / 2
    assert_equal(head, other, x[inside], y[inside], rtol=1e-9)


def arcfaces(margin: float, dtype: torch.dtype = torch.float64) -> tuple[Head, Any]:
    """Two classes in the plane along +x and −y, scale 1, so that f_y can be read off."""
    head = make_head("arcface", embedding_dim=2, num_classes=2, scale=1.0, margin=margin).to(dtype)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    other = peers.ArcFaceLoss(num_classes=2, embedding_size=2, margin=math.degrees(margin), scale=1).to(dtype)
    other.W.data = head.weight.detach().T.clone()
    return head, other


def curves(margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """θ over [0, π], our target cosine and theirs."""
    head, other = arcfaces(margin)
    theta = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    x = torch.stack([theta.cos(), theta.sin()], 1)
    ours = head.target_scores(head.features(x), head.weight[:1].expand_as(x)).detach()
    return theta, ours, other.modify_cosine_of_target_classes(theta.cos())


@pytest.mark.parametrize(("margin", "jump"), [(0.5, -0.117), (2.0, -0.403), (2.5, 0.305), (3.0, 0.567 + 1)])
def test_past_pi_their_arcface_jumps_and_ours_is_continuous(margin, jump):
    """cosθ − m sin m meets cos(θ + m) nowhere; for m > 2.33 it jumps up, so a worse angle scores better."""
    theta, ours, theirs = curves(margin)
    step = float(theta[1])
    assert float(ours.diff().abs().max()) < 1.001 * step
    at = int((theta + margin <= math.pi).sum())
    assert float(theirs[at] - theirs[at - 1]) == pytest.approx(jump, abs=2e-3)
    assert float(ours.diff().max()) <= 1e-15
    assert (float(theirs.diff().max()) > 0.1) is (jump > 0)


def test_near_the_pole_their_float32_arcface_has_lost_the_angle_and_ours_has_not():
    """At θ = 3e-4 the cosine rounds to 1 in float32. The true pull is s·sin(θ+m)/‖x‖; ours has three digits of it."""
    theta = 3e-4
    x = torch.tensor([[math.cos(theta), math.sin(theta)]])
    truth = arcfaces(0.5)[0]
    _, exact, _ = outcome(truth, truth.weight, x.double(), torch.tensor([0]))
    head, other = arcfaces(0.5, torch.float32)
    _, ours, _ = outcome(head, head.weight, x, torch.tensor([0]))
    _, theirs, _ = outcome(other, other.W, x, torch.tensor([0]))
    assert float((ours - exact).norm() / exact.norm()) < 1e-3
    # Zero where clamp has no slope at its bound, infinite where it has (that depends on the version of torch).
    assert not float((theirs - exact).norm() / exact.norm()) < 0.1


def test_near_pi_their_float32_sphereface_pushes_a_feature_away_from_its_class_and_ours_pulls():
    """k = floor(acos(−1)·m/π) = m there, one piece too many, and the slope changes its sign: −m² instead of m²."""
    margin, theta = 4, math.pi - 2e-4
    x = torch.tensor([[math.cos(theta), math.sin(theta)]], requires_grad=True)
    row = torch.tensor([[1.0, 0.0]])
    other = peers.SphereFaceLoss(num_classes=1, embedding_size=2, margin=margin)
    other.cast_types(torch.float32, "cpu")
    theirs = other.modify_cosine_of_target_classes((torch.nn.functional.normalize(x) @ row.T)[0])
    head = make_head("a-softmax", embedding_dim=2, num_classes=1, margin=margin, annealing=None)
    ours = head.target_scores(head.features(x), row)
    # Close to π a larger x₂ means a smaller θ: ψ rises along x₂ by m² sinθ, and ours also has the length's part ψ sinθ.
    length_part = (1 - 2 * margin) * math.sin(theta)
    (to_ours,), (to_theirs,) = torch.autograd.grad(ours, x), torch.autograd.grad(theirs, x)
    truth = margin**2 * math.sin(theta)
    assert float(to_ours[0, 1]) - length_part == pytest.approx(truth, rel=0.01)
    assert float(to_theirs[0, 1]) == pytest.approx(-truth, rel=0.01)


def test_under_autocast_their_cosface_rounds_cosines_to_bfloat16_and_ours_does_not():
    options = {"scale": 64.0, "margin": 0.35}
    head, other = pair("am-softmax", peers.CosFaceLoss, options, options)
    x, y = batch(head)
    exact = head(x, y).item()
    head, other, x = head.float(), other.float(), x.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = head(x, y).item(), other(x, y).item()
    assert ours == pytest.approx(exact, rel=1e-6)
    assert abs(theirs - exact) / exact > 1e-4


@pytest.mark.parametrize("peer", ["LargeMarginSoftmaxLoss", "SphereFaceLoss"])
def test_their_angular_margin_is_cut_to_a_whole_number_and_ours_is_any_real(peer):
    other = getattr(peers, peer)(num_classes=C, embedding_size=D, margin=1.7)
    assert other.margin == 1
    name = "l-softmax" if peer.startswith("Large") else "a-softmax"
    assert make_head(name, embedding_dim=D, num_classes=C, margin=1.7).margin == 1.7


@pytest.mark.parametrize("margin", [2, 4])
def test_even_margins_give_their_features_at_90_degrees_no_pull(margin):
    """Random features start there. They have no λ; ours fades the margin in by default."""
    other = peers.SphereFaceLoss(num_classes=1, embedding_size=2, margin=margin).double()
    other.W.data = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    cosine = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    other.modify_cosine_of_target_classes(cosine).sum().backward()
    assert float(cosine.grad.abs()) < 1e-12
    head = make_head("a-softmax", embedding_dim=2, num_classes=1, margin=margin).double()
    x = torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    row = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    head.target_scores(head.features(x), row).sum().backward()
    assert float(x.grad[0, 0]) > 0.99
