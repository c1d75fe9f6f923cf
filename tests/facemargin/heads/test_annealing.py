"""λ: the papers' figures, the default for a run of any length, the diagnosis, and who moves the step."""

import math

import pytest
import torch

from facemargin.heads import HEADS, Annealing, make_head
from facemargin.heads.annealing import psi_at_right_angle
from facemargin.heads.psi import psi_of_angle

ANNEALED = ["l-softmax", "a-softmax"]
LENGTHS = [5, 100, 2_000, 28_000, 1_000_000]
MARGINS = [1, 1.35, 1.7, 2, 3, 4, 5]
PAPER_MNIST = Annealing(base=1000, gamma=2.5e-5, power=35)
SPHEREFACE = Annealing(base=1000, gamma=0.12, power=1, minimum=5)


def test_the_papers_schedules():
    mnist = Annealing(base=1000, gamma=2.5e-5, power=35)
    assert mnist.at(0) == 1000
    assert mnist.at(2000) == pytest.approx(181, abs=1)
    sphereface = Annealing(base=1000, gamma=0.12, power=1, minimum=5)
    assert sphereface.at(28_000) == 5


def test_on_a_device_it_is_the_same_number():
    run = Annealing.for_run(900, power=3.0)
    for step in (0, 1, 77, 899, 5000):
        assert run.at_tensor(torch.tensor(step), torch.float64).item() == pytest.approx(run.at(step), rel=1e-13)


@pytest.mark.parametrize("name", ANNEALED)
@pytest.mark.parametrize("total", LENGTHS)
def test_defaults_fit_a_run_of_any_length(name, total):
    run = HEADS[name].annealing_for_run(total)
    assert run is not None
    assert run.at(0) >= 100  # the first gradients are those of plain softmax
    assert 1 / (1 + run.at(0.5 * total)) > 0.15  # the margin acts by the middle of the run
    assert run.at(0.5 * total) == pytest.approx(run.at(total))
    assert run.diagnose(total) is None
    assert make_head(name, embedding_dim=2, num_classes=3, annealing=run).diagnose(total) is None


def test_for_run_reaches_its_goal_when_it_says():
    run = Annealing.for_run(1000, base=500, minimum=0, reaches=2, power=4, settled=0.25)
    assert run.at(250) == pytest.approx(2)
    assert run.at(1000) < 2
    assert Annealing.for_run(10, minimum=0).at(4) == pytest.approx(1)


def test_a_margin_that_never_acts_is_diagnosed():
    mnist = Annealing(base=1000, gamma=2.5e-5, power=35)
    message = mnist.diagnose(2000)
    assert message is not None
    assert "181" in message
    assert mnist.diagnose(20_000) is None
    assert make_head("l-softmax", embedding_dim=2, num_classes=3).diagnose(2000) == message


@pytest.mark.parametrize("margin", [2, 4])
def test_a_start_without_gradient_is_diagnosed(margin):
    for annealing in (None, Annealing(base=0.1, gamma=0.0)):
        message = make_head("a-softmax", embedding_dim=2, num_classes=3, margin=margin, annealing=annealing).diagnose(
            100
        )
        assert message is not None
        assert "no gradient" in message


@pytest.mark.parametrize("margin", [1.9, 3, 5])
def test_a_start_far_below_the_other_scores_is_diagnosed_where_psi_is_not_flat(margin):
    message = Annealing(base=0.0, gamma=0.0).diagnose(100, margin=margin)
    assert message is not None
    assert "shrink" in message
    assert f"{-psi_at_right_angle(margin):.1f} times" in message


@pytest.mark.parametrize(
    ("margin", "base", "trains"),
    [
        (1.5, 0, True),
        (2, 1, True),
        (3, 1, False),
        (3, 2, True),
        (4, 3, True),
        (4, 2, False),
        (5, 2, False),
        (5, 5, True),
    ],
)
def test_the_start_is_judged_by_how_far_lambda_leaves_the_target_below(margin, base, trains):
    constant = Annealing(base=base, gamma=0.0)
    assert (constant.diagnose(300, margin=margin) is None) is trains


def test_a_lambda_that_vanishes_before_features_have_turned_is_diagnosed():
    message = Annealing(base=1000, gamma=1000, power=35).diagnose(300)
    assert message is not None
    assert "within a twentieth" in message


def test_a_margin_that_comes_in_the_last_tenth_is_diagnosed():
    late = Annealing(base=1000, gamma=2.5e-5, power=35)
    message = late.diagnose(4_900)
    assert late.at(4_900) < 20 < late.at(0.9 * 4_900)
    assert message is not None
    assert "too late" in message


@pytest.mark.parametrize("margin", [1, 1.35, 1.5])
def test_small_margins_may_start_without_lambda(margin):
    assert make_head("a-softmax", embedding_dim=2, num_classes=3, margin=margin, annealing=None).diagnose(100) is None


@pytest.mark.parametrize("margin", MARGINS)
def test_the_papers_schedules_and_the_defaults_are_fine_for_every_margin(margin):
    assert PAPER_MNIST.diagnose(20_000, margin=margin) is None
    assert SPHEREFACE.diagnose(28_000, margin=margin) is None
    for total in LENGTHS:
        assert Annealing.for_run(total).diagnose(total, margin=margin) is None


@pytest.mark.parametrize("margin", MARGINS[1:])
def test_lambda_that_never_falls_is_diagnosed_for_every_margin_but_one(margin):
    never = Annealing(base=1000, gamma=0.0)
    assert "never acts" in (never.diagnose(100, margin=margin) or "")
    assert never.diagnose(100, margin=1) is None


@pytest.mark.parametrize("margin", [*MARGINS, 2.5, 6, 7.3])
def test_psi_at_right_angle_is_psi(margin):
    right_angle = torch.tensor(math.pi / 2, dtype=torch.float64)
    assert psi_at_right_angle(margin) == pytest.approx(psi_of_angle(right_angle, margin).item(), abs=1e-12)


def test_a_run_without_steps_is_refused():
    with pytest.raises(ValueError, match="total_steps=0 is out of range"):
        PAPER_MNIST.diagnose(0)


@pytest.mark.parametrize("name", [name for name in HEADS if name not in ANNEALED])
def test_heads_without_annealing_have_nothing_to_diagnose(name):
    head = make_head(name, embedding_dim=2, num_classes=3)
    assert HEADS[name].annealing_for_run(100) is None
    assert not head.uses_annealing
    assert head.current_lambda == 0
    assert head.diagnose(100) is None


@pytest.mark.parametrize("name", ANNEALED)
def test_lambda_follows_advance_and_nothing_else(name):
    head = make_head(name, embedding_dim=3, num_classes=4, annealing=Annealing(base=8, gamma=1, power=1))
    assert head.uses_annealing
    x, y = torch.randn(5, 3), torch.arange(5) % 4
    first = head(x, y).item()
    assert head(x, y).item() == first
    assert head.current_lambda == 8
    head.advance()
    assert head.current_lambda == 4
    assert head(x, y).item() != first


@pytest.mark.parametrize("name", ANNEALED)
def test_backward_uses_the_lambda_of_its_forward(name):
    torch.manual_seed(0)
    head = make_head(name, embedding_dim=3, num_classes=4, annealing=Annealing(base=8, gamma=1, power=1))
    x, y = torch.randn(5, 3), torch.arange(5) % 4
    gradients = []
    for moves in (0, 7):
        leaf = x.clone().requires_grad_()
        with torch.no_grad():
            head.step.zero_()
        loss = head(leaf, y)
        for _ in range(moves):
            head.advance()
        loss.backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("field", "value"), [("base", -1.0), ("gamma", float("nan")), ("power", float("inf")), ("minimum", -0.1)]
)
def test_wrong_numbers_are_named(field, value):
    numbers = {"base": 1.0, "gamma": 1.0, "power": 1.0, "minimum": 0.0, field: value}
    with pytest.raises(ValueError, match=rf"annealing {field}=.*≥ 0"):
        Annealing(**numbers)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"total_steps": 0}, "total_steps"),
        ({"total_steps": 9, "settled": 0}, "settled"),
        ({"total_steps": 9, "settled": 1.2}, "settled"),
        ({"total_steps": 9, "power": 0}, "power"),
        ({"total_steps": 9, "base": 3}, "reaches"),
    ],
)
def test_wrong_runs_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        Annealing.for_run(**options)


def test_no_schedule_is_advised_that_would_be_complained_of() -> None:
    assert str(Annealing.for_run(1000).diagnose(1000, margin=40)).endswith("use a smaller margin")
    assert str(Annealing(base=0, gamma=0).diagnose(1000, margin=40)).endswith("use a smaller margin")
    assert str(Annealing(base=0, gamma=0).diagnose(1000, margin=5)).endswith("use Annealing.for_run(1000)")
