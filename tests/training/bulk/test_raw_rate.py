import time

import numpy as np
import pytest
from numpy.typing import NDArray

from facemargin.bundle import Bundle
from facemargin.errors import BundleError
from facemargin.onnx_model import OnnxModel
from tests.conftest import MakeTinyBundle
from training.bulk.raw_rate import raw_images_per_second

_CALL_SECONDS = 0.01


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Every call takes 10 ms, beside other calls; what was asked is noted."""
    asked: list[tuple[int, ...]] = []

    def run(model: OnnxModel, values: NDArray[np.float32]) -> NDArray[np.float32]:
        asked.append(values.shape)
        time.sleep(_CALL_SECONDS)
        return values

    monkeypatch.setattr(OnnxModel, "run", run)
    return asked


@pytest.mark.parametrize("calls", [1, 3])
def test_it_counts_the_crops_of_all_calls(tiny_bundle: Bundle, shapes: list[tuple[int, ...]], calls: int) -> None:
    rate = raw_images_per_second(tiny_bundle, batch=4, calls=calls, seconds=0.3)
    assert 0.4 * 4 * calls / _CALL_SECONDS < rate < 1.02 * 4 * calls / _CALL_SECONDS
    assert set(shapes) == {(4, 3, 112, 112)}


def test_a_mirrored_crop_is_a_second_pass(make_tiny_bundle: MakeTinyBundle, shapes: list[tuple[int, ...]]) -> None:
    rate = raw_images_per_second(make_tiny_bundle(flip_sum=True), batch=4, calls=1, seconds=0.3)
    assert 0.4 * 2 / _CALL_SECONDS < rate < 1.02 * 2 / _CALL_SECONDS


def test_a_network_that_fails_in_one_call_ends_the_measurement(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def run(model: OnnxModel, values: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(len(values))
        if len(calls) == 1:
            raise BundleError("out of memory")
        return values

    monkeypatch.setattr(OnnxModel, "run", run)
    with pytest.raises(BundleError, match="out of memory"):
        raw_images_per_second(tiny_bundle, batch=4, calls=2, seconds=0.05)


def test_a_batch_that_the_file_prescribes_is_kept(make_tiny_bundle: MakeTinyBundle) -> None:
    assert raw_images_per_second(make_tiny_bundle(batch=3), batch=16, calls=2, seconds=0.05) > 0
