"""Row-wise optimizers: other rows keep every bit, all rows in every step are the base class, dense is untouched."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from facemargin.heads import make_head
from facemargin.partitions import Sampled
from facemargin.rowwise import RowwiseAdamW, RowwiseSGD, clip_gradients

C, D = 12, 3
SGD_OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    {"momentum": 0.9, "maximize": True},
]
ADAM_OPTIONS: list[dict[str, Any]] = [{}, {"weight_decay": 0.3}, {"amsgrad": True}, {"maximize": True, "eps": 1e-3}]
OPTIMIZERS = [(RowwiseSGD, torch.optim.SGD, options) for options in SGD_OPTIONS] + [
    (RowwiseAdamW, torch.optim.AdamW, options) for options in ADAM_OPTIONS
]


def rows_and_bias(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((C, D), (C,))]


def set_gradients(parameters: list[nn.Parameter], rows: list[int], seed: int, *, sparse: bool = True) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in parameters:
        values = torch.randn(len(rows), *p.shape[1:], generator=generator).to(p.dtype)
        gradient = torch.sparse_coo_tensor(torch.tensor([rows]), values, p.shape, check_invariants=True)
        p.grad = gradient if sparse else gradient.to_dense()


def everything(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Parameters and their row states."""
    states = [value for p in parameters for value in optimizer.state[p].values() if value is not None and value.ndim]
    return [*(p.detach().clone() for p in parameters), *(value.clone() for value in states)]


@pytest.mark.parametrize(("rowwise", "base", "options"), OPTIMIZERS)
def test_dense_gradients_get_the_step_of_the_base_class_bit_for_bit(rowwise: Any, base: Any, options: Any) -> None:
    ours, theirs = rows_and_bias(), rows_and_bias()
    optimizers = rowwise(ours, lr=0.1, **options), base(theirs, lr=0.1, **options)
    for step in range(4):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            set_gradients(parameters, list(range(C)), step, sparse=False)
            optimizer.step()
    for mine, yours in zip(everything(optimizers[0], ours), everything(optimizers[1], theirs), strict=True):
        assert torch.equal(mine, yours)
    assert optimizers[0].state_dict()["param_groups"] == optimizers[1].state_dict()["param_groups"]


@pytest.mark.parametrize(("rowwise", "base", "options"), OPTIMIZERS)
def test_all_rows_in_every_step_are_the_base_class(rowwise: Any, base: Any, options: Any) -> None:
    ours, theirs = rows_and_bias(), rows_and_bias()
    optimizers = rowwise(ours, lr=0.1, **options), base(theirs, lr=0.1, **options)
    order = torch.randperm(C, generator=torch.Generator().manual_seed(9)).tolist()
    for step in range(4):
        for parameters, optimizer, sparse in zip((ours, theirs), optimizers, (True, False), strict=True):
            set_gradients(parameters, order, step, sparse=sparse)
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-6, atol=1e-7)
        for key, value in optimizers[1].state[q].items():
            torch.testing.assert_close(optimizers[0].state[p][key], value, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(("rowwise", "base", "options"), OPTIMIZERS)
def test_other_rows_keep_every_bit(rowwise: Any, base: Any, options: Any) -> None:
    """Weight, bias, momentum and moments, with decay, after all rows have moved before."""
    parameters = rows_and_bias()
    optimizer = rowwise(parameters, lr=0.1, **options)
    set_gradients(parameters, list(range(C)), 0)
    optimizer.step()
    before = everything(optimizer, parameters)
    for step, rows in enumerate(([7, 2], [2, 2, 9]), 1):
        set_gradients(parameters, rows, step)
        optimizer.step()
    still = [row for row in range(C) if row not in (2, 7, 9)]
    for old, new in zip(before, everything(optimizer, parameters), strict=True):
        assert torch.equal(new[still], old[still])
        assert all(not torch.equal(new[row], old[row]) for row in (2, 7, 9))


@pytest.mark.parametrize(("rowwise", "base", "options"), OPTIMIZERS)
def test_a_row_moves_as_if_it_were_alone(rowwise: Any, base: Any, options: Any) -> None:
    """Row 5 is drawn in steps 1, 4 and 6 of 6: as one parameter that takes three steps of the base class."""
    parameters = rows_and_bias()[:1]
    alone = nn.Parameter(parameters[0].detach()[5:6].clone())
    optimizer, reference = rowwise(parameters, lr=0.1, **options), base([alone], lr=0.1, **options)
    for step in range(1, 7):
        drawn = step in (1, 4, 6)
        set_gradients(parameters, [5, 3] if drawn else [3], step)
        if drawn:
            alone.grad = parameters[0].grad.to_dense()[5:6].clone()
            reference.step()
        optimizer.step()
    torch.testing.assert_close(parameters[0].detach()[5:6], alone.detach(), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(("rowwise", "base", "options"), OPTIMIZERS)
def test_a_restored_optimizer_goes_on_bit_for_bit(rowwise: Any, base: Any, options: Any) -> None:
    parameters = rows_and_bias()
    optimizer = rowwise(parameters, lr=0.1, **options)
    set_gradients(parameters, [1, 4, 5], 1)
    optimizer.step()
    twins = [nn.Parameter(p.detach().clone()) for p in parameters]
    twin = rowwise(twins, lr=0.7)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for owner, moved in ((optimizer, parameters), (twin, twins)):
        set_gradients(moved, [4, 8], 2)
        owner.step()
    for mine, yours in zip(everything(twin, twins), everything(optimizer, parameters), strict=True):
        assert torch.equal(mine, yours)


def test_a_checkpoint_of_the_base_class_goes_on_row_by_row() -> None:
    theirs = rows_and_bias()[:1]
    base = torch.optim.AdamW(theirs, lr=0.1)
    set_gradients(theirs, list(range(C)), 0, sparse=False)
    base.step()
    ours = [nn.Parameter(theirs[0].detach().clone())]
    optimizer = RowwiseAdamW(ours, lr=0.1)
    optimizer.load_state_dict(copy.deepcopy(base.state_dict()))
    for step in (1, 2):  # a dense step in between counts for every row
        for owner, parameters in ((base, theirs), (optimizer, ours)):
            set_gradients(parameters, list(range(C)), step, sparse=owner is optimizer and step == 1)
            owner.step()
    torch.testing.assert_close(ours[0], theirs[0], rtol=2e-6, atol=1e-7)
    assert optimizer.state[ours[0]]["row_steps"].tolist() == [3.0] * C


def test_the_numbers_of_steps_stay_exact_beside_half_precision_weights() -> None:
    parameter = nn.Parameter(torch.randn(C, D).bfloat16())
    optimizer = RowwiseAdamW([parameter])
    set_gradients([parameter], [3], 1)
    optimizer.step()
    optimizer.state[parameter]["row_steps"][3] = 1001.0  # no bfloat16 number
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.state[parameter]["row_steps"][3] == 1001.0


@pytest.mark.parametrize("rowwise", [RowwiseSGD, RowwiseAdamW])
def test_hooks_and_closures_are_called_once(rowwise: Any) -> None:
    parameters = rows_and_bias()
    torch.optim.SGD(rows_and_bias(), lr=0.1), torch.optim.AdamW(rows_and_bias())  # these wrap the base classes' steps
    optimizer = rowwise(parameters, lr=0.1)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> float:
        calls.append("closure")
        assert torch.is_grad_enabled()
        set_gradients(parameters, [3], 1)
        return 0.5

    old = parameters[0].detach().clone()
    assert optimizer.step(closure) == 0.5
    assert calls == ["before", "closure", "after"]
    assert not torch.equal(parameters[0][3], old[3])
    assert parameters[0].grad.is_sparse
    assert optimizer.step() is None


def test_a_gradient_that_names_numbers_and_not_rows_is_refused() -> None:
    parameter = nn.Parameter(torch.ones(C, D))
    parameter.grad = torch.ones(C, D).to_sparse()
    with pytest.raises(ValueError, match="must name whole rows"):
        RowwiseSGD([parameter], lr=0.1).step()


class _NewTensors(TorchDispatchMode):
    """The sizes of all dense tensors that operations return, without those that existed before."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.data_ptr() for tensor in known}
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.data_ptr() not in self.known:
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize(("rowwise", "base", "options"), OPTIMIZERS)
def test_a_step_makes_nothing_of_the_size_of_the_rows(rowwise: Any, base: Any, options: Any) -> None:
    parameter = nn.Parameter(torch.randn(1000, D))
    optimizer = rowwise([parameter], lr=0.1, **options)
    set_gradients([parameter], [3, 999], 0)
    optimizer.step()
    set_gradients([parameter], [3, 7, 500], 1)
    known = [parameter.data, *(value for value in optimizer.state[parameter].values() if isinstance(value, Tensor))]
    with _NewTensors(known) as made:
        clip_gradients([parameter], 1.0)
        optimizer.step()
    assert 0 < made.largest <= 3 * D


@pytest.mark.parametrize("nesterov", [False, True])
def test_only_sampled_rows_move_when_a_head_learns(nesterov: bool) -> None:
    """The issue's test: all rows get momentum first; then those not drawn keep weight, bias and momentum to the bit."""
    torch.manual_seed(0)
    part = Sampled(samples=1.0)
    head = make_head("softmax", embedding_dim=D, num_classes=50, partition=part)
    optimizer = RowwiseSGD(head.parameter_groups(0.1), lr=0.1, momentum=0.9, nesterov=nesterov)
    parameters = [head.weight, head.bias]

    def step() -> Tensor:
        optimizer.zero_grad()
        head(torch.randn(4, D), torch.tensor([3, 40, 3, 9])).backward()
        clip_gradients(parameters, 0.1)
        optimizer.step()
        return part.active_rows

    assert len(step()) == 50
    part.samples = 5
    for _ in range(3):
        before = everything(optimizer, parameters)
        assert len(before) == 4
        drawn = torch.zeros(50, dtype=torch.bool).index_fill(0, step(), True)
        assert int(drawn.sum()) == 8
        for old, new in zip(before, everything(optimizer, parameters), strict=True):
            assert torch.equal(new[~drawn], old[~drawn])
            assert bool((new[drawn] != old[drawn]).reshape(8, -1).any(1).all())


@pytest.mark.parametrize("max_norm", [0.5, 100.0, math.inf])
def test_dense_gradients_are_clipped_as_by_pytorch_bit_for_bit(max_norm: float) -> None:
    ours, theirs = rows_and_bias(), rows_and_bias()
    for parameters in (ours, theirs):
        set_gradients(parameters, list(range(C)), 3, sparse=False)
    norm = clip_gradients([*ours, nn.Parameter(torch.ones(2))], max_norm)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs, max_norm))
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p.grad, q.grad)


def test_sparse_gradients_count_and_are_clipped_like_dense_ones() -> None:
    ours, theirs = rows_and_bias(), rows_and_bias()
    for parameters, sparse in ((ours, True), (theirs, False)):
        set_gradients(parameters, [4, 1, 4, 11], 3, sparse=sparse)  # row 4 is named twice and counts by its sum
        dense = nn.Parameter(torch.ones(2))
        dense.grad = torch.tensor([3.0, 4.0])
        parameters.append(dense)
    torch.testing.assert_close(clip_gradients(ours, 0.5), nn.utils.clip_grad_norm_(theirs, 0.5))
    assert ours[0].grad.is_sparse
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.grad.to_dense(), q.grad)


def test_no_gradients_have_norm_zero_and_a_bad_one_shows() -> None:
    assert clip_gradients([nn.Parameter(torch.ones(2))], 1.0).item() == 0
    rows = nn.Parameter(torch.ones(C, D))
    (F.embedding(torch.tensor([1]), rows, sparse=True) * math.nan).sum().backward()
    assert math.isnan(clip_gradients([rows], math.inf).item())
