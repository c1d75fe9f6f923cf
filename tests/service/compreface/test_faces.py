"""Examples by CompreFace's API: add, list by pages, download, delete, compare; as templates of the native one."""

import base64
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest

from facemargin.preprocessing import DEFAULT_LIMITS, decode

URL = "/api/v1/recognition/faces"


def listed(api: Any, **params: Any) -> dict[str, Any]:
    answer = api.get(URL, params=params)
    assert answer.status_code == 200
    return dict(answer.json())


def test_an_example_comes_as_a_form_or_as_base64(api: Any, crop: Any) -> None:
    params = {"subject": "Ada", "detect_faces": "false", "det_prob_threshold": 0.8}
    form = api.post(URL, params=params, files={"file": ("image.jpg", crop(1))})
    text = base64.b64encode(crop(1, 1)).decode()
    plain = api.post(URL, params=params, json={"file": text, "unknown": 1})
    with_head = api.post(URL, params=params, json={"file": f"data:image/png;base64,{text}"})
    for answer in (form, plain, with_head):
        assert answer.status_code == 201
        assert answer.json().keys() == {"image_id", "subject"}
        assert answer.json()["subject"] == "Ada"
    (person,) = api.get("/v1/collections/compreface/people").json()["people"]
    assert (person["name"], person["faces"]) == ("Ada", 3)
    found = api.get(f"/v1/collections/compreface/people/{person['id']}/faces").json()["faces"]
    assert [face["id"] for face in found] == [answer.json()["image_id"] for answer in (form, plain, with_head)]
    assert {face["source"] for face in found} == {"aligned"}


def test_pages(api: Any, add: Any) -> None:
    assert listed(api) == {"faces": [], "page_number": 0, "page_size": 20, "total_pages": 0, "total_elements": 0}
    ids = [add(api, f"subject {number % 2}", number) for number in range(5)]
    everything = listed(api)
    assert [face["image_id"] for face in everything["faces"]] == ids
    assert everything["faces"][1] == {"image_id": ids[1], "subject": "subject 1"}
    second = listed(api, page=1, size=2)
    assert [face["image_id"] for face in second["faces"]] == ids[2:4]
    assert (second["page_number"], second["page_size"], second["total_pages"], second["total_elements"]) == (1, 2, 3, 5)
    assert [face["image_id"] for face in listed(api, subject="subject 1")["faces"]] == [ids[1], ids[3]]
    assert listed(api, subject="nobody")["total_elements"] == 0
    assert listed(api, page=10**9, size=2000)["faces"] == []


def test_deleting_examples(api: Any, add: Any, recognize: Any, refused: Any) -> None:
    first, second, third = add(api, "Ada", 1), add(api, "Ada", 2), add(api, "Bob", 3)
    gone = api.delete(f"{URL}/{first}")
    assert (gone.status_code, gone.json()) == (200, {"image_id": first, "subject": "Ada"})
    assert gone.headers["Facemargin-Receipt"].startswith("1-")
    refused(api.delete(f"{URL}/{first}"), 44, 404)
    several = api.post(f"{URL}/delete", json=[second, "no-such", first, third, third])
    expected = [{"image_id": second, "subject": "Ada"}, {"image_id": third, "subject": "Bob"}]
    assert (several.status_code, several.json()) == (200, expected)
    assert api.get("/api/v1/recognition/subjects").json() == {"subjects": ["Ada", "Bob"]}
    assert recognize(api, 1) == []
    assert api.post(f"{URL}/delete", json=[]).json() == []
    assert "Facemargin-Receipt" not in api.post(f"{URL}/delete", json=["f_x"]).headers


def test_deleting_all_examples_of_a_subject_or_of_all(api: Any, add: Any, refused: Any) -> None:
    for number, subject in enumerate(["Ada", "Ada", "Bob", "Cyd"]):
        add(api, subject, number)
    assert api.delete(URL, params={"subject": "Ada"}).json() == {"deleted": 2}
    assert api.delete(URL, params={"subject": "Ada"}).json() == {"deleted": 0}
    refused(api.delete(URL, params={"subject": ""}), 26, 400)  # an empty variable must not empty the collection
    assert listed(api)["total_elements"] == 2
    assert api.delete(URL).json() == {"deleted": 2}
    assert api.get("/api/v1/recognition/subjects").json() == {"subjects": []}


def test_the_crop_is_what_can_be_downloaded(api: Any, add: Any, crop: Any, refused: Any) -> None:
    without = add(api, "Ada", 1)
    refused(api.get(f"{URL}/{without}/img"), 11, 404)
    api.put("/v1/collections/compreface", json={"keep_crops": True})
    answer = api.get(f"{URL}/{add(api, 'Ada', 2)}/img")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    np.testing.assert_array_equal(decode(answer.content, DEFAULT_LIMITS), decode(crop(2), DEFAULT_LIMITS))
    refused(api.get(f"{URL}/f_x/img"), 44, 404)


def test_comparing_an_image_with_an_example(api: Any, add: Any, crop: Any, refused: Any) -> None:
    image_id = add(api, "Ada", 1)
    add(api, "Ada", 7)  # another example of hers is not what is asked for

    def compared(identity: int) -> dict[str, Any]:
        files = {"file": ("image.jpg", crop(identity, 1))}
        answer = api.post(f"{URL}/{image_id}/verify", params={"detect_faces": "false"}, files=files)
        assert answer.status_code == 200
        (face,) = answer.json()["result"]
        assert face.keys() == {"box", "subject", "similarity"}
        assert face["subject"] == "Ada"
        return dict(face)

    assert compared(1)["similarity"] > 0.9
    assert compared(7)["similarity"] < 0.5
    params, files = {"detect_faces": "false"}, {"file": ("image.jpg", crop(1))}
    refused(api.post(f"{URL}/f_x/verify", params=params, files=files), 44, 404)


def test_faces_of_a_photograph_are_told_from_each_other(
    photo_api: Any, shared_data: Any, refused: Any, synthetic_calibration: Any
) -> None:
    """Detection, thresholds and limits on real photographs; one of two faces side by side."""
    photos = [
        cv2.imread(str(shared_data / f"lfw/images/{name}/{name}_0001.jpg"))
        for name in ("Aaron_Peirsol", "Abdullah_Gul")
    ]
    both = cv2.imencode(".png", np.hstack([photos[0], cv2.resize(photos[1], None, fx=0.5, fy=0.5).repeat(2, 0)]))[1]
    one, two = cv2.imencode(".jpg", photos[0])[1].tobytes(), both.tobytes()

    def detect(image: bytes, **params: Any) -> Any:
        return photo_api.post("/api/v1/detection/detect", params=params, files={"file": ("image.jpg", BytesIO(image))})

    (face,) = detect(one, face_plugins="landmarks,calculator,age,mask", status="True").json()["result"]
    assert face.keys() == {"box", "landmarks", "embedding", "execution_time"}
    assert face["box"].keys() == {"probability", "x_max", "y_max", "x_min", "y_min"}
    assert 0.6 <= face["box"]["probability"] <= 1
    assert 0 <= face["box"]["x_min"] < face["box"]["x_max"] <= photos[0].shape[1]
    assert len(face["landmarks"]) == 5
    assert all(isinstance(value, int) for point in face["landmarks"] for value in point)
    assert len(face["embedding"]) == 32
    assert face["execution_time"]["calculator"] > 0
    assert detect(one).json()["result"][0].keys() == {"box"}
    assert refused(detect(one, det_prob_threshold=1.0), 28, 400) == "No face is found in the given image"
    assert refused(detect(cv2.imencode(".png", np.zeros((80, 80, 3), np.uint8))[1].tobytes()), 28, 400)
    found = detect(two).json()["result"]
    if len(found) < 2:
        pytest.skip("the detector takes the squeezed face for none")
    assert len(detect(two, limit=1).json()["result"]) == 1
    refused(photo_api.post(URL, params={"subject": "both"}, files={"file": ("i.png", two)}), 31, 400)
    assert photo_api.get("/api/v1/recognition/subjects").json() == {"subjects": []}  # nothing half-done
