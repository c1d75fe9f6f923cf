"""What each rank of a world does and checks, run by ``tests/ranks.py``. Every rank computes the dense reference too."""

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from facemargin.heads import HEADS, Head, make_head
from facemargin.partitions import PARTITIONS

Cases = dict[str, Callable[[Any], None]]
D = 5
LEARNED = {
    "am-softmax": "learn_scale",
    "normface": "learn_scale",
    "arcface": "learn_scale",
    "l2-softmax": "learn_alpha",
}
INNER = [name for name in ("dense", "streaming") if name in PARTITIONS]
ALL_SAMPLED = {"name": "sampled", "samples": 1.0}


def own_part(world: Any) -> tuple[int, slice]:
    """The size of the whole batch, and where this rank's samples are; the second rank has none."""
    sizes = [4, 0, 3, 2][: world.ranks]
    start = sum(sizes[: world.rank])
    return sum(sizes), slice(start, start + sizes[world.rank])


def make_pair(
    name: str, classes: int, inner: Any = "dense", *, group: Any = None, self_normalize: float = 0.0, **options: Any
) -> tuple[Head, Head]:
    """A sharded head, and the dense one with the same rows and biases."""
    if name == "l2-softmax":
        options["alpha"] = 6.0
    sharded = {"name": "sharded", "inner": inner, "group": group, "self_normalize": self_normalize}
    heads = []
    for partition in (sharded, {"name": "dense", "self_normalize": self_normalize}):
        torch.manual_seed(0)
        head = make_head(name, embedding_dim=D, num_classes=classes, partition=partition, **options).double()
        if head.bias is not None:
            bias = torch.arange(classes, dtype=torch.float64) / classes
            head.bias.data = bias[slice(*getattr(head.partition, "class_range", (0, classes)))].clone()
        heads.append(head)
    return heads[0], heads[1]


def make_batch(size: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, D, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (size,), generator=generator)
    y[0] = -100
    return x, y


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def expect_equal(world: Any, head: Head, dense: Head, *, factor: float, x: Tensor, y: Tensor, own: slice) -> None:
    """Loss and all gradients are those of the dense head on the whole batch, embeddings' ``factor`` times."""
    whole, mine = x.clone().requires_grad_(), x[own].clone().requires_grad_()
    expected, found = dense(whole, y), head(mine, y[own])
    expected.backward()
    found.backward()
    close(found, expected)
    close(mine.grad, factor * whole.grad[own])
    rows = slice(*head.partition.class_range)
    for key, parameter in head.named_parameters():
        gradient = dense.get_parameter(key).grad
        close(parameter.grad.to_dense(), gradient[rows] if key in ("weight", "bias") else gradient)


def equal(world: Any, name: str, classes: int, inner: Any = "dense", *, options: bool) -> None:
    chosen: dict[str, Any] = {}
    if options:
        chosen = {"class_weights": [1 + 0.1 * j for j in range(classes)], "temperature": 1.3}
        chosen |= {LEARNED[name]: True} if name in LEARNED else {}
        chosen |= {"label_smoothing": 0.1, "self_normalize": 0.2} if inner != ALL_SAMPLED else {}
    head, dense = make_pair(name, classes, inner, **chosen)
    size, own = own_part(world)
    x, y = make_batch(size, classes)
    expect_equal(world, head, dense, factor=world.ranks, x=x, y=y, own=own)


def scores_and_predictions(world: Any, name: str, classes: int) -> None:
    head, dense = make_pair(name, classes)
    size, own = own_part(world)
    x = make_batch(size, classes)[0]
    close(head.logits(x[own]), dense.logits(x)[own])
    assert torch.equal(head.predict(x[own]), dense.predict(x)[own])
    with torch.no_grad():
        head.weight.fill_(1.0)
    if name == "arcface":  # all classes are alike: the lowest one, wherever it is
        assert not bool(head.predict(x[own]).any())


def nothing_to_learn_from(world: Any) -> None:
    for size, inner in ((2, "dense"), (0, "dense"), (2, {"name": "sampled", "samples": 0.5})):
        head, _ = make_pair("arcface", 7, inner, learn_scale=True)
        x = torch.randn(size, D, dtype=torch.float64, requires_grad=True)
        loss = head(x, torch.full((size,), -100))
        loss.backward()
        assert loss.item() == 0
        assert not bool(x.grad.any())
        assert all(not bool(p.grad.to_dense().any()) for p in head.parameters())


def an_empty_batch_made_by_hand(world: Any) -> None:
    """Without gradient, and in another dtype: the rank still takes part in the exchange of backward."""
    head, dense = make_pair("arcface", 3)
    size, own = own_part(world)
    x, y = make_batch(size, 3)
    whole = x.clone().requires_grad_()
    dense(whole, y).backward()
    mine = x[own].clone().requires_grad_() if world.rank != 1 else torch.empty(0, D)
    labels = y[own] if world.rank != 1 else torch.empty(0, dtype=torch.int16)
    head(mine, labels).backward()
    if world.rank != 1:
        close(mine.grad, world.ranks * whole.grad[own])
    close(head.weight.grad, dense.weight.grad[slice(*head.partition.class_range)])


def a_frozen_backbone(world: Any) -> None:
    head, dense = make_pair("softmax", 3)
    size, own = own_part(world)
    x, y = make_batch(size, 3)
    head(x[own], y[own]).backward()
    dense(x, y).backward()
    close(head.weight.grad, dense.weight.grad[slice(*head.partition.class_range)])


def without_averaging(world: Any) -> None:
    head, dense = make_pair("am-softmax", 7)
    head.partition.gradients_are_averaged = False
    size, own = own_part(world)
    x, y = make_batch(size, 7)
    expect_equal(world, head, dense, factor=1, x=x, y=y, own=own)


def a_label_out_of_range_on_one_rank(world: Any) -> None:
    head, _ = make_pair("arcface", 7)
    x, y = torch.randn(2, D), torch.tensor([1, 7 if world.rank == world.ranks - 1 else 2])
    with pytest.raises(ValueError, match="label 7 is out of range"):
        head(x, y)
    head.check_labels = False
    assert bool(head(x, y).isnan())


def half_precision_saturates(world: Any) -> None:
    """The factor for DDP's averaging must not turn the largest float16 into infinity."""
    torch.manual_seed(0)
    head = make_head("arcface", embedding_dim=D, num_classes=7, partition="sharded")
    x = (torch.randn(2, D) * 1e-6).half().requires_grad_()
    head(x, torch.tensor([1, 2])).backward()
    assert bool(x.grad.isfinite().all())
    assert float(x.grad.abs().max()) == torch.finfo(torch.float16).max


def sampled_in_each_shard(world: Any) -> None:
    head, _ = make_pair("am-softmax", 40, {"name": "sampled", "samples": 0.1})
    size, own = own_part(world)
    x, y = make_batch(size, 40)
    mine = x[own].clone().requires_grad_()
    losses = head.batch_losses(mine, y[own])
    losses.loss.backward()
    assert losses.nll.shape == (size,)
    assert bool(losses.loss.isfinite())
    assert bool(mine.grad.isfinite().all())
    gradient = head.weight.grad.coalesce()
    assert torch.equal(gradient.indices()[0], head.partition.active_rows)
    assert len(head.partition.active_rows) < 40 // world.ranks
    own_features = head.features(x)
    assert head.partition.losses(head, own_features, y.clamp_min(0)).log_normaliser is None


def training_with_ddp(world: Any) -> None:
    """Several steps of SGD with momentum give the parameters of one process with the whole batch."""
    size, own = own_part(world)
    y = make_batch(size, 7)[1]
    pixels = torch.randn(size, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    trained = []
    for head, part in zip(
        make_pair("arcface", 7, learn_scale=True, self_normalize=0.1), (own, slice(None)), strict=True
    ):
        torch.manual_seed(3)
        backbone: nn.Module = nn.Linear(6, D).double()
        network = DistributedDataParallel(backbone) if part is own else backbone
        optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.05, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            loss = head(network(pixels[part]), y[part])
            loss.backward()
            optimizer.step()
            head.advance()
        trained.append((backbone, head, loss))
    (backbone, head, loss), (expected_backbone, dense, expected_loss) = trained
    close(loss, expected_loss)
    close(backbone.weight, expected_backbone.weight)
    close(backbone.bias, expected_backbone.bias)
    for key, parameter in head.named_parameters():
        expected = dense.get_parameter(key)
        close(parameter, expected[slice(*head.partition.class_range)] if key == "weight" else expected)


def a_group_of_some_ranks(world: Any) -> None:
    if world.ranks == 1:
        return
    group = dist.new_group(list(range(1, world.ranks)))
    if world.rank == 0:
        with pytest.raises(ValueError, match="group does not have this process"):
            make_pair("arcface", 7, group=group)
        return
    head, dense = make_pair("arcface", 7, group=group)
    x, y = make_batch(2 * (world.ranks - 1), 7)
    own = slice(2 * (world.rank - 1), 2 * world.rank)
    expect_equal(world, head, dense, factor=world.ranks - 1, x=x, y=y, own=own)


def second_derivatives_are_refused(world: Any) -> None:
    if world.ranks == 1:
        return
    head, _ = make_pair("softmax", 7)
    x = torch.randn(2, D, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(head(x, torch.tensor([1, 2])), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"'sharded' has no second derivative.*use partition 'dense'"):
        gradient.sum().backward()


def equal_cases(inners: list[Any], heads: Iterable[str], classes: Iterable[int], options: Iterable[bool]) -> Cases:
    cases: Cases = {}
    for inner, name, count, chosen in itertools.product(inners, heads, classes, options):
        title = inner if isinstance(inner, str) else inner["name"]
        case = partial(equal, name=name, classes=count, inner=inner, options=chosen)
        cases[f"{title}-{name}-{count}-{'options' if chosen else 'plain'}"] = case
    return cases


def score_cases(heads: Iterable[str], classes: Iterable[int]) -> Cases:
    return {
        f"scores-{name}-{count}": partial(scores_and_predictions, name=name, classes=count)
        for name, count in itertools.product(heads, classes)
    }


OTHERS = (
    nothing_to_learn_from,
    an_empty_batch_made_by_hand,
    a_frozen_backbone,
    without_averaging,
    a_label_out_of_range_on_one_rank,
    half_precision_saturates,
    sampled_in_each_shard,
    training_with_ddp,
    a_group_of_some_ranks,
    second_derivatives_are_refused,
)
CASES: Cases = {
    **equal_cases(["dense"], HEADS, [7], [True]),
    **equal_cases(["dense"], ["softmax", "arcface"], [3], [False]),
    **equal_cases([*INNER[1:], ALL_SAMPLED], ["softmax", "arcface"], [7], [True]),
    **score_cases(["softmax"], [7]),
    **score_cases(["arcface"], [3]),
    **{case.__name__: case for case in OTHERS},
}
THOROUGH: Cases = {
    **equal_cases([*INNER, ALL_SAMPLED], HEADS, [1, 3, 7, 16], [False, True]),
    **score_cases(HEADS, [1, 3, 16]),
}
