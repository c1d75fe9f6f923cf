"""Batches are a function of seed, epoch and sample: the same after a resume and with any number of workers."""

import itertools
import math
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facemargin.errors import DataError, ImageError, TruncatedImageError
from facemargin.preprocessing import Preprocessing, encode_png
from training.config import AugmentationConfig
from training.data import loader as loader_module
from training.data.loader import Batch, BatchPlan, Loader, default_workers, make_loader
from training.data.pictures import LabelledImages, Picture
from training.data.samples import fits_cache
from training.data.sources import label_people

PATIENCE_S = 60


def load(images: LabelledImages, first: int, last: int, *, batch: int = 12, **options: Any) -> Loader:
    values: dict[str, Any] = {
        "augmentation": AugmentationConfig(),
        "preprocessing": Preprocessing(size=(32, 32)),
        "workers": 0,
        "pin_memory": False,
        **options,
    }
    return make_loader(images, BatchPlan(len(images.pictures), batch, 3), first_step=first, last_step=last, **values)


def same(mine: list[Batch], others: list[Batch]) -> bool:
    return len(mine) == len(others) and all(
        torch.equal(a.crops, b.crops) and torch.equal(a.labels, b.labels) and a[2:] == b[2:]
        for a, b in zip(mine, others, strict=True)
    )


@pytest.fixture(scope="module")
def people(drawn_people: Path) -> LabelledImages:
    """48 pictures of eight people."""
    return label_people([drawn_people])


@pytest.fixture(scope="module")
def damaged(drawn_people: Path, tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """The same with four that cannot be read: truncated, vanished, no picture, and no aligned crop's shape."""
    root = tmp_path_factory.mktemp("damaged")
    images = label_people([drawn_people])
    pictures = list(images.pictures)
    whole = pictures[0].read()
    contents = {5: whole[: len(whole) // 2], 14: b"text", 33: encode_png(np.zeros((32, 60, 3), dtype=np.uint8))}
    for sample, content in contents.items():
        pictures[sample] = Picture.of_file(root / f"bad{sample}.png")
        pictures[sample].path.write_bytes(content)
    pictures[40] = Picture.of_file(root / "vanished.png")
    return LabelledImages(pictures, images.labels, images.people)


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


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("cache", [False, True])
def test_any_number_of_threads_gives_the_same_batches(people: LabelledImages, workers: int, cache: bool) -> None:
    assert same(list(load(people, 1, 9, workers=workers, cache=cache)), list(load(people, 1, 9)))


@settings(max_examples=8, deadline=None)
@given(first=st.integers(0, 9), workers=st.integers(0, 3), batch=st.sampled_from([5, 12]))
def test_a_resumed_run_sees_the_same_batches(drawn_people: Path, first: int, workers: int, batch: int) -> None:
    images = label_people([drawn_people])
    whole = list(load(images, 0, 9, batch=batch))
    assert same(list(load(images, first, 9, batch=batch, workers=workers)), whole[first:])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_networks_threads_share_a_batch_without_changing_it(damaged: LabelledImages, threads: int) -> None:
    expected = list(load(damaged, 0, 4, on_bad_image="skip", max_bad_share=1.0, workers=1))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert same(list(load(damaged, 0, 4, on_bad_image="skip", max_bad_share=1.0)), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_that_cannot_be_read_are_left_out_and_named(damaged: LabelledImages, workers: int) -> None:
    batches = list(load(damaged, 0, 8, on_bad_image="skip", max_bad_share=0.1, workers=workers))
    good = list(load(damaged, 0, 8, on_bad_image="skip", max_bad_share=0.1))
    assert same(batches, good)
    assert all(len(b.labels) == len(b.crops) == 12 - len(b.unreadable) for b in batches)
    for epoch in (batches[:4], batches[4:]):
        named = sorted(line for batch in epoch for line in batch.unreadable)
        assert [Path(line.split(":")[0].split(" is ")[0]).name for line in named] == [
            "bad14.png",
            "bad33.png",
            "bad5.png",
            "vanished.png",
        ]
        assert "truncated" in named[2]
        assert "cannot be read" in named[3]
        assert "not a crop aligned" in named[1]
        assert not any("\n" in line for line in named)


def test_the_readable_samples_of_a_batch_are_what_they_would_be_without_the_others(
    people: LabelledImages, damaged: LabelledImages
) -> None:
    plan = BatchPlan(len(people.pictures), 12, 3)
    smaller = list(load(damaged, 0, 4, on_bad_image="skip", max_bad_share=1.0))
    for whole, batch, keys in zip(load(people, 0, 4), smaller, plan.batches(0, 4), strict=True):
        kept = [place for place, (_, sample) in enumerate(keys) if sample not in (5, 14, 33, 40)]
        assert torch.equal(batch.crops, whole.crops[kept])
        assert torch.equal(batch.labels, whole.labels[kept])


def test_a_batch_of_nothing_readable_is_empty(people: LabelledImages, tmp_path: Path) -> None:
    nothing = [Picture.of_file(tmp_path / f"{number}.png") for number in range(len(people.pictures))]
    images = LabelledImages(nothing, people.labels, people.people)
    batches = list(load(images, 0, 2, on_bad_image="skip", max_bad_share=1.0))
    assert [batch.crops.shape for batch in batches] == [(0, 3, 32, 32)] * 2
    assert all(batch.labels.dtype == torch.int64 and len(batch.unreadable) == 12 for batch in batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_by_default_the_first_picture_that_cannot_be_read_ends_the_run(damaged: LabelledImages, workers: int) -> None:
    samples = [sample for keys in BatchPlan(48, 12, 3).batches(0, 4) for _, sample in keys]
    first = next(sample for sample in samples if sample in (5, 14, 33, 40))
    with pytest.raises((DataError, ImageError)) as caught:
        list(load(damaged, 0, 4, workers=workers))
    assert str(damaged.pictures[first]) in str(caught.value)


def test_batches_before_the_picture_that_cannot_be_read_arrive(damaged: LabelledImages) -> None:
    place = [sample for keys in BatchPlan(48, 4, 3).batches(0, 12) for _, sample in keys].index(5)
    pictures = [damaged.pictures[5 if sample == 5 else 0] for sample in range(48)]
    received: list[Batch] = []
    with pytest.raises(TruncatedImageError):
        received.extend(load(LabelledImages(pictures, damaged.labels, damaged.people), 0, 12, batch=4, workers=2))
    assert len(received) == place // 4


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_are_an_error_at_the_same_step_whoever_resumes(damaged: LabelledImages, workers: int) -> None:
    counts = [len(b.unreadable) for b in load(damaged, 0, 4, on_bad_image="skip", max_bad_share=1.0)]
    refused = next(step for step in range(4) if sum(counts[: step + 1]) > 2)
    message = rf"{sum(counts[: refused + 1])} of the 48 images of epoch 1 .*max_bad_share = 0\.0416667 allows: /"
    options: dict[str, Any] = {"on_bad_image": "skip", "max_bad_share": 2 / 48, "workers": workers}
    for first in range(refused + 1):
        received: list[Batch] = []
        with pytest.raises(DataError, match=message):
            received.extend(load(damaged, first, 8, unreadable_before=sum(counts[:first]), **options))
        assert first + len(received) == refused


def test_each_epoch_has_its_own_allowance(damaged: LabelledImages) -> None:
    batches = list(load(damaged, 2, 20, on_bad_image="skip", max_bad_share=4 / 48, unreadable_before=0))
    assert sum(len(batch.unreadable) for batch in batches[2:]) == 4 * 4


def test_kept_crops_are_not_read_again(drawn_people: Path, tmp_path: Path) -> None:
    images = label_people([drawn_people])
    pictures = [Picture.of_file(tmp_path / f"{number}.png") for number in range(len(images.pictures))]
    for picture, original in zip(pictures, images.pictures, strict=True):
        picture.path.write_bytes(original.read())
    moved = LabelledImages(pictures, images.labels, images.people)
    expected = list(load(moved, 0, 8))
    kept = load(moved, 0, 8, cache=True)
    batches = iter(kept)
    first = [next(batches) for _ in range(4)]
    for picture in pictures:
        picture.path.unlink()
    assert same(first + list(batches), expected)


def test_crops_are_kept_by_default_where_they_fit() -> None:
    def images(count: int) -> LabelledImages:
        return LabelledImages([Picture.of_file(Path("x"))] * count, np.zeros(count, dtype=np.int64), ("a",))

    most = 1024**3 // (112 * 112 * 3)
    assert fits_cache(images(most), "arcface-112")
    assert not fits_cache(images(most + 1), "arcface-112")


def test_leaving_the_loop_ends_the_threads(people: LabelledImages) -> None:
    before = threading.active_count()
    for _ in load(people, 0, 40, workers=2):
        break
    deadline = time.monotonic() + PATIENCE_S
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_error_in_a_worker_ends_the_run_with_that_error_and_without_a_hang(
    people: LabelledImages, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    calls = itertools.count()

    def break_down(crop: np.ndarray, *_: object) -> np.ndarray:
        if next(calls) >= 30:
            raise MemoryError("no room for a crop")
        return crop

    monkeypatch.setattr("training.data.samples.augment", break_down)
    before, received = threading.active_count(), list[Batch]()
    with pytest.raises(MemoryError, match="no room for a crop"):
        received.extend(load(people, 0, 4000, workers=workers))
    assert len(received) <= 2
    assert threading.active_count() == before


def test_batches_hold_no_memory_of_what_could_not_be_read(tmp_path: Path) -> None:
    batch, steps = 8, 40
    nothing = [Picture.of_file(tmp_path / "vanished.png")] * (batch * steps)
    images = LabelledImages(nothing, np.zeros(batch * steps, dtype=np.int64), ("a",))
    batches = iter(
        load(images, 0, steps, batch=batch, preprocessing=Preprocessing(), on_bad_image="skip", max_bad_share=1.0)
    )
    next(batches)
    tracemalloc.start()
    try:
        for _ in range(steps - 2):
            next(batches)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 3 * batch * 112 * 112 * 3  # the pixels of three batches, of 38 that were made


def test_the_error_of_too_many_names_the_first_five_and_counts_all(tmp_path: Path) -> None:
    nothing = [Picture.of_file(tmp_path / f"{number}.png") for number in range(12)]
    images = LabelledImages(nothing, np.zeros(12, dtype=np.int64), ("a",))
    with pytest.raises(DataError, match=r"^12 of the 12 images .*allows: (\S+\.png: cannot be read [^;]*; ){5}…$"):
        list(load(images, 0, 1, on_bad_image="skip", max_bad_share=0.5))


@pytest.mark.parametrize(
    ("cores", "beside_a_cpu", "beside_a_gpu"), [(1, 0, 1), (2, 0, 1), (4, 0, 3), (16, 2, 8), (128, 4, 8)]
)
def test_workers_by_default(monkeypatch: pytest.MonkeyPatch, cores: int, beside_a_cpu: int, beside_a_gpu: int) -> None:
    monkeypatch.setattr(loader_module, "cores", lambda: cores)
    assert default_workers(on_gpu=False) == beside_a_cpu
    assert default_workers(on_gpu=True) == beside_a_gpu


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
    crops, labels, *_ = next(iter(loader))
    keys = next(iter(plan.batches(0, 1)))
    served = preprocessing.normalise(np.stack([images.pictures[sample].decode() for _, sample in keys]))
    assert np.array_equal(crops.numpy(), served)
    assert labels.tolist() == [images.labels[sample] for _, sample in keys]
    assert math.isclose(float(np.abs(served).max()), 1.0, abs_tol=0.2)
