"""POST /v1/embeddings."""

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facemargin.embedder import Embedder
from facemargin.preprocessing import Detector, decode, encode_png


def test_an_aligned_crop_by_form_and_by_json(api: Any, crop: Any) -> None:
    image = crop(1)
    form = api.post("/v1/embeddings", files={"images": ("crop.png", image)}, data={"aligned": "true"})
    text = base64.b64encode(image).decode()
    json = api.post("/v1/embeddings", json={"images": [text, f"data:image/png;base64,{text}"], "aligned": True})
    assert form.status_code == json.status_code == 200
    (first,) = form.json()["images"]
    assert [first, first] == json.json()["images"]
    assert (first["width"], first["height"]) == (112, 112)
    (face,) = first["faces"]
    assert (face["box"], face["landmarks"], face["score"], face["quality"]["pose"]) == (None, None, None, None)
    assert face["quality"]["sharpness"] > 0
    assert form.json()["model"] == api.model == form.headers["facemargin-model"]


def test_embeddings_are_the_embedders_own(api: Any, crop: Any) -> None:
    images = [crop(number) for number in range(3)]
    files = [("images", (f"{number}.png", image)) for number, image in enumerate(images)]
    answer = api.post("/v1/embeddings", files=files, data={"aligned": "true"}).json()
    found = np.array([image["faces"][0]["embedding"] for image in answer["images"]], dtype=np.float32)
    expected = Embedder(api.service.models.default.bundle).embed(np.stack([decode(image) for image in images]))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_aligned_crops_of_different_size_keep_their_order(api: Any, crop: Any) -> None:
    sizes = [(112, 112), (224, 224), (112, 112)]
    files = [("images", (f"{n}.png", crop(n, size=size))) for n, size in enumerate(sizes)]
    images = api.post("/v1/embeddings", files=files, data={"aligned": "true"}).json()["images"]
    assert [(image["height"], image["width"]) for image in images] == sizes
    for number, image in enumerate(images):
        alone = api.post("/v1/embeddings", files=[files[number]], data={"aligned": "true"}).json()["images"][0]
        np.testing.assert_allclose(image["faces"][0]["embedding"], alone["faces"][0]["embedding"], atol=1e-6)


def test_a_large_crop_is_measured_and_embedded_at_the_templates_size(api: Any, crop: Any) -> None:
    large = decode(crop(1, size=(448, 448)))
    small = encode_png(cv2.resize(large, (112, 112), interpolation=cv2.INTER_AREA))
    files = [("images", encode_png(large)), ("images", small)]
    one, two = api.post("/v1/embeddings", files=files, data={"aligned": "true"}).json()["images"]
    assert (one["width"], two["width"]) == (448, 112)
    assert one["faces"][0]["quality"] == two["faces"][0]["quality"]
    np.testing.assert_allclose(one["faces"][0]["embedding"], two["faces"][0]["embedding"], atol=1e-6)
    directly = Embedder(api.service.models.default.bundle).embed(large[None])[0]
    np.testing.assert_allclose(one["faces"][0]["embedding"], directly, atol=1e-6)


def test_an_image_that_is_no_crop_is_not_taken_for_one(api: Any, problem: Any, crop: Any) -> None:
    answer = api.post("/v1/embeddings", files={"images": crop(1, size=(112, 147))}, data={"aligned": "true"})
    body = problem(answer, "not-a-crop", 422)
    assert body["image"] == "images[0]"
    assert "147x112" in body["detail"]


def test_without_a_detector_a_photograph_is_refused_with_advice(api: Any, problem: Any, crop: Any) -> None:
    body = problem(api.post("/v1/embeddings", files={"images": crop(1)}), "detector-missing", 503)
    assert "facemargin models pull yunet" in body["detail"]


def test_every_face_of_a_photograph(photo_api: Any, shared_data: Path) -> None:
    photo = (shared_data / "photos" / "t1.jpg").read_bytes()
    (image,) = photo_api.post("/v1/embeddings", files={"images": photo}).json()["images"]
    detected = Detector(shared_data / "models" / "yunet_n_dynamic.onnx").detect(decode(photo))
    assert len(image["faces"]) == len(detected) > 3
    for face, expected in zip(image["faces"], detected, strict=True):
        assert list(face["box"].values()) == pytest.approx(expected.box)
        np.testing.assert_allclose(face["landmarks"], expected.landmarks, atol=1e-3)
        assert face["quality"]["score"] == face["score"] == pytest.approx(expected.score)
        assert face["quality"]["eye_distance_px"] > 1
        assert len(face["embedding"]) == 32
    areas = [face["box"]["width"] * face["box"]["height"] for face in image["faces"]]
    assert areas == sorted(areas, reverse=True)


def test_a_chosen_face_of_several(photo_api: Any, shared_data: Path, problem: Any) -> None:
    photo = (shared_data / "photos" / "t1.jpg").read_bytes()
    everybody = photo_api.post("/v1/embeddings", files={"images": photo}).json()["images"][0]["faces"]
    largest = photo_api.post("/v1/embeddings", files={"images": photo}, data={"face": "largest"}).json()
    assert len(largest["images"][0]["faces"]) == 1
    assert largest["images"][0]["faces"][0]["box"] == everybody[0]["box"]
    body = problem(
        photo_api.post("/v1/embeddings", files={"images": photo}, data={"face": "single"}), "several-faces", 422
    )
    assert body["faces"] == len(everybody)
    assert body["image"] == "images[0]"
