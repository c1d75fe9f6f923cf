"""Noise-contrastive estimation against slow loops, its definition, its limit and its optimum."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from facemargin.heads import HEADS, Annealing, Head, make_head
from facemargin.partitions import NCE, make_partition
from facemargin.partitions.flat import new_log_z
from facemargin.partitions.proposals import Frequency, Proposal

D, C = 3, 4
OBJECTIVES = ("nce", "negative-sampling")
Q = (0.4, 0.1, 0.3, 0.2)
MARGINS: dict[str, dict[str, Any]] = {
    "l-softmax": {"margin": 3, "annealing": Annealing(base=2.0, gamma=0.0)},
    "a-softmax": {"margin": 3, "annealing": None},
    "am-softmax": {"scale": 3.0, "margin": 0.4},
    "arcface": {"scale": 3.0, "margin": 0.5},
    "normface": {"scale": 3.0},
}
NO_MARGIN = {"l-softmax": {"margin": 1}, "a-softmax": {"margin": 1}} | {
    name: {"scale": 3.0, "margin": 0.0} for name in ("am-softmax", "arcface")
}
VARIANTS = [(name, MARGINS.get(name, {})) for name in HEADS] + list(NO_MARGIN.items())


class Scripted(Proposal):
    """A noise whose draws are known beforehand."""

    def __init__(self, draws: list[int], q: tuple[float, ...] = Q) -> None:
        super().__init__(len(q))
        self.draws, self.log_q = torch.tensor(draws), torch.tensor(q, dtype=torch.float64).log()

    def sample(self, count: int, device: torch.device | str) -> Tensor:
        assert count == len(self.draws)
        return self.draws

    def log_probability(self, classes: Tensor) -> Tensor:
        return self.log_q[classes]


def build(name: str, draws: list[int], *, objective: str = "nce", q: tuple[float, ...] = Q, **own: Any) -> Head:
    torch.manual_seed(3)
    noise = NCE(samples=len(draws), noise=Scripted(draws, q), objective=objective, sparse_gradients=False)
    return make_head(name, embedding_dim=D, num_classes=len(q), partition=noise, **own).double()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(5, D, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 3, 2, 1])


def scores_of(head: Head, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Every score and the margined one of the label, divided by the temperature."""
    with torch.no_grad():
        features = head.features(x)
        target = head.target_scores(features, head.weight[y], None if head.bias is None else head.bias[y])
        return head.logits(x) / head.temperature, target / head.temperature


def logistic(t: float) -> float:
    """−log σ(t)."""
    return max(-t, 0.0) + math.log1p(math.exp(-abs(t)))


def slow_loss(head: Head, x: Tensor, y: Tensor, draws: list[int], objective: str) -> float:
    z, f = scores_of(head, x, y)
    offset = 0.0 if head.partition.log_z is None else head.partition.log_z.item()
    losses = []
    for i, label in enumerate(y.tolist()):
        taken_off = [offset + (math.log(len(draws) * q) if objective == "nce" else 0.0) for q in Q]
        loss = logistic(f[i].item() - taken_off[label])
        for j in draws:
            score = f[i].item() if j == label else z[i, j].item()
            loss += logistic(taken_off[j] - score)
        losses.append(loss)
    return math.fsum(losses) / len(losses)


@pytest.mark.parametrize(("name", "own"), VARIANTS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_the_loss_is_that_of_a_slow_loop(name, own, objective, temperature):
    draws = [2, 0, 0, 3, 2, 0]
    head = build(name, draws, objective=objective, temperature=temperature, **own)
    x, y = batch()
    assert head(x, y).item() == pytest.approx(slow_loss(head, x, y, draws, objective), rel=1e-12)


@pytest.mark.parametrize(("name", "own"), VARIANTS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_are_the_true_ones(name, own, objective):
    head = build(name, [2, 0, 0, 3], objective=objective, temperature=1.3, class_weights=[1, 2, 0.5, 3], **own)
    x, y = batch()
    inputs = (x.requires_grad_(), *head.parameters())
    assert torch.autograd.gradcheck(lambda embeddings, *_: head(embeddings, y), inputs, atol=1e-7, fast_mode=True)


@pytest.mark.parametrize("name", ["softmax", "am-softmax"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("k", [1, 2])
def test_the_mean_over_all_draws_is_the_textbook_objective(name, objective, k):
    """E over the noise of −log σ(f_y − a_y) − Σ_i log σ(a − z) = −log σ(f_y − a_y) − k Σ_j q_j log σ(a_j − z_j)."""
    x, y = batch()
    mean = 0.0
    for draws in itertools.product(range(C), repeat=k):
        head = build(name, list(draws), objective=objective)
        mean += math.prod(Q[j] for j in draws) * head(x, y).item()
    z, f = scores_of(head, x, y)
    z = z.scatter(1, y[:, None], f[:, None])
    a = torch.zeros(C).double() if head.partition.log_z is None else head.partition.log_z.detach().expand(C)
    if objective == "nce":
        a = a + (k * torch.tensor(Q, dtype=torch.float64)).log()
    noise = -k * (torch.tensor(Q, dtype=torch.float64) * torch.nn.functional.logsigmoid(a - z)).sum(1)
    expected = (noise - torch.nn.functional.logsigmoid(f - a[y])).mean()
    assert mean == pytest.approx(expected.item(), rel=1e-7)


@pytest.mark.parametrize(("name", "own"), VARIANTS)
def test_the_gradient_becomes_that_of_dense_as_the_noise_grows(name, own):
    """Where log Z is right, k = nC gives (1 − p) / (1 + p/n) for the label and p / (1 + p/n) for others: 1/n off.

    Uniform noise that draws every class n times has exactly the mean gradient of k = nC draws.
    """
    x, y = batch()
    x, y = x[:1], y[:1]
    dense = make_head(name, embedding_dim=D, num_classes=C, **own).double()
    with torch.no_grad():
        log_z = dense.partition.losses(dense, dense.features(x), y).log_normaliser.squeeze()
        if dense.bias is not None:  # heads with biases keep log Z = 0
            dense.bias -= log_z
    dense(x, y).backward()
    expected, errors = dense.weight.grad, []
    for n in (8, 16, 32, 64):
        head = build(name, list(range(C)) * n, q=(1 / C,) * C, **own)
        with torch.no_grad():
            head.weight.copy_(dense.weight)
            if dense.bias is not None:
                head.bias.copy_(dense.bias)
            else:
                head.partition.log_z.copy_(log_z)
        head(x, y).backward()
        errors.append(float((head.weight.grad - expected).norm() / expected.norm()))
        assert 0 < errors[-1] <= 1 / n
        if head.partition.log_z is not None:
            assert abs(head.partition.log_z.grad.item()) <= 1 / n
    for before, after in itertools.pairwise(errors):
        assert after / before == pytest.approx(0.5, rel=0.1)


def minimise(head: Head, x: Tensor, p: Tensor) -> Tensor:
    """Minimise the loss under p(j|x), all x alike; returns z/T at the optimum."""
    pairs = list(itertools.product(range(len(x)), range(p.shape[1])))
    rows, labels = (torch.tensor(column) for column in zip(*pairs, strict=True))
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-8)

    def closure() -> Tensor:
        optimizer.zero_grad()
        nll = head.partition.losses(head, head.features(x[rows]), labels).nll
        loss = (nll * p.flatten()).sum() / len(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    return head.logits(x).detach() / head.temperature


NOISE = [0] * 4 + [1] + [2] * 3 + [3] * 2  # exactly Q, so that k = 10 draws have no variance


@pytest.mark.parametrize("name", ["softmax", "l-softmax"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_optimum_is_the_conditional_distribution_and_for_negative_sampling_its_ratio_to_the_noise(name, objective):
    """One of these heads keeps log Z in its biases and one in its scalar; their scores are otherwise free."""
    p = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.2, 0.5, 0.2, 0.1], [0.25, 0.25, 0.05, 0.45]], dtype=torch.float64)
    head = build(name, NOISE, objective=objective, **({"margin": 1} if name == "l-softmax" else {}))
    z = minimise(head, torch.eye(D).double(), p)
    log_z = 0.0 if head.partition.log_z is None else head.partition.log_z.item()
    if objective == "nce":
        torch.testing.assert_close((z - log_z).exp(), p, atol=1e-4, rtol=0)
        torch.testing.assert_close(z.logsumexp(1), torch.full((3,), log_z).double(), atol=1e-4, rtol=0)
        return
    q = torch.tensor(Q, dtype=torch.float64)
    torch.testing.assert_close((z - log_z).exp(), p / (len(NOISE) * q), atol=1e-4, rtol=0)
    assert float((z.softmax(1) - p).abs().max()) > 0.1


def test_the_learned_scalar_of_a_unit_head_is_its_log_normaliser():
    """Four rows and four features on the two axes: log Z is one number, log(e^s + 2 + e^−s)."""
    torch.manual_seed(0)
    noise = NCE(samples=len(NOISE), noise=Scripted(NOISE), sparse_gradients=False)
    head = make_head("am-softmax", embedding_dim=2, num_classes=4, scale=2.0, margin=0.0, partition=noise).double()
    axes = torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    p = (2 * axes @ axes.T).softmax(1)
    with torch.no_grad():
        head.weight.copy_(axes + 0.3 * torch.randn(4, 2, dtype=torch.float64))
    z = minimise(head, axes, p)
    torch.testing.assert_close(z.softmax(1), p, atol=1e-4, rtol=0)
    assert head.partition.log_z.item() == pytest.approx(math.log(math.exp(2) + 2 + math.exp(-2)), abs=1e-4)


@pytest.mark.parametrize("name", HEADS)
def test_biases_start_at_the_noise_and_other_heads_at_the_expected_log_normaliser(name):
    counts = [5, 1, 2, 2]
    for objective, k in (("nce", 3), ("negative-sampling", 3)):
        noise = NCE(samples=k, noise="frequency", class_counts=counts, objective=objective)
        head = make_head(name, embedding_dim=D, num_classes=C, temperature=2.0, partition=noise)
        log_q = (torch.tensor(counts) / 10).log()
        if head.bias is not None:
            assert head.partition.log_z is None
            expected = 2 * log_q if objective == "nce" else torch.full((C,), -2 * math.log(k))
            torch.testing.assert_close(head.bias.detach(), expected)
        else:
            expected = new_log_z(head) + (0.0 if objective == "nce" else math.log(k / C))
            torch.testing.assert_close(head.partition.log_z, expected)
            assert "partition.log_z" in head.state_dict()
            assert all(p is not head.partition.log_z for p in head.partition.decayed_parameters(head))


@pytest.mark.parametrize("name", HEADS)
def test_with_uniform_noise_both_objectives_start_equal(name):
    values = []
    for objective in OBJECTIVES:
        torch.manual_seed(1)
        head = make_head(name, embedding_dim=D, num_classes=C, partition=NCE(objective=objective, samples=7)).double()
        torch.manual_seed(2)
        values.append(head(*batch()).item())
    assert values[0] == pytest.approx(values[1], rel=1e-6)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_rows_of_labels_and_noise_have_a_gradient_and_move(name, objective):
    classes = 40
    torch.manual_seed(0)
    noise = NCE(samples=6, objective=objective)
    head = make_head(name, embedding_dim=D, num_classes=classes, partition=noise)
    assert noise.active_rows is None
    twin = copy.deepcopy(head)
    twin.partition.sparse_gradients = False
    x, y = batch()
    for either in (head, twin):
        torch.manual_seed(9)
        either(x.float(), y).backward()
    active = head.partition.active_rows
    assert set(y.tolist()) <= set(active.tolist())
    assert len(active) <= 4 + 6
    before = copy.deepcopy(head.state_dict())
    torch.optim.SGD(head.parameters(), lr=1.0).step()
    still = [j for j in range(classes) if j not in active.tolist()]
    for key in ("weight", "bias"):
        parameter = getattr(head, key)
        if parameter is None:
            continue
        assert parameter.grad.is_sparse
        assert parameter.grad.coalesce().indices()[0].tolist() == active.tolist()
        torch.testing.assert_close(parameter.grad.to_dense(), getattr(twin, key).grad)
        assert torch.equal(parameter[still], before[key][still])


def test_a_class_that_is_drawn_often_costs_one_row_and_counts_every_time():
    draws = [1] * 50 + [0]
    head = build("am-softmax", draws)
    x, y = torch.ones(1, D, dtype=torch.float64), torch.tensor([3])
    seen = []
    head.scores = lambda features, weight, bias=None: (  # type: ignore[method-assign]
        seen.append(len(weight)),
        Head.scores(head, features, weight, bias),
    )[1]
    loss = head(x, y).item()
    assert seen == [2]
    assert loss == pytest.approx(slow_loss(head, x, y, draws, "nce"), rel=1e-12)


@pytest.mark.parametrize("k", [1, 4, 40])
def test_a_certain_sample_still_costs_what_telling_it_from_noise_costs(k):
    """The data are taken for noise with odds r = k q(y), and the r noise draws of the label for data with odds 1/r."""
    head = build("softmax", [0] * k)  # every draw is the label, which gives r for k q(y) = k once q(0) = 1
    head.partition._source.log_q = torch.tensor([0.0, -50.0, -50.0, -50.0], dtype=torch.float64)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, -60.0, -60.0, -60.0]))
    floor = math.log(1 + k) + k * math.log(1 + 1 / k)
    assert head(torch.ones(2, D).double(), torch.tensor([0, 0])).item() == pytest.approx(floor, rel=1e-12)


def test_large_scores_lose_no_more_than_their_own_rounding():
    """Float32 at scale 64: an error of a few units in the last place of 64 in each logarithm of odds."""
    torch.manual_seed(0)
    head = make_head("arcface", embedding_dim=16, num_classes=100, partition=NCE(samples=50))
    x, y = torch.randn(64, 16), torch.randint(0, 100, (64,))
    torch.manual_seed(1)
    single = head.batch_losses(x, y).nll
    torch.manual_seed(1)
    double = head.double().batch_losses(x.double(), y).nll
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=2e-5)


def test_the_noise_follows_the_class_counts():
    torch.manual_seed(0)
    counts = [700, 200, 0, 100]
    head = make_head(
        "am-softmax",
        embedding_dim=D,
        num_classes=C,
        partition={"name": "nce", "noise": "frequency", "class_counts": counts, "samples": 20_000},
    )
    draws = head.partition._source.sample(20_000, "cpu").bincount(minlength=C) / 20_000
    q = torch.tensor([700, 200, 1, 100]) / 1001
    assert float(((draws - q) / (q * (1 - q) / 20_000).sqrt()).abs().max()) < 4


def test_a_small_problem_is_learned_as_with_the_exact_loss():
    """Clusters on a sphere, AM-Softmax, s = 30, m = 0.35, the same learning rate for both."""
    torch.manual_seed(0)
    centres = torch.randn(100, 32)
    y = torch.arange(100).repeat(20)
    x = centres[y] + 0.8 * torch.randn(len(y), 32)
    accuracies = {}
    for partition in ("dense", "nce", {"name": "nce", "samples": 10}):
        torch.manual_seed(1)
        projection = torch.nn.Linear(32, 16)
        head = make_head("am-softmax", embedding_dim=16, num_classes=100, partition=partition)
        optimizer = torch.optim.SGD([*projection.parameters(), *head.parameters()], lr=0.1)
        for _ in range(200):
            chosen = torch.randint(0, len(y), (64,))
            optimizer.zero_grad()
            head(projection(x[chosen]), y[chosen]).backward()
            optimizer.step()
        accuracies[str(partition)] = float((head.predict(projection(x)) == y).float().mean())
    exact = accuracies.pop("dense")
    assert exact > 0.8
    assert min(accuracies.values()) > exact - 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, r"samples=0 is out of range: an integer ≥ 1"),
        ({"samples": 0.1}, r"samples=0\.1 is out of range"),
        ({"samples": True}, r"samples=True is out of range"),
        ({"noise": "bigram"}, r"noise='bigram' is unknown; known noises: uniform, frequency, frequency-power"),
        ({"power": 0.5}, r"power=0\.5 is for frequency and frequency-power, not for 'uniform'"),
        ({"objective": "ranking"}, r"objective='ranking' is unknown; known objectives: nce, negative-sampling"),
        ({"noise": "frequency", "power": 2.0}, r"power=2\.0 is out of range"),
        ({"noise": "frequency", "class_counts": [1, 2]}, f"class_counts has 2 entries; {C} are needed"),
        ({"class_counts": [1, 2]}, f"class_counts has 2 entries; {C} are needed"),
        ({"noise": "frequency", "class_counts": [1, 2, -1, 3]}, r"class_counts\[2\]=-1 is out of range"),
        ({"noise": Frequency(3)}, rf"noise is one over 3 classes; the head has {C}"),
    ],
)
def test_wrong_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_head("am-softmax", embedding_dim=D, num_classes=C, partition=NCE(**options))


def test_options_hold_every_choice_and_a_noise_without_a_name_is_refused():
    options = {
        "name": "nce",
        "samples": 9,
        "noise": "frequency-power",
        "power": 0.5,
        "class_counts": [3, 2, 1],
        "objective": "negative-sampling",
        "sparse_gradients": False,
    }
    assert make_partition(options).options() == options
    with pytest.raises(ValueError, match="cannot be saved as an option"):
        NCE(noise=Frequency(3)).options()
