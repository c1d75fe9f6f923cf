"""What papers on margins claim of m and of the scale, and where it holds. Stated in docs/theory.md."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facemargin.heads import make_head
from facemargin.heads.normface import starting_scale


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def on_circle(*angles: float) -> Tensor:
    a = torch.tensor(angles, dtype=torch.float64)
    return torch.stack([a.cos(), a.sin()], 1)


def width_and_gap(between: float, m: float) -> tuple[float, float]:
    """Two classes in the plane: the angle that class 1 spans, and its distance from class 2."""
    return between / (m - 1) + between / (m + 1), between * (m - 1) / (m + 1)


def meets(x: Tensor, rows: Tensor, m: float) -> Tensor:
    """Which x satisfy ψ(θ_0) > cosθ_j for every other row j, by the head itself."""
    head = make_head("a-softmax", embedding_dim=rows.shape[1], num_classes=len(rows), margin=m, annealing=None).double()
    with torch.no_grad():
        head.weight.copy_(rows)
        target = head.target_scores(head.features(x), head.weight[0].expand(len(x), -1))
        return (target[:, None] > head.logits(x)[:, 1:]).all(1)


@pytest.mark.parametrize("m", [3, 4])
def test_in_the_plane_a_class_of_a_softmax_spans_what_the_formula_says(m):
    between = 1.1
    around = torch.linspace(-math.pi, math.pi, 100_001, dtype=torch.float64)
    inside = around[meets(torch.stack([around.cos(), around.sin()], 1), on_circle(0, between), m)]
    assert float(inside.max()) == pytest.approx(between / (m + 1), abs=2e-4)
    assert float(inside.max() - inside.min()) == pytest.approx(width_and_gap(between, m)[0], abs=2e-4)


def test_two_classes_in_the_plane_are_narrower_than_their_gap_from_m_of_2_plus_root_3_on():
    root = 2 + math.sqrt(3)
    for m, narrower in ((root - 1e-6, False), (root + 1e-6, True)):
        width, gap = width_and_gap(1.1, m)
        assert (width < gap) == narrower


def test_evenly_spaced_classes_in_the_plane_are_narrower_than_their_gap_from_m_of_3_on():
    for m, narrower in ((3 - 1e-3, False), (3 + 1e-3, True)):
        step = 2 * math.pi / 7
        around = torch.linspace(-step, step, 100_001, dtype=torch.float64)
        inside = around[
            meets(torch.stack([around.cos(), around.sin()], 1), on_circle(*(j * step for j in range(7))), m)
        ]
        assert (float(inside.max() - inside.min()) < step * (m - 1) / (m + 1)) == narrower


def test_evenly_spaced_classes_in_more_dimensions_need_more_than_3():
    """Orthogonal rows and one dimension to spare: a class spans π/m at least; the gap is π/2·(m−1)/(m+1)."""
    needed = (3 + math.sqrt(17)) / 2
    rows, aside = torch.eye(4, 5, dtype=torch.float64), torch.eye(5, dtype=torch.float64)[4]
    for m in (3.2, needed - 1e-3):
        reach = math.pi / (2 * m) - 1e-9
        ends = torch.stack([math.cos(reach) * rows[0] + side * math.sin(reach) * aside for side in (1, -1)])
        assert bool(meets(ends, rows, m).all())
        assert not bool(
            meets(torch.stack([math.cos(t := reach + 1e-6) * rows[0] + math.sin(t) * aside]), rows, m).any()
        )
        gap = math.pi / 2 * (m - 1) / (m + 1)
        assert 2 * reach > gap
    assert math.pi / needed == pytest.approx(math.pi / 2 * (needed - 1) / (needed + 1))


def test_with_four_orthogonal_classes_the_necessary_margin_is_not_sufficient():
    """Two points of class 0 that lean away from the other rows, on either side of the plane of these."""
    m = 3.57
    rows, aside = torch.eye(4, 5, dtype=torch.float64), torch.eye(5, dtype=torch.float64)[4]
    away = -rows[1:].sum(0) / math.sqrt(3)

    phi = torch.linspace(math.pi / (2 * m), math.pi / m, 2001, dtype=torch.float64)[:, None]
    widest = 0.0
    for alpha in torch.linspace(0, 0.8, 17).tolist():
        ends = [
            phi.cos() * rows[0] + phi.sin() * (side * math.cos(alpha) * aside + math.sin(alpha) * away)
            for side in (1, -1)
        ]
        allowed = meets(ends[0], rows, m) & meets(ends[1], rows, m)
        widest = max(widest, float((ends[0] * ends[1]).sum(1).acos().where(allowed, 0).max()))
    assert widest == pytest.approx(0.8902, abs=5e-4)
    assert widest > math.pi / 2 * (m - 1) / (m + 1)


def probability(rows: Tensor, scale: float) -> float:
    """p of class 0 for a feature on its own row."""
    return float(torch.softmax(scale * rows @ rows[0], 0)[0])


def crossed(classes: int) -> Tensor:
    """C = 2D unit rows: the axes and their opposites."""
    axes = torch.eye(classes // 2, dtype=torch.float64)
    return torch.cat([axes, -axes])


def even(classes: int) -> Tensor:
    """C unit rows with all cosines −1/(C−1)."""
    return F.normalize(torch.eye(classes, dtype=torch.float64) - 1 / classes, dim=1)


def test_the_l2_softmax_bound_is_that_of_crossed_unit_rows_without_their_opposite():
    c, p = 10, 0.9
    alpha = math.log(p * (c - 2) / (1 - p))
    e = math.exp(alpha)
    assert e / (e + c - 2) == pytest.approx(p)
    assert probability(crossed(c), alpha) == pytest.approx(e / (e + c - 2 + 1 / e))
    assert 0.899 < probability(crossed(c), alpha) < p


def test_evenly_spread_rows_reach_the_probability_below_the_l2_softmax_bound():
    c, p = 10, 0.9
    bound = math.log(p * (c - 2) / (1 - p))
    scale = starting_scale(c, p)
    assert probability(even(c), scale) == pytest.approx(p)
    assert scale < bound - 0.3


def test_free_rows_reach_any_probability_at_any_alpha():
    head = make_head("l2-softmax", embedding_dim=10, num_classes=10, alpha=0.5).double()
    with torch.no_grad():
        head.weight.copy_(20 * torch.eye(10, dtype=torch.float64))
        assert head.bias is not None
        head.bias.zero_()
        z = head.logits(torch.eye(10, dtype=torch.float64)[:1])
    assert float(torch.softmax(z, 1)[0, 0]) > 0.999


def balanced_loss(rows: Tensor, features: Tensor, scale: float) -> float:
    """One sample a class, all unit vectors."""
    return F.cross_entropy(scale * features @ rows.T, torch.arange(len(rows))).item()


def test_the_normface_bound_is_one_on_the_mean_over_classes_wherever_features_and_rows_lie():
    c, scale = 5, 3.0
    bound = math.log1p((c - 1) * math.exp(-scale * c / (c - 1)))
    assert balanced_loss(even(c), even(c), scale) == pytest.approx(bound)
    vectors = F.normalize(random(300, 2, c, 6), dim=3)
    near = F.normalize(F.pad(even(c), (0, 1)) + 0.1 * random(300, 2, c, 6), dim=3)
    for features, rows in torch.cat([vectors, near]):
        assert balanced_loss(rows, features, scale) > bound
        assert balanced_loss(rows, rows, scale) > bound


def test_a_single_class_may_pass_the_normface_bound_and_has_one_of_its_own():
    c, scale = 5, 3.0
    rows = torch.cat([on_circle(0), on_circle(*[math.pi] * (c - 1))])
    alone = probability(rows, scale)
    assert alone == pytest.approx(1 / (1 + (c - 1) * math.exp(-2 * scale)))
    assert alone > 1 / (1 + (c - 1) * math.exp(-scale * c / (c - 1)))


def test_even_spread_needs_one_dimension_less_than_classes():
    assert int(torch.linalg.matrix_rank(even(7))) == 6
    assert math.cos(2 * math.pi / 7) > -1 / 6  # seven rows in the plane: some pair is at least as close as this
