"""Batches are a function of seed, epoch and sample: the same after a resume and with any number of processes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facemargin.preprocessing import Preprocessing
from training.config import AugmentationConfig
from training.data.folder import label_people
from training.data.loader import BatchPlan, make_loader


@given(samples=st.integers(2, 60), batch=st.integers(2, 20), epochs=st.integers(1, 4), seed=st.integers(0, 99))
def test_an_epoch_sees_each_sample_at_most_once(samples: int, batch: int, epochs: int, seed: int) -> None:
    plan = BatchPlan(samples, min(batch, samples), seed)
    batches = list(plan.batches(0, plan.steps_per_epoch * epochs))
    assert len(batches) == plan.steps_per_epoch * epochs
    assert all(len(keys) == plan.batch_size for keys in batches)
    keys = [key for keys in batches for key in keys]
    assert len(set(keys)) == len(keys)
    assert {epoch for epoch, _ in keys} == set(range(epochs))


@given(first=st.integers(0, 24), last=st.integers(0, 24))
def test_batches_go_on_where_they_stopped(first: int, last: int) -> None:
    plan = BatchPlan(33, 4, 5)
    first, last = sorted((first, last))
    assert list(plan.batches(first, last)) == list(plan.batches(0, 24))[first:last]


def test_epochs_and_seeds_have_their_own_order() -> None:
    orders = [BatchPlan(50, 5, seed).order(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("workers", [1])
def test_loader_processes_give_the_same_batches(drawn_people: Path, workers: int) -> None:
    images = label_people([drawn_people])
    plan = BatchPlan(len(images.pictures), 12, 3)

    def batches(processes: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        loader = make_loader(
            images,
            plan,
            first_step=1,
            last_step=6,
            augmentation=AugmentationConfig(),
            preprocessing=Preprocessing(size=(32, 32)),
            workers=processes,
            pin_memory=False,
        )
        return list(loader)

    for (crops, labels), (others, same) in zip(batches(0), batches(workers), strict=True):
        assert torch.equal(crops, others)
        assert torch.equal(labels, same)


def test_training_sees_exactly_what_serving_sees(drawn_people: Path) -> None:
    images = label_people([drawn_people])
    preprocessing = Preprocessing(size=(24, 24))
    nothing = AugmentationConfig(**dict.fromkeys(AugmentationConfig.model_fields, 0.0))
    plan = BatchPlan(len(images.pictures), 16, 0)
    loader = make_loader(
        images,
        plan,
        first_step=0,
        last_step=1,
        augmentation=nothing,
        preprocessing=preprocessing,
        workers=0,
        pin_memory=False,
    )
    crops, labels = next(iter(loader))
    keys = next(iter(plan.batches(0, 1)))
    served = preprocessing.normalise(np.stack([images.pictures[sample].decode() for _, sample in keys]))
    assert np.array_equal(crops.numpy(), served)
    assert labels.tolist() == [images.labels[sample] for _, sample in keys]
    assert math.isclose(float(np.abs(served).max()), 1.0, abs_tol=0.2)
