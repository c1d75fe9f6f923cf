"""Default recipes converge: ten seeds of every head and margin on a small MNIST recipe, without one divergence.

A run of 300 steps of 64 images takes one to two seconds on one core. It has not diverged when its loss is finite
throughout (else `train_digits` raises), ends far below where it began, and the network recognises digits that it has
not seen. The measured margin to both bounds is in docs/results/mnist.md.
"""

from pathlib import Path

import pytest
import torch

from training.mnist import Mnist, Recipe, parse_head, read_mnist
from training.mnist.loop import measure_digits, train_digits

SMALL = Recipe(
    name="small", form="short", architecture="small", width=8, embedding_dim=32, batch_size=64, steps=300, clip_norm=5.0
)
SEEDS = range(10)
MARGINS = (1, 1.35, 1.7, 2, 3, 4, 5)
HEADS = (
    "softmax", "modified", "l2-softmax", "normface", "am-softmax", "am-softmax:0.5", "arcface", "arcface:0.8",
    *(f"l-softmax:{margin}" for margin in MARGINS), *(f"a-softmax:{margin}" for margin in MARGINS),
)  # fmt: skip
LOSS_LEFT = 0.3
"""The mean loss over the last twentieth of a run is below this share of the first step's."""
ERROR = 0.05
"""Held-out error stays below this; guessing has 0.9."""


@pytest.fixture(scope="module")
def held_out(mnist_folder: Path) -> Mnist:
    """55,000 training images to learn from and the last 5,000 to measure on; the test images stay closed."""
    return read_mnist(mnist_folder, held_out=True)


@pytest.fixture(scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_ten_seeds_converge(head: str, held_out: Mnist, one_thread: None) -> None:
    device = torch.device("cpu")
    for seed in SEEDS:
        trained = train_digits(SMALL, parse_head(head), held_out.train, seed=seed, device=device)
        measured = measure_digits(trained, held_out.test, device=device)
        print(
            f"\n{head} seed {seed}: loss {trained.losses[0]:.3f} to {trained.last_loss:.3f}, "
            f"error {measured.errors / len(held_out.test):.4f}, {trained.seconds:.2f} s",
            end="",
        )
        assert trained.last_loss < LOSS_LEFT * trained.losses[0], f"seed {seed}"
        assert measured.errors < ERROR * len(held_out.test), f"seed {seed}"
