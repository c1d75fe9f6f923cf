"""One run on MNIST: a network and a head trained by a recipe, and what they reach on images they have not seen."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facemargin.errors import NonFiniteLossError
from facemargin.heads import Head
from training.data.loader import BatchPlan
from training.mnist.digits import CLASSES, Digits
from training.mnist.network import make_network
from training.mnist.recipe import HeadChoice, Recipe

TRAINING_MEAN = 33.3
"""Mean grey value of the training images, taken off before training as in the L-Softmax paper."""

_EVALUATED_AT_ONCE = 1000

OnStep = Callable[[int, float, float], None]


@dataclass(frozen=True)
class Trained:
    """What a run leaves.

    Attributes:
        network, head: trained, the network in eval mode.
        losses: (steps,) loss of each step.
        seconds: in the loop.
    """

    network: nn.Module
    head: Head
    losses: NDArray[np.float64]
    seconds: float

    @property
    def first_loss(self) -> float:
        """Mean over the first twentieth of the run."""
        return float(self.losses[: math.ceil(len(self.losses) / 20)].mean())

    @property
    def last_loss(self) -> float:
        """Mean over the last twentieth of the run."""
        return float(self.losses[-math.ceil(len(self.losses) / 20) :].mean())


@dataclass(frozen=True)
class Measured:
    """What a trained network does with images.

    Attributes:
        embeddings: (N, D) float32, not normalised.
        errors: how many images get another label than theirs.
        mean_angle_rad: mean angle between an embedding and the mean direction of its class.
    """

    embeddings: NDArray[np.float32]
    errors: int
    mean_angle_rad: float


def train_digits(
    recipe: Recipe,
    choice: HeadChoice,
    digits: Digits,
    *,
    seed: int,
    device: torch.device,
    on_step: OnStep | None = None,
) -> Trained:
    """Train a network and a head.

    All heads of one seed see the same batches and start from the same network. PyTorch's global generators are left as
    they were.

    Args:
        recipe: how.
        choice: which head.
        digits: what to learn from.
        seed: of the initial values and of the order of images.
        device: where.
        on_step: called with the steps done, the loss, and images per second so far.

    Returns:
        The trained pair.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
        ConfigError: see `Recipe.build_head`.
    """
    network, head = _initial(recipe, choice, seed, device)
    optimizer = _optimizer(recipe, network, head)
    parameters = [*network.parameters(), *head.parameters()]
    losses = np.empty(recipe.steps)
    started = time.monotonic()
    for step, (images, labels) in enumerate(_batches(recipe, digits, seed, device)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        loss = head(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimizer.step()
        head.advance()
        losses[step] = float(loss.detach())
        if not math.isfinite(losses[step]):
            raise NonFiniteLossError(step=step, head=choice.key, advice=f"seed {seed}; use a lower learning rate")
        if on_step is not None:
            on_step(step + 1, losses[step], (step + 1) * len(labels) / (time.monotonic() - started))
    return Trained(network.eval(), head, losses, time.monotonic() - started)


@torch.inference_mode()
def measure_digits(trained: Trained, digits: Digits, *, device: torch.device) -> Measured:
    """Embed images and compare their predicted labels and their directions with the truth.

    A class's direction is the normalised mean of its unit embeddings, taken over the same images.

    Args:
        trained: a run.
        digits: images that it has not learned from.
        device: where the network lives.

    Returns:
        The figures.
    """
    parts = [
        trained.network(as_input(digits.images[start : start + _EVALUATED_AT_ONCE], device))
        for start in range(0, len(digits), _EVALUATED_AT_ONCE)
    ]
    embeddings = torch.cat(parts)
    labels = _as_labels(digits.labels, device)
    errors = int((trained.head.logits(embeddings).argmax(1) != labels).sum())
    return Measured(embeddings.cpu().numpy(), errors, mean_angle_to_own_centre(embeddings, labels))


def mean_angle_to_own_centre(embeddings: Tensor, labels: Tensor) -> float:
    """Mean over samples of the angle between x and the sum of the unit vectors of x's class, in radians.

    Args:
        embeddings: (N, D) floating.
        labels: (N,) int64 in [0, 9].

    >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    >>> round(mean_angle_to_own_centre(x, torch.tensor([0, 0, 1])) / torch.pi, 6)
    0.166667
    """
    unit = nn.functional.normalize(embeddings.double())
    centres = unit.new_zeros(CLASSES, unit.shape[1]).index_add_(0, labels, unit)
    cosine = (unit * nn.functional.normalize(centres)[labels]).sum(1)
    return float(cosine.clamp(-1, 1).acos().mean())


def as_input(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(N, 28, 28) grey values to the network's (N, 1, 28, 28) float32 input."""
    pixels = torch.from_numpy(np.array(images)).to(device)
    return ((pixels.float() - TRAINING_MEAN) / 255).unsqueeze(1).contiguous(memory_format=torch.channels_last)


def _as_labels(labels: NDArray[np.uint8], device: torch.device) -> Tensor:
    return torch.from_numpy(labels.astype(np.int64)).to(device)


def _initial(recipe: Recipe, choice: HeadChoice, seed: int, device: torch.device) -> tuple[nn.Module, Head]:
    """Network first, so that it is the same one for every head."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone: both are made there and moved afterwards
        network = make_network(
            recipe.architecture,
            width=recipe.width,
            convolutions=recipe.convolutions,
            embedding_dim=recipe.embedding_dim,
        )
        head = recipe.build_head(choice)
    network.to(device).to(memory_format=torch.channels_last)
    return network.train(), head.to(device)


def _optimizer(recipe: Recipe, network: nn.Module, head: Head) -> torch.optim.SGD:
    """SGD with momentum; only kernels and matrices decay, and of the head what it says."""
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        *head.parameter_groups(recipe.weight_decay),
    ]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)


def _batches(recipe: Recipe, digits: Digits, seed: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The images lie on the device; only the numbers of a batch travel."""
    pixels, labels = torch.from_numpy(np.array(digits.images)).to(device), _as_labels(digits.labels, device)
    plan = batch_plan(recipe, digits, seed)
    for batch in plan.batches(0, recipe.steps):
        chosen = torch.tensor([sample for _, sample in batch], device=device)
        grey = (pixels[chosen].float() - TRAINING_MEAN) / 255
        yield grey.unsqueeze(1).contiguous(memory_format=torch.channels_last), labels[chosen]


def batch_plan(recipe: Recipe, digits: Digits, seed: int) -> BatchPlan:
    """Which images make which batch; a batch is at most the whole set."""
    return BatchPlan(len(digits), min(recipe.batch_size, len(digits)), seed)
