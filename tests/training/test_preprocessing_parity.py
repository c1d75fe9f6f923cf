"""Training and serving see the same bits: the crop that the loader normalises is the crop that the embedder makes."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facemargin.embedder import Embedder
from facemargin.preprocessing import PRESETS, TEMPLATES, Detector, Face, Preprocessing, align, decode, encode_png
from training.align import align_folder
from training.config import AugmentationConfig
from training.data.loader import BatchPlan, make_loader
from training.data.sources import label_people

NO_AUGMENTATION = AugmentationConfig(
    flip=0,
    rotation_rad=0,
    shift=0,
    log_scale=0,
    brightness=0,
    contrast=0,
    saturation=0,
    grey=0,
    low_resolution=0,
    erase=0,
)
PREPROCESSINGS = {**PRESETS, "small": Preprocessing(size=(64, 64), colour="bgr", mean=(1.0, 2.0, 3.0), std=99.0)}


def training_batch(root: Path, preprocessing: Preprocessing) -> np.ndarray:
    """The first batch of an aligned folder as the trainer gets it, in the order of the files."""
    images = label_people([root])
    plan = BatchPlan(samples=len(images.pictures), batch_size=len(images.pictures), seed=0)
    loader = make_loader(
        images,
        plan,
        first_step=0,
        last_step=1,
        augmentation=NO_AUGMENTATION,
        preprocessing=preprocessing,
        workers=0,
        pin_memory=False,
    )
    crops = next(iter(loader)).crops
    return np.asarray(crops.numpy()[np.argsort(plan.order(0))])


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_the_same_bits_from_a_drawn_photograph(name: str, tmp_path: Path) -> None:
    preprocessing = PREPROCESSINGS[name]
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(buffer, "JPEG", exif=exif)
    landmarks = (TEMPLATES["arcface-112"].points * 1.3 + (40, 20)).astype(np.float32)
    (tmp_path / "person").mkdir()
    crop = align(decode(buffer.getvalue()), landmarks, preprocessing.template)
    (tmp_path / "person" / "1.png").write_bytes(encode_png(crop))
    served = align(decode(buffer.getvalue()), landmarks, preprocessing.template)
    batch = training_batch(tmp_path, preprocessing)
    np.testing.assert_array_equal(batch, preprocessing.normalise(served[None]))
    assert batch.dtype == np.float32


def test_the_same_bits_from_real_photographs(shared_data: Path, tmp_path: Path, make_tiny_bundle: Any) -> None:
    source = tmp_path / "photographs"
    shutil.copytree(shared_data / "lfw" / "images" / "Aaron_Peirsol", source / "Aaron_Peirsol")
    detector_file = shared_data / "models" / "yunet_n_dynamic.onnx"
    align_folder(source, tmp_path / "aligned", detector=detector_file, workers=1)
    embedder, detector = Embedder(make_tiny_bundle()), Detector(detector_file)
    crops: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    for path in sorted((source / "Aaron_Peirsol").iterdir()):
        image = decode(path.read_bytes())
        faces: list[Face] = detector.detect(image)
        assert len(faces) == 1
        crops.append(embedder.crop(image, faces[0]))
    served = embedder.preprocessing.normalise(np.stack(crops))
    np.testing.assert_array_equal(training_batch(tmp_path / "aligned", embedder.preprocessing), served)
