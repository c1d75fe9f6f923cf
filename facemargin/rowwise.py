"""Optimizers that move only the rows a sparse gradient names, and clipping that counts them.

A partition that sees a part of the classes gives a gradient for a part of the class rows. The optimizers of PyTorch
either refuse it or turn it into work and memory for all rows. These leave the other rows alone, bit for bit: their
weight, their momentum or moments, and their weight decay wait until the row is drawn again. Dense gradients get the
step of the base class, bit for bit.
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer


class RowwiseSGD(SGD):
    """`torch.optim.SGD`, row by row for sparse gradients.

    For each row in the gradient, d = g + λw; m ← μm + (1 − dampening)·d; w ← w − lr·m, or − lr·(d + μm) for Nesterov.
    m starts at 0, so that without dampening a row's first step is the base class's first step. State and its keys are
    those of the base class: ``momentum_buffer``, dense, (C, …), allocated once, at the first step. A step costs
    O(rows · D) operations and memory.

    Args: those of `torch.optim.SGD`.

    >>> rows = torch.nn.Parameter(torch.ones(3, 2))
    >>> optimizer = RowwiseSGD([rows], lr=0.5, momentum=0.9, weight_decay=0.1)
    >>> torch.nn.functional.embedding(torch.tensor([2]), rows, sparse=True).sum().backward()
    >>> optimizer.step()
    >>> [round(value, 3) for value in rows[:, 0].tolist()]
    [1.0, 1.0, 0.45]
    """

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; see `torch.optim.Optimizer.step`."""
        return _step(self, SGD, self._step_rows, closure)

    def _step_rows(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        rows, gradient = _named_rows(parameter, group)
        if group["weight_decay"] != 0:
            gradient = gradient.add(parameter[rows], alpha=float(group["weight_decay"]))
        if group["momentum"] != 0:
            state = self.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momentum = state["momentum_buffer"][rows]
            momentum.mul_(group["momentum"]).add_(gradient, alpha=1 - group["dampening"])
            state["momentum_buffer"].index_copy_(0, rows, momentum)
            gradient = gradient.add(momentum, alpha=group["momentum"]) if group["nesterov"] else momentum
        parameter.index_copy_(0, rows, parameter[rows].add_(gradient, alpha=-float(group["lr"])))


class RowwiseAdamW(AdamW):
    """`torch.optim.AdamW`, row by row for sparse gradients.

    For each row in the gradient the base class's step, with the row's own number of steps t in the bias corrections
    1 − β^t: with that of the run, the first step of a row that is drawn late would be (1 − β₁)/√(1 − β₂), 3.2 by
    default, times too long. The numbers are one more entry of the state, ``row_steps`` (C,), float32; the others are
    those of the base class. With every row in every step the result is the base class's.

    Args: those of `torch.optim.AdamW`.

    >>> rows = torch.nn.Parameter(torch.ones(3, 2))
    >>> optimizer = RowwiseAdamW([rows], lr=0.5, weight_decay=0.1)
    >>> torch.nn.functional.embedding(torch.tensor([2]), rows, sparse=True).sum().backward()
    >>> optimizer.step()
    >>> [round(value, 3) for value in rows[:, 0].tolist()]
    [1.0, 1.0, 0.45]
    """

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; see `torch.optim.Optimizer.step`."""
        loss = _step(self, AdamW, self._step_rows, closure)
        for parameter, state in self.state.items():
            if "row_steps" in state and parameter.grad is not None and not parameter.grad.is_sparse:
                state["row_steps"] += 1
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer.load_state_dict`, which would turn ``row_steps`` into the parameter's dtype."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            if "row_steps" in (saved := state_dict["state"].get(number, {})):
                self.state[parameter]["row_steps"] = saved["row_steps"].to(parameter.device, torch.float32, copy=True)

    def _step_rows(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        rows, gradient = _named_rows(parameter, group)
        state, rate, (beta1, beta2) = self._moments(parameter, group), float(group["lr"]), map(float, group["betas"])
        state["step"] += 1
        taken = state["row_steps"][rows] + 1
        first = state["exp_avg"][rows].lerp_(gradient, 1 - beta1)
        second = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        for key, value in (("row_steps", taken), ("exp_avg", first), ("exp_avg_sq", second)):
            state[key].index_copy_(0, rows, value)
        if group["amsgrad"]:
            second = torch.maximum(state["max_exp_avg_sq"][rows], second)
            state["max_exp_avg_sq"].index_copy_(0, rows, second)
        steps = taken.double().view(-1, *[1] * (gradient.ndim - 1))
        length = (rate / (1 - beta1**steps)).to(gradient.dtype)
        spread = (1 - beta2**steps).sqrt().to(gradient.dtype)
        moved = parameter[rows].mul_(1 - rate * float(group["weight_decay"]))
        moved.sub_(length * first / (second.sqrt() / spread + group["eps"]))
        parameter.index_copy_(0, rows, moved)

    def _moments(self, parameter: nn.Parameter, group: dict[str, Any]) -> dict[str, Any]:
        """The state of a parameter, made where it is missing; rows that took dense steps took them all."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            device = parameter.device if group["capturable"] or group["fused"] else torch.device("cpu")
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            for key in ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])):
                state[key] = torch.zeros_like(parameter)
        if "row_steps" not in state:
            state["row_steps"] = torch.full(parameter.shape[:1], float(state["step"]), device=parameter.device)
        return state


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)), ‖·‖₂ over all of them; sparse ones count by their rows.

    `torch.nn.utils.clip_grad_norm_`, bit for bit where gradients are dense, which has no norm of sparse ones.

    Args:
        parameters: those without a gradient do not count.
        max_norm: > 0; infinity only measures.

    Returns:
        0-dim: the norm before.

    >>> rows = torch.nn.Parameter(torch.ones(3, 1))
    >>> torch.nn.functional.embedding(torch.tensor([2, 2]), rows, sparse=True).sum().backward()
    >>> clip_gradients([rows], 1.0).item(), round(rows.grad.to_dense()[2].item(), 5)
    (2.0, 1.0)
    """
    numbers = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # a row named twice counts by its sum
        if parameter.grad is not None:
            numbers.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
    norm = nn.utils.get_total_norm(numbers)
    with torch.no_grad():
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in numbers:
            gradient.mul_(factor.to(gradient.device))
    return norm


def _step(
    optimizer: Optimizer,
    base: type[Optimizer],
    step_rows: Callable[[nn.Parameter, dict[str, Any]], None],
    closure: Callable[[], float] | None,
) -> float | None:
    """The rows of sparse gradients by ``step_rows``; then the base class's step, which does not get to see them."""
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    pairs = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    sparse = [(p, group, p.grad) for p, group in pairs if p.grad is not None and p.grad.is_sparse]
    # PyTorch wraps a class's step to call its hooks, once it has an instance. This step is wrapped already; with both
    # wrappers every hook would be called twice.
    step = base.step.__wrapped__ if getattr(base.step, "hooked", False) else base.step  # type: ignore[attr-defined]
    with torch.no_grad():
        for parameter, group, _ in sparse:
            step_rows(parameter, group)
            parameter.grad = None
    try:
        step(optimizer)
    finally:
        for parameter, _, gradient in sparse:
            parameter.grad = gradient
    return loss


def _named_rows(parameter: nn.Parameter, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(n,) rows, each once, and their (n, …) gradient, turned round where the group maximises."""
    gradient = parameter.grad
    if gradient is None or gradient.sparse_dim() != 1:
        raise ValueError("a sparse gradient must name whole rows: one sparse dimension is needed")
    gradient = gradient.coalesce()
    values = gradient.values()
    return gradient.indices()[0], -values if group["maximize"] else values
