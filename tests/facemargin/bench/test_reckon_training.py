"""Heads with very many classes, against sums done by hand."""

import pytest

from facemargin.bench.prices import Prices
from facemargin.bench.reckon_training import HEAD_WAYS, HeadWay, Training, training_cost

RUN = Training(
    1e7,
    dim=100,
    batch=1000,
    images_each=10.0,
    gpu_memory_gb=10.0,
    gpu_memory_share=0.5,
    gpu_flops=1e13,
    backbone_flops=3.6e9,
)
STREAMING, TENTH, FIXED = HEAD_WAYS


def test_streaming_by_hand() -> None:
    cost = training_cost(STREAMING, RUN, Prices(gpu_hour=2.0), core_s=3.6e-9)
    assert cost.gigabytes == pytest.approx(12.0)  # 3 · 4 · 10^7 · 100
    assert cost.gpus == 3  # of 5 GB each
    assert cost.step_s == pytest.approx(8 * 1000 * 1e7 * 100 / 3e13)
    assert cost.epoch_hours == pytest.approx(1e5 * cost.step_s / 3600)  # 10^8 images, 1,000 a step
    assert cost.epoch_usd == pytest.approx(cost.epoch_hours * 3 * 2.0)
    assert cost.backbone_hours == pytest.approx(1e8 * 3.6e9 / 3e13 / 3600)
    assert cost.cpu_core_hours == pytest.approx(1e8 * 1e7 * 100 * 3.6e-9 / 3600)


def test_sampling_takes_less_of_everything_but_the_rows_at_rest() -> None:
    streaming, tenth, fixed = (training_cost(way, RUN, Prices(), None) for way in HEAD_WAYS)
    assert tenth.gigabytes == pytest.approx(4 * 100 * (2 * 1e7 + 2 * 1e6) / 1e9)
    assert fixed.gigabytes == pytest.approx(4 * 100 * (2 * 1e7 + 2 * 11_000) / 1e9)
    assert fixed.epoch_hours < tenth.epoch_hours < streaming.epoch_hours
    assert tenth.cpu_core_hours is None


def test_no_more_classes_are_in_play_than_there_are() -> None:
    assert FIXED.in_play(5000.0, 1000) == 5000.0
    assert FIXED.in_play(1e6, 1000) == 11_000.0
    assert TENTH.in_play(1e6, 1000) == 100_000.0  # `Sampled` counts the batch's as part of a share
    assert TENTH.in_play(9000, 1000) == 1000.0
    assert STREAMING.in_play(1e6, 1000) == 1e6


@pytest.mark.parametrize("way", HEAD_WAYS, ids=lambda way: way.name)
def test_ten_times_the_classes_take_ten_times_the_rows(way: HeadWay) -> None:
    once, tenfold = (way.held_bytes(classes, 512, 1) for classes in (1e8, 1e9))
    assert tenfold == pytest.approx(10 * once, rel=0.001)
