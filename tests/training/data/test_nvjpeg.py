"""JPEG on the GPU: which files take that way, the way itself with a CPU decoder in its place, and clear refusals."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from facemargin.errors import ConfigError, TruncatedImageError
from facemargin.preprocessing import Preprocessing, decode, encode_jpeg, encode_png
from training.config import AugmentationConfig
from training.data.loader import Batch, BatchPlan, make_loader
from training.data.nvjpeg import NvjpegDecoder, plain_jpeg_size
from training.data.pictures import LabelledImages, Picture

CUDA = torch.device("cuda")
NOTHING = AugmentationConfig(**dict.fromkeys(AugmentationConfig.model_fields, 0.0))


def crop(seed: int) -> np.ndarray:
    """A smooth 112x112 picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_LINEAR))


def saved(mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(crop(0)).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(exif=exif)


@pytest.mark.parametrize(
    "data", [saved(), saved("L"), saved(progressive=True), saved(subsampling=2), saved(icc_profile=b"x" * 300)]
)
def test_plain_files_take_the_gpus_way(data: bytes) -> None:
    assert plain_jpeg_size(data) == (112, 112)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff\xd9",
        encode_png(crop(0)),
        saved()[:-40],
        saved() + b"more",
        with_exif(),
        saved("CMYK"),
        saved(keep_rgb=True),
        b"\xff\xd8\xff\xc0\x00\x04\x08\x00\xff\xd9",
    ],
)
def test_other_files_are_left_to_the_cpu(data: bytes) -> None:
    assert plain_jpeg_size(data) is None


def test_no_prefix_of_a_file_is_taken_for_a_whole_one() -> None:
    data = saved()
    assert {plain_jpeg_size(data[:length]) for length in range(len(data))} == {None}


@pytest.fixture
def imitated_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Puts a function in the place of torchvision's."""
    import torchvision.io

    cpu = torchvision.io.decode_jpeg

    def imitate(function: Any) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torchvision.io, "decode_jpeg", lambda *args, **options: function(cpu, *args, **options))

    return imitate


def decode_list(cpu: Any, encoded: list[torch.Tensor], *, mode: Any, device: torch.device) -> list[torch.Tensor]:
    assert device == CUDA
    return [cpu(data, mode=mode) for data in encoded]


def no_nvjpeg(cpu: Any, *args: Any, **options: Any) -> None:
    raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support\nmore")


def one_batch(files: dict[str, bytes], root: Path, **options: Any) -> Batch:
    for name, data in files.items():
        (root / name).write_bytes(data)
    pictures = [Picture.of_file(root / name) for name in files]
    images = LabelledImages(pictures, np.arange(len(files)), tuple(files))
    loader = make_loader(
        images,
        BatchPlan(len(files), len(files), 0),
        first_step=0,
        last_step=1,
        augmentation=NOTHING,
        preprocessing=Preprocessing(mean=0.0, std=1.0),
        pin_memory=False,
        **{"workers": 1, **options},
    )
    return next(iter(loader))


def test_batches_are_those_of_the_cpu_within_two_levels(imitated_gpu: Callable[[Any], None], tmp_path: Path) -> None:
    imitated_gpu(decode_list)
    files = {f"{seed}.jpg": encode_jpeg(crop(seed), 90) for seed in range(6)}
    mine, expected = one_batch(files, tmp_path, decode_on=CUDA), one_batch(files, tmp_path)
    assert mine.decoded_on_cpu == 0
    assert torch.equal(mine.labels, expected.labels)
    assert float((mine.crops - expected.crops).abs().max()) <= 2


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_left_to_the_cpu_is_counted(imitated_gpu: Callable[[Any], None], tmp_path: Path, workers: int) -> None:
    imitated_gpu(decode_list)
    files = {"a.jpg": saved(), "b.png": encode_png(crop(1)), "c.jpg": with_exif(), "d.jpg": encode_jpeg(crop(2))}
    batch = one_batch(files, tmp_path, decode_on=CUDA, workers=workers)
    assert batch.decoded_on_cpu == 2
    order = batch.labels.tolist()
    upright = decode(files["c.jpg"]).transpose(2, 0, 1).astype(np.float32)
    assert np.array_equal(batch.crops[order.index(2)].numpy(), upright)


def test_a_damaged_file_leaves_its_call_to_the_cpu_which_names_it(
    imitated_gpu: Callable[[Any], None], tmp_path: Path
) -> None:
    def damaged(cpu: Any, encoded: list[torch.Tensor], **options: Any) -> list[torch.Tensor]:
        if any(b"damage" in data.numpy().tobytes() for data in encoded):
            raise RuntimeError("nvjpegDecodeBatched failed")
        return decode_list(cpu, encoded, **options)

    imitated_gpu(damaged)
    data = saved(comment=b"damage")
    broken = data.replace(b"\xff\xdb", b"\xff\xfe")  # its quantisation tables are comments
    assert plain_jpeg_size(broken) == (112, 112)
    files = {"whole.jpg": saved(), "broken.jpg": broken}
    batch = one_batch(files, tmp_path, decode_on=CUDA, on_bad_image="skip", max_bad_share=1.0)
    assert batch.labels.tolist() == [0]
    assert batch.decoded_on_cpu == 2
    assert "broken.jpg" in batch.unreadable[0]
    with pytest.raises(TruncatedImageError, match=r"broken\.jpg"):
        one_batch(files, tmp_path, decode_on=CUDA)


def test_a_file_of_another_shape_or_gone_is_an_error_of_the_cpus_way(
    imitated_gpu: Callable[[Any], None], tmp_path: Path
) -> None:
    imitated_gpu(decode_list)
    files = {"wide.jpg": encode_jpeg(np.zeros((112, 200, 3), dtype=np.uint8)), "good.jpg": saved(), "empty.jpg": b""}
    batch = one_batch(files, tmp_path, decode_on=CUDA, on_bad_image="skip", max_bad_share=1.0)
    assert batch.labels.tolist() == [1]
    assert sorted("wide" in line or "empty" in line for line in batch.unreadable) == [True, True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_cuda_device_the_way_out_is_named() -> None:
    with pytest.raises(ConfigError, match=r'data\.decode = "cuda" needs a CUDA device.*set data\.decode = "cpu"'):
        NvjpegDecoder(CUDA, "arcface-112")


def test_a_run_on_the_cpu_has_no_gpu_to_decode_on() -> None:
    with pytest.raises(ConfigError, match="this run is on cpu"):
        NvjpegDecoder(torch.device("cpu"), "arcface-112")


def test_a_torchvision_without_nvjpeg_is_named_in_one_line(imitated_gpu: Callable[[Any], None]) -> None:
    imitated_gpu(no_nvjpeg)
    with pytest.raises(ConfigError, match=r"torchvision with nvJPEG \(.*not compiled.*\); set") as caught:
        NvjpegDecoder(CUDA, "arcface-112")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("subsampling", [0, 2])
def test_nvjpeg_agrees_with_the_cpu(subsampling: int) -> None:
    files = []
    for seed in range(8):
        buffer = io.BytesIO()
        Image.fromarray(crop(seed)).save(buffer, "JPEG", quality=95, subsampling=subsampling)
        files.append(buffer.getvalue())
    found = NvjpegDecoder(CUDA, "arcface-112")(files)
    for data, pixels in zip(files, found, strict=True):
        assert pixels is not None
        difference = np.abs(pixels.astype(int) - decode(data).astype(int))
        # Full colour differs by rounding; subsampled colour also by the interpolation, which is nvJPEG's own.
        assert difference.mean() < (1.0 if subsampling == 0 else 3.0)
