"""Subjects by CompreFace's API: list, add, rename, merge, delete; and how they are people of the native one."""

from typing import Any

import pytest

from service.compreface import people
from service.store import FaceRow
from service.store.audit import check_log
from service.store.tables import TemplateRow

URL = "/api/v1/recognition/subjects"
MASTER_KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


def listed(api: Any) -> list[str]:
    answer = api.get(URL)
    assert answer.status_code == 200
    assert answer.json() == api.get(f"{URL}/").json()  # their documentation has the slash
    return list(answer.json()["subjects"])


def native(api: Any, collection: str = "compreface") -> dict[str, int]:
    return {who["name"]: who["faces"] for who in api.get(f"/v1/collections/{collection}/people").json()["people"]}


def test_a_subject_from_its_first_day_to_its_last(api: Any, refused: Any) -> None:
    assert listed(api) == []
    assert api.get("/v1/collections").json()["collections"] == []  # reading makes nothing
    added = api.post(URL, json={"subject": "Ada Lovelace"})
    assert (added.status_code, added.json()) == (201, {"subject": "Ada Lovelace"})
    refused(api.post(URL, json={"subject": "Ada Lovelace"}), 43, 400)
    assert listed(api) == ["Ada Lovelace"]
    assert native(api) == {"Ada Lovelace": 0}
    renamed = api.put(f"{URL}/Ada Lovelace", json={"subject": "Ada King", "api_endpoint": "Ada Lovelace"})
    assert (renamed.status_code, renamed.json()) == (200, {"updated": True})
    assert api.put(f"{URL}/Ada King", json={"subject": "Ada King"}).json() == {"updated": False}
    gone = api.delete(f"{URL}/Ada King")
    assert (gone.status_code, gone.json()) == (200, {"subject": "Ada King"})
    assert gone.headers["Facemargin-Receipt"].startswith("1-")
    assert listed(api) == []


def test_what_is_not_there(api: Any, refused: Any) -> None:
    for _ in range(2):  # without and with the collection
        assert refused(api.put(f"{URL}/Nobody", json={"subject": "X"}), 42, 404) == "Subject Nobody not found"
        refused(api.delete(f"{URL}/Nobody"), 42, 404)
        assert api.delete(URL).json() == {"deleted": 0}
        api.post(URL, json={"subject": "Ada"})
        assert api.delete(URL).json() == {"deleted": 1}


@pytest.mark.parametrize("name", ["", "   ", "x" * 201, "a\nb", None, 7, ["x"]])
def test_a_name_that_is_none(shared_api: Any, refused: Any, name: Any) -> None:
    refused(shared_api.post(URL, json={"subject": name}), 26, 400)


def test_names_keep_what_they_are(api: Any) -> None:
    for name in ("Łukasz Żółć", "O'Brien; DROP TABLE", "100 %", "a?b#c", "名前"):
        assert api.post(URL, json={"subject": f" {name} "}).json() == {"subject": name}
        assert listed(api) == [name]
        answer = api.delete(f"{URL}/{name.replace('%', '%25').replace('?', '%3F').replace('#', '%23')}")
        assert answer.json() == {"subject": name}


def test_everybody_is_deleted_and_each_has_a_record(
    api: Any, add: Any, recognize: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "_AT_A_TIME", 2)
    for number in range(5):
        add(api, f"subject {number}", number)
    answer = api.delete(URL)
    assert answer.json() == {"deleted": 5}
    assert answer.headers["Facemargin-Receipt"].startswith("5-")
    assert (listed(api), recognize(api, 1)) == ([], [])
    with api.service.store.read() as session:
        verdict = check_log(session)
        assert (verdict.count, verdict.faults) == (5, ())


@pytest.mark.parametrize("mode", ["best", "mean"])
def test_renaming_to_a_name_that_is_there_merges(
    make_api: Any, add: Any, recognize: Any, mode: str, vector: Any
) -> None:
    api = make_api(templates=mode, master_key=MASTER_KEY)
    api.put("/v1/collections/compreface", json={"keep_crops": True})
    old = [add(api, "old", 1), add(api, "old", 2)]
    new = add(api, "new", 3)
    picture = api.get(f"/api/v1/recognition/faces/{old[0]}/img").content
    assert api.put(f"{URL}/old", json={"subject": "new"}).json() == {"updated": True}
    assert (listed(api), native(api)) == (["new"], {"new": 3})
    faces = api.get("/api/v1/recognition/faces").json()["faces"]
    assert {face["image_id"]: face["subject"] for face in faces} == dict.fromkeys([*old, new], "new")
    assert [found["subject"] for found in recognize(api, 1, prediction_count=5)] == ["new"]
    assert api.get(f"/api/v1/recognition/faces/{old[0]}/img").content == picture
    api.close()
    api.service.close()
    again = make_api(templates=mode, master_key=MASTER_KEY)
    assert [found["subject"] for found in recognize(again, 2, 1, prediction_count=5)] == ["new"]  # from the store alone
    assert again.service.gallery.total == (3 if mode == "best" else 1)
    assert again.delete(f"{URL}/new").json() == {"subject": "new"}
    assert again.service.gallery.total == 0
    with again.service.store.read() as session:
        assert session.query(FaceRow).count() == 0


def on_disk(api: Any, pieces: list[bytes]) -> list[bool]:
    """Whether each piece is in any file of the store."""
    files = [path.read_bytes() for path in api.service.settings.store.rglob("*") if path.is_file()]
    return [any(piece in data for data in files) for piece in pieces]


def sealed(api: Any) -> list[bytes]:
    with api.service.store.read() as session:
        return [row.sealed for row in session.query(TemplateRow).order_by(TemplateRow.face_id)]


def test_what_is_deleted_or_merged_away_leaves_the_files(make_api: Any, add: Any) -> None:
    api = make_api(master_key=MASTER_KEY)
    for number, subject in enumerate(["Ada", "Bob", "Cyd", "Dan"]):
        add(api, subject, number)
    old = sealed(api)
    assert on_disk(api, old) == [True] * 4
    api.put(f"{URL}/Ada", json={"subject": "Bob"})
    assert on_disk(api, old) == [False, True, True, True]  # sealed anew, under the key of Bob
    now = sealed(api)
    assert len(now) == 4
    image_id = api.get("/api/v1/recognition/faces", params={"subject": "Cyd"}).json()["faces"][0]["image_id"]
    api.delete(f"/api/v1/recognition/faces/{image_id}")
    api.delete("/api/v1/recognition/faces", params={"subject": "Dan"})
    api.delete(f"{URL}/Bob")
    assert on_disk(api, old + now) == [False] * 8


def test_two_people_of_one_name_are_one_subject(api: Any, add: Any, recognize: Any, vector: Any) -> None:
    for number in (1, 2):
        person = api.person("Twin", collection="compreface")
        api.enrol(person, vector(number), collection="compreface")
    assert listed(api) == ["Twin"]
    add(api, "Twin", 5)
    assert [found["subject"] for found in recognize(api, 5, prediction_count=9)] == ["Twin"]
    assert api.get("/api/v1/recognition/faces", params={"subject": "Twin"}).json()["total_elements"] == 3
    assert api.put(f"{URL}/Twin", json={"subject": "Twins"}).json() == {"updated": True}
    assert listed(api) == ["Twins"]
    assert api.delete(f"{URL}/Twins").json() == {"subject": "Twins"}
    assert native(api) == {}
