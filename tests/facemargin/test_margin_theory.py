"""Why a margin may lower the label's score, and which boundary it draws on the sphere. Stated in docs/theory.md."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from facemargin.heads import Head, make_head
from facemargin.heads.psi import psi_of_angle

MARGINS = {"l-softmax": 2, "a-softmax": 3, "am-softmax": 0.35, "arcface": 0.5}


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def build(name: str, rows: Tensor, **options: float) -> Head:
    if name in ("l-softmax", "a-softmax"):
        options["annealing"] = None
    head = make_head(name, embedding_dim=rows.shape[1], num_classes=len(rows), **options).double()
    with torch.no_grad():
        head.weight.copy_(rows)
    return head


def lead(head: Head, x: Tensor, label: int = 0, other: int = 1) -> Tensor:
    """f_label − z_other: the constraint of the label's class holds where it is positive."""
    row = head.weight[label].expand(len(x), -1)
    with torch.no_grad():
        return head.target_scores(head.features(x), row) - head.logits(x)[:, other]


@pytest.mark.parametrize("name", MARGINS)
def test_the_margined_loss_bounds_the_plain_loss_and_log_2_times_both_errors(name):
    head, x, y = build(name, random(6, 4), margin=MARGINS[name]), 2 * random(500, 4), torch.arange(500) % 6
    with torch.no_grad():
        z, f = head.logits(x), head.target_scores(head.features(x), head.weight[y])
    others = z.scatter(1, y[:, None], -math.inf)
    plain = torch.nn.functional.cross_entropy(z, y, reduction="none")
    margined = torch.logsumexp(torch.cat([others, f[:, None]], 1), 1) - f
    error = (others.amax(1) >= z.gather(1, y[:, None]).squeeze(1)).double()
    margin_error = (others.amax(1) >= f).double()
    assert 0 < float(error.mean()) < float(margin_error.mean())
    for smaller, larger in pairwise((error, margin_error, margined / math.log(2))):
        assert bool((smaller <= larger + 1e-12).all())
    assert bool((plain <= margined + 1e-12).all())


@pytest.mark.parametrize("t", [1.0, 0.1, 1e-3])
def test_t_times_the_loss_tends_to_the_multiclass_hinge_from_above(t):
    rows, x, s, m = random(6, 4), random(1, 4), 4.0, 0.35
    head, hinges = build("am-softmax", rows, margin=m, scale=s, temperature=t), []
    z = head.logits(x)[0].tolist()
    for y in range(6):
        hinges.append(max(0.0, *(z[j] - (z[y] - s * m) for j in range(6) if j != y)))
        assert -1e-12 <= t * head(x, torch.tensor([y])).item() - hinges[-1] <= t * math.log(6)
    assert max(hinges) > 1


def test_a_margin_taken_from_every_score_is_none():
    z, y = random(5, 4), torch.tensor([0, 1, 2, 3, 0])
    plain = torch.nn.functional.cross_entropy(z, y)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(z - 0.35, y), plain)
    at_label = z - 0.35 * torch.nn.functional.one_hot(y, 4)
    assert float(torch.nn.functional.cross_entropy(at_label, y) - plain) > 0.1


def test_an_additive_margin_counts_the_other_classes_exp_sm_times():
    s, m, rows, x = 5.0, 0.3, random(4, 3), random(1, 3)
    head = build("am-softmax", rows, margin=m, scale=s)
    e = head.logits(x)[0].detach().exp()
    expected = -torch.log(e[1] / (e[1] + math.exp(s * m) * (e.sum() - e[1])))
    torch.testing.assert_close(head(x, torch.tensor([1])).detach(), expected)


@pytest.mark.parametrize("eta", [0.2, 0.5, 0.7])
def test_a_margin_keeps_the_better_class_and_spoils_its_probability(eta):
    """Two classes, the first with probability eta: the gap d that minimises the expected loss at margin 2."""
    slope = lambda d: -eta / (1 + math.exp(d - 2)) + (1 - eta) / (1 + math.exp(-d - 2))  # noqa: E731
    gap, honest = brentq(slope, -50, 50), math.log(eta / (1 - eta))
    assert gap == pytest.approx(0, abs=1e-9) if eta == 0.5 else gap * honest > 0
    assert abs(gap) >= 1.5 * abs(honest)


def pair(between: float, dim: int = 2) -> Tensor:
    """Two unit rows at an angle."""
    rows = torch.zeros(2, dim, dtype=torch.float64)
    rows[0, 0], rows[1, 0], rows[1, 1] = 1, math.cos(between), math.sin(between)
    return rows


def offset(name: str, between: float, m: float) -> float:
    """How far class 1's boundary lies from the bisector, on the arc between the rows; the formulas of the page."""
    if name == "am-softmax":
        return math.asin(m / (2 * math.sin(between / 2)))
    if name == "arcface":
        return m / 2
    return between * (m - 1) / (2 * (m + 1))


@pytest.mark.parametrize(("name", "m"), [("am-softmax", 0.35), ("arcface", 0.5), ("a-softmax", 2), ("a-softmax", 4)])
@pytest.mark.parametrize("between", [0.9, math.pi / 2, 3.0])
def test_boundaries_of_two_classes_lie_where_the_formulas_say(name, m, between):
    head = build(name, pair(between), margin=m)
    theta = brentq(lambda t: lead(head, numbers(math.cos(t), math.sin(t))[None]).item(), 1e-9, between, xtol=1e-12)
    assert between / 2 - theta == pytest.approx(offset(name, between, m), abs=1e-9)


@pytest.mark.parametrize(("name", "m"), [("am-softmax", 0.35), ("arcface", 0.5), ("a-softmax", 2)])
@pytest.mark.parametrize("between", [0.9, math.pi / 2, 3.0])
def test_no_two_samples_that_meet_their_constraints_are_closer_than_twice_the_offset(name, m, between):
    head, x = build(name, pair(between, 3), margin=m), torch.nn.functional.normalize(random(8_000, 3), dim=1)
    first, second = x[lead(head, x) >= 0], x[lead(head, x, 1, 0) >= 0]
    assert min(len(first), len(second)) > 50
    nearest = math.acos(float((first @ second.T).max()))
    assert 2 * offset(name, between, m) <= nearest <= 2 * offset(name, between, m) + 0.1


def on_boundary(between: float, first: float, second: float) -> Tensor:
    """The unit vector of three dimensions at two given angles from the two rows."""
    rows = pair(between, 3)
    in_plane = torch.linalg.solve(rows[:, :2], numbers(math.cos(first), math.cos(second)))
    return torch.cat([in_plane, (1 - in_plane.square().sum()).sqrt()[None]])


@pytest.mark.parametrize(("name", "m", "constant"), [("am-softmax", 0.35, True), ("arcface", 0.5, False)])
def test_off_the_arc_the_boundary_keeps_its_distance_from_the_bisector_for_am_softmax_not_arcface(name, m, constant):
    between = math.pi / 3
    rows = pair(between, 3)
    head, normal = build(name, rows, margin=m), torch.nn.functional.normalize(rows[0] - rows[1], dim=0)
    distances = []
    for first in (0.4, 0.8, 1.2):
        second = math.acos(math.cos(first) - m) if name == "am-softmax" else first + m
        x = on_boundary(between, first, second)
        assert lead(head, x[None]).item() == pytest.approx(0, abs=1e-9)
        distances.append(math.asin(float(x @ normal)))
        if name == "arcface":
            expected = math.sin(m / 2) / math.sin(between / 2) * math.sin(first + m / 2)
            assert math.sin(distances[-1]) == pytest.approx(expected)
    assert (max(distances) - min(distances) < 1e-9) == constant
    assert constant or (distances[0] > m / 2 and distances[-1] > 1.9 * m / 2)


def test_a_class_centre_meets_an_additive_cosine_margin_only_up_to_1_less_the_largest_cosine():
    for between in (0.9, math.pi / 2, math.pi):
        limit = 1 - math.cos(between)
        for m, holds in ((limit - 1e-9, True), (limit + 1e-9, False)):
            assert (lead(build("am-softmax", pair(between), margin=m), numbers(1, 0)[None]).item() > 0) == holds


def test_evenly_spread_centres_allow_a_cosine_margin_of_c_over_c_minus_1_and_no_arrangement_more():
    c = 5
    simplex = torch.nn.functional.normalize(torch.eye(c, dtype=torch.float64) - 1 / c, dim=1)
    assert (1 - (simplex @ simplex.T).fill_diagonal_(-1)).min().item() == pytest.approx(c / (c - 1))
    for rows in torch.nn.functional.normalize(random(200, c, 8), dim=2):
        assert 1 - (rows @ rows.T).fill_diagonal_(-1).max().item() <= c / (c - 1)


def test_psi_falls_as_m_grows_also_between_whole_m_so_it_never_exceeds_the_cosine():
    theta = torch.linspace(0, math.pi, 1001, dtype=torch.float64)
    values = [psi_of_angle(theta, m) for m in (1, 1.35, 1.7, 2, 2.5, 3, 3.9, 4)]
    torch.testing.assert_close(values[0], theta.cos())
    assert all(bool((larger <= smaller + 1e-12).all()) for smaller, larger in pairwise(values))


def test_for_m_not_whole_pieces_up_to_m_minus_1_would_let_psi_rise_again():
    m = 1.35
    theta = torch.linspace(0, math.pi, 1001, dtype=torch.float64)
    assert float((m * theta).cos().diff().max()) > 1e-3  # k = 0 alone: the only whole k ≤ m − 1
    assert float(psi_of_angle(theta, m).diff().max()) < 1e-12


def test_for_m_not_whole_psi_ends_above_1_less_2m_and_with_an_infinite_slope_in_the_cosine():
    m = 1.35
    beside = torch.tensor([math.pi - 1e-6, math.pi], dtype=torch.float64)
    last_but_one, last = psi_of_angle(beside, m).tolist()
    assert last == pytest.approx(-math.cos(m * math.pi) - 2)
    assert last > 1 - 2 * m + 0.1
    assert (last_but_one - last) / (1 - math.cos(1e-6)) > 1e5
