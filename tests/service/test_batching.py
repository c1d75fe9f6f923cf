"""Batches: what waits goes together, nothing waits for more, and no embedding depends on its company."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facemargin.bundle import Bundle
from facemargin.embedder import Embedder
from service.batching import Batcher, Batchers, best_batch

SHAPE = (112, 112)


def crops(count: int, size: tuple[int, int] = SHAPE) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8))


def means(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A model whose answers are known: the mean of each channel."""
    return batch.mean(axis=(1, 2)).astype(np.float32)


class Held:
    """A model that embeds nothing until it is let go, and remembers its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.started = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes.append(len(batch))
        self.started.release()
        assert self.go.wait(5)
        return means(batch)


@contextmanager
def batcher(embed: Any, *, workers: int = 1, max_batch: int = 8, **more: Any) -> Iterator[Batcher]:
    with closing(Batcher(embed, workers=workers, max_batch=max_batch, **more)) as made:
        yield made


def test_a_crop_that_comes_alone_is_embedded_at_once() -> None:
    held = Held()
    with batcher(held) as under_test:
        done = under_test.submit(crops(1))
        assert held.started.acquire(timeout=1)  # with seven places left in the batch, and nobody to fill them
        held.go.set()
        assert len(done.result(1)) == 1


def test_what_waits_while_the_worker_is_busy_is_one_batch_up_to_the_limit() -> None:
    held = Held()
    with batcher(held, max_batch=8) as under_test:
        first = under_test.submit(crops(1))
        assert held.started.acquire(timeout=1)
        rest = [under_test.submit([crop]) for crop in crops(11)]
        assert under_test.waiting == 11
        held.go.set()
        for done in (first, *rest):
            done.result(1)
    assert held.sizes == [1, 8, 3]


def test_workers_share_what_waits() -> None:
    held = Held()
    with batcher(held, workers=2, max_batch=8) as under_test:
        busy = [under_test.submit(crops(1)) for _ in range(2)]
        assert all(held.started.acquire(timeout=1) for _ in range(2))
        rest = under_test.submit(crops(6))
        held.go.set()
        rest.result(1)
        assert all(done.result(1) for done in busy)
    assert sorted(held.sizes[2:]) == [1, 2, 3]  # half of six, half of the other three, and the last


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_a_request_gets_its_rows_in_order(count: int) -> None:
    given = crops(count)
    with batcher(means, workers=3, max_batch=4) as under_test:
        rows = under_test.submit(given).result(5)
    assert len(rows) == count
    for crop, row in zip(given, rows, strict=True):
        np.testing.assert_allclose(row, crop.mean(axis=(0, 1)), rtol=1e-6)


def test_crops_of_two_sizes_are_two_batches() -> None:
    held = Held()
    with batcher(held) as under_test:
        under_test.submit(crops(1))
        assert held.started.acquire(timeout=1)
        done = [under_test.submit(crops(2)), under_test.submit(crops(3, (112, 96))), under_test.submit(crops(1))]
        held.go.set()
        assert [len(rows.result(1)) for rows in done] == [2, 3, 1]
    assert held.sizes == [1, 2, 3, 1]


def test_an_error_goes_to_those_who_were_in_the_batch_and_the_worker_lives_on() -> None:
    def fragile(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not batch.any():
            raise ValueError("black")
        return means(batch)

    with batcher(fragile, max_batch=1) as under_test:
        bad = under_test.submit([np.zeros((*SHAPE, 3), np.uint8), *crops(1)])
        good = under_test.submit(crops(2))
        with pytest.raises(ValueError, match="black"):
            bad.result(1)
        assert len(good.result(1)) == 2


@pytest.mark.parametrize("off", [-1, 1])
def test_a_network_that_gives_another_number_of_rows_fails_its_batch_and_the_worker_lives_on(off: int) -> None:
    wrong = [True]

    def embed(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.zeros((len(batch) + off * wrong.pop(), 3), np.float32) if wrong else means(batch)

    with batcher(embed) as under_test:
        with pytest.raises(ValueError, match=f"{2 + off} embeddings for 2 crops"):
            under_test.submit(crops(2)).result(1)
        assert len(under_test.submit(crops(2)).result(1)) == 2


def test_a_listener_that_raises_is_logged_and_the_worker_lives_on(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[int] = []

    def broken(size: int, seconds: float) -> None:
        raise RuntimeError("no ears")

    with batcher(means, listeners=[broken, lambda size, seconds: heard.append(size)]) as under_test:
        for _ in range(3):
            under_test.submit(crops(1)).result(1)
    assert heard == [1, 1, 1]
    assert "no ears" in caplog.text


def test_closing_finishes_what_is_queued_and_takes_no_more() -> None:
    def slow(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(0.01)
        return means(batch)

    under_test = Batcher(slow, workers=2, max_batch=1)
    done = [under_test.submit([crop]) for crop in crops(12)]
    under_test.close()
    assert all(rows.done() and len(rows.result()) == 1 for rows in done)
    with pytest.raises(RuntimeError, match="closed"):
        under_test.submit(crops(1))


def test_listeners_hear_of_every_batch() -> None:
    heard: list[tuple[int, float]] = []
    with batcher(means, listeners=[lambda size, seconds: heard.append((size, seconds))]) as under_test:
        under_test.submit(crops(20)).result(5)
    assert sum(size for size, _ in heard) == 20
    assert max(size for size, _ in heard) <= 8
    assert all(0 <= seconds < 5 for _, seconds in heard)


@pytest.mark.parametrize(("workers", "max_batch"), [(0, 1), (1, 0)])
def test_wrong_sizes_are_refused(workers: int, max_batch: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got {workers} and {max_batch}"):
        Batcher(means, workers=workers, max_batch=max_batch)


def costs(seconds: Callable[[int], float]) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """A model that takes this long for a batch of a size."""

    def embed(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(seconds(len(batch)))
        return np.zeros((len(batch), 3), np.float32)

    return embed


def test_the_batch_grows_as_long_as_it_pays() -> None:
    assert best_batch(costs(lambda size: 0.002 * size**1.2), SHAPE).size == 1
    assert best_batch(costs(lambda size: 0.002 * size), SHAPE).size == 2  # which costs nothing
    assert best_batch(costs(lambda size: 0.004), SHAPE, largest=16).size == 16
    assert best_batch(costs(lambda size: 0.004 * max(1, size / 4)), SHAPE).size == 4


def test_a_slow_model_is_not_measured_for_long() -> None:
    started = time.perf_counter()
    assert best_batch(costs(lambda size: 0.15), SHAPE).size <= 2
    assert time.perf_counter() - started < 2.0


@pytest.mark.parametrize("flip_sum", [False, True])
def test_an_embedding_does_not_depend_on_its_batch(make_tiny_bundle: Any, flip_sum: bool) -> None:
    embedder = Embedder(make_tiny_bundle(flip_sum=flip_sum), threads=1)
    given = crops(24)
    alone = np.concatenate([embedder.embed(crop[None]) for crop in given])
    for max_batch in (1, 5, 24):
        with batcher(embedder.embed, max_batch=max_batch) as under_test:
            rows = np.stack(under_test.submit(given).result(10))
        assert float((rows * alone).sum(axis=1).min()) > 0.999999


def test_each_model_has_its_batcher(make_tiny_bundle: Any) -> None:
    first, second = (Embedder(make_tiny_bundle(seed=seed), threads=1) for seed in (0, 1))
    heard: list[int] = []
    with closing(Batchers(workers=2, max_batch=3)) as batchers:
        batchers.on_batch.append(lambda size, seconds: heard.append(size))
        assert batchers.of(first) is batchers.of(first)
        assert batchers.of(first) is not batchers.of(second)
        assert batchers.of(first).max_batch == 3
        assert batchers.seconds(first) > 0
        given = crops(1)
        rows = [batchers.of(embedder).submit(given).result(5)[0] for embedder in (first, second)]
        assert batchers.waiting == 0
    assert heard == [1, 1]
    np.testing.assert_allclose(rows[0], first.embed(given[0][None])[0], atol=1e-6)
    assert float(rows[0] @ rows[1]) < 0.99


def test_threads_of_many_requests_share_one_batcher(tiny_bundle: Bundle) -> None:
    embedder = Embedder(tiny_bundle, threads=1)
    given = crops(60)
    expected = embedder.embed(np.stack(given))
    found: dict[int, NDArray[np.float32]] = {}
    with batcher(embedder.embed, workers=2) as under_test:

        def ask(place: int) -> None:
            found[place] = under_test.submit([given[place]]).result(10)[0]

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    np.testing.assert_allclose(np.stack([found[place] for place in range(60)]), expected, atol=1e-5)
