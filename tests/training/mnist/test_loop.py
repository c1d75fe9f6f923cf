"""One run: every head learns, equal seeds give equal runs, and a divergence is an error."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from facemargin.errors import NonFiniteLossError
from facemargin.heads import HEADS
from training.mnist import Digits, Recipe, parse_head, read_mnist
from training.mnist.loop import as_input, mean_angle_to_own_centre, measure_digits, train_digits

CPU = torch.device("cpu")
BRIEF = Recipe(
    name="brief", form="short", architecture="small", width=4, embedding_dim=8, batch_size=32, steps=40, clip_norm=5.0
)


@pytest.fixture(scope="module")
def digits(drawn_mnist) -> tuple[Digits, Digits]:
    return read_mnist(drawn_mnist)


@pytest.mark.parametrize("head", [*HEADS, "l-softmax:1.7", "a-softmax:5"])
def test_every_head_learns_drawn_digits_in_forty_steps(head, digits):
    train, test = digits
    trained = train_digits(BRIEF, parse_head(head), train, seed=0, device=CPU)
    measured = measure_digits(trained, test, device=CPU)
    assert np.isfinite(trained.losses).all()
    assert trained.last_loss < 0.5 * trained.losses[0]
    assert measured.errors < 0.1 * len(test)
    assert measured.mean_angle_rad < math.pi / 3
    assert measured.embeddings.shape == (len(test), BRIEF.embedding_dim)
    assert int(trained.head.step) == BRIEF.steps
    assert not trained.network.training


def test_five_hundred_real_digits(mnist_folder):
    train, held_out = read_mnist(mnist_folder, held_out=True)
    trained = train_digits(replace(BRIEF, width=8, steps=60), parse_head("a-softmax"), train[:500], seed=0, device=CPU)
    measured = measure_digits(trained, held_out[:500], device=CPU)
    assert measured.errors < 0.2 * 500  # guessing: 450


def test_equal_seeds_give_equal_runs_and_leave_the_generators_alone(digits):
    train, _ = digits
    recipe = replace(BRIEF, steps=5)
    before = torch.get_rng_state()
    first, again, other = (
        train_digits(recipe, parse_head("arcface"), train, seed=seed, device=CPU).losses for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_heads_of_one_seed_start_from_one_network_and_see_the_same_images(digits):
    train, _ = digits
    recipe, seen = replace(BRIEF, steps=2, learning_rate=0.0), []
    for head in ("softmax", "l-softmax:2"):
        network = train_digits(recipe, parse_head(head), train, seed=1, device=CPU).network
        seen.append([*network.parameters(), *network.buffers()])  # the running statistics tell the images
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_a_loss_that_is_not_finite_is_an_error_naming_step_and_head(digits):
    train, _ = digits
    recipe = replace(BRIEF, learning_rate=1e30, clip_norm=None)
    with pytest.raises(NonFiniteLossError, match=r"head 'l-softmax:3' is not finite at step \d+: seed 7"):
        train_digits(recipe, parse_head("l-softmax:3"), train, seed=7, device=CPU)


def test_every_step_is_reported(digits):
    train, _ = digits
    calls = []
    recipe = replace(BRIEF, steps=3)
    trained = train_digits(
        recipe, parse_head("softmax"), train, seed=0, device=CPU, on_step=lambda *given: calls.append(given)
    )
    assert [(step, loss) for step, loss, _ in calls] == list(zip((1, 2, 3), trained.losses, strict=True))
    assert trained.first_loss == trained.losses[0]
    assert trained.last_loss == trained.losses[-1]


def test_a_batch_is_at_most_the_whole_set(digits):
    train, _ = digits
    trained = train_digits(replace(BRIEF, steps=2), parse_head("softmax"), train[:10], seed=0, device=CPU)
    assert np.isfinite(trained.losses).all()


def test_the_angle_to_the_own_centre_by_a_loop():
    random = np.random.default_rng(0)
    x, labels = random.standard_normal((50, 3)), random.integers(0, 10, 50)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    angles = []
    for vector, label in zip(unit, labels, strict=True):
        centre = unit[labels == label].sum(0)
        angles.append(math.acos(min(1.0, vector @ centre / np.linalg.norm(centre))))
    assert mean_angle_to_own_centre(torch.tensor(x), torch.tensor(labels)) == pytest.approx(np.mean(angles))


def test_pixels_lose_the_training_mean():
    images = np.full((2, 28, 28), 255, np.uint8)
    assert as_input(images, CPU).shape == (2, 1, 28, 28)
    assert as_input(images, CPU).mean().item() == pytest.approx((255 - 33.3) / 255)
