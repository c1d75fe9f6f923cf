"""Recognition and verification: ranked as CompreFace ranks, on its scale, in its shape."""

import math
from typing import Any

import numpy as np
import pytest

from service.compreface.found import similarity
from service.decisions import Decisions

VERIFY = "/api/v1/verification/verify"


def test_subjects_are_ranked_and_strangers_get_names_too(api: Any, add: Any, recognize: Any) -> None:
    for number in range(4):
        add(api, f"subject {number}", number)
    (best,) = recognize(api, 2, 1)
    assert best["subject"] == "subject 2"
    assert best["similarity"] > 0.9
    ranked = recognize(api, 99, prediction_count=3)
    assert len(ranked) == 3
    assert [found["similarity"] for found in ranked] == sorted((f["similarity"] for f in ranked), reverse=True)
    assert ranked[0]["similarity"] < 0.5  # a stranger is named, and the number says how little that means
    assert len(recognize(api, 99, prediction_count=-1)) == 4


def test_similarity_is_the_calibrated_probability(synthetic_calibration: Any) -> None:
    decisions = Decisions(synthetic_calibration, extrapolate=True)
    middle = -synthetic_calibration.intercept / synthetic_calibration.slope
    assert similarity(decisions, middle) == 0.5
    values = [similarity(decisions, cosine) for cosine in np.linspace(-1, 1, 50)]
    assert values == sorted(values)
    assert values[0] >= 0
    assert values[-1] <= 1
    expected = 1 / (1 + math.exp(-(synthetic_calibration.slope * 0.3 + synthetic_calibration.intercept)))
    assert similarity(decisions, 0.3) == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize(("cosine", "expected"), [(-1.0, 0.0), (0.0, 0.5), (0.5, 0.75), (1.0000001, 1.0)])
def test_similarity_without_a_calibration(cosine: float, expected: float) -> None:
    assert similarity(Decisions(None, extrapolate=True), cosine) == expected


def test_members_of_a_face(api: Any, add: Any, crop: Any) -> None:
    add(api, "Ada", 1)

    def face(**params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        url, files = "/api/v1/recognition/recognize", {"file": ("image.jpg", crop(1))}
        answer = api.post(url, params={"detect_faces": "false", **params}, files=files).json()
        (found,) = answer.pop("result")
        return found, answer

    found, rest = face()
    assert (found.keys(), rest) == ({"box", "subjects"}, {})
    assert found["box"] == {"probability": 1.0, "x_max": 112, "y_max": 112, "x_min": 0, "y_min": 0}
    found, rest = face(face_plugins="age,gender, calculator ,mask,pose", status="true")
    assert found.keys() == {"box", "subjects", "embedding", "execution_time"}
    assert np.linalg.norm(found["embedding"]) == pytest.approx(1, abs=1e-5)
    assert rest["plugins_versions"]["calculator"] == f"facemargin.{api.model}"


def test_verification(api: Any, crop: Any) -> None:
    def compared(one: int, other: int, **params: Any) -> dict[str, Any]:
        files = {"source_image": ("a.jpg", crop(one)), "target_image": ("b.jpg", crop(other, 1))}
        answer = api.post(VERIFY, params={"detect_faces": "false", **params}, files=files)
        assert answer.status_code == 200, answer.text
        (result,) = answer.json()["result"]
        return dict(result)

    same = compared(1, 1)
    assert same.keys() == {"source_image_face", "face_matches"}
    assert same["source_image_face"].keys() == {"box"}
    (match,) = same["face_matches"]
    assert match.keys() == {"box", "similarity"}
    assert match["similarity"] > 0.9
    assert compared(1, 2)["face_matches"][0]["similarity"] < 0.5
    full = compared(1, 1, face_plugins="calculator", status="true", limit=3)
    assert full.keys() == {"source_image_face", "face_matches", "plugins_versions"}
    assert full["source_image_face"].keys() == full["face_matches"][0].keys() - {"similarity"}


def test_the_collections_own_model_recognises(make_api: Any, make_tiny_bundle: Any, add: Any, recognize: Any) -> None:
    other = make_tiny_bundle(seed=1)
    api = make_api(more_bundles=[other.path])
    second = next(model for model in api.service.models if model != api.model)
    assert api.put("/v1/collections/compreface", json={"model": second}).status_code == 201
    add(api, "Ada", 1)
    (found,) = recognize(api, 1, 1)
    assert found["similarity"] > 0.9
