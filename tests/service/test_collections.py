"""Collections and people over HTTP."""

from typing import Any

import pytest

pytestmark = pytest.mark.both_databases


def test_make_get_list_delete(api: Any, problem: Any) -> None:
    made = api.put("/v1/collections/staff")
    assert made.status_code == 201
    assert made.json() | {"created_at": None} == {
        "name": "staff",
        "model": api.model,
        "embedding_dim": 32,
        "keep_crops": False,
        "people": 0,
        "faces": 0,
        "created_at": None,
    }
    again = api.put("/v1/collections/staff")
    assert (again.status_code, again.json()) == (200, made.json())
    assert api.get("/v1/collections/staff").json() == made.json()
    assert api.put("/v1/collections/Guests.2").status_code == 201
    assert [item["name"] for item in api.get("/v1/collections").json()["collections"]] == ["Guests.2", "staff"]
    gone = api.delete("/v1/collections/staff")
    assert (gone.status_code, gone.content, gone.headers["facemargin-model"]) == (204, b"", api.model)
    problem(api.get("/v1/collections/staff"), "not-found", 404)
    problem(api.delete("/v1/collections/staff"), "not-found", 404)


def test_counts(api: Any, vector: Any) -> None:
    ada, _ = api.person("Ada"), api.person("Bob")
    api.enrol(ada, vector(1))
    api.enrol(ada, vector(2))
    found = api.get("/v1/collections/staff").json()
    assert (found["people"], found["faces"]) == (2, 2)


@pytest.mark.parametrize("name", ["-a", ".", "..", "a b", "a%2Fb", "ä", "x" * 64, "a'b", "%00"])
def test_names_are_checked(shared_api: Any, name: str) -> None:
    answer = shared_api.put(f"/v1/collections/{name}")
    assert answer.status_code in (404, 405, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert {item["name"] for item in shared_api.get("/v1/collections").json()["collections"]} <= {"staff"}


def test_a_collection_of_another_model(
    make_api: Any, make_tiny_bundle: Any, problem: Any, vector: Any, crop: Any
) -> None:
    first = make_api()
    person = first.person()
    first.enrol(person, vector(1))
    first.close()
    first.service.close()
    second = make_api(bundle=make_tiny_bundle(seed=1))
    assert second.model != first.model
    assert second.put("/v1/collections/staff").json()["model"] == first.model  # it is there: nothing is asked of it
    named = {"model": second.model}
    body = problem(second.put("/v1/collections/staff", json=named), "model-mismatch", 409)
    assert first.model in body["detail"]
    assert second.model in body["detail"]
    assert second.get("/v1/collections/staff").json()["model"] == first.model
    faces = f"/v1/collections/staff/people/{person}/faces"
    image = {"files": {"image": crop(1)}, "data": {"aligned": "true"}}
    problem(second.post(faces, **image), "model-mismatch", 409)
    problem(second.post("/v1/collections/staff/search", **image), "model-mismatch", 409)
    verify = {"files": {"image_a": crop(1)}, "data": {"aligned": "true", "collection": "staff", "person": person}}
    problem(second.post("/v1/verify", **verify), "model-mismatch", 409)
    wrong = {"embedding": vector(1).tolist(), "model": second.model}
    problem(second.post(faces, json=wrong), "model-mismatch", 409)
    problem(second.post("/v1/collections/staff/search", json=wrong), "model-mismatch", 409)
    # its own vectors can still be searched, though nothing is known of their error rates
    own = {"embedding": vector(1).tolist(), "model": first.model}
    problem(second.post("/v1/collections/staff/search", json=own), "calibration-missing", 422)
    reply = second.post("/v1/collections/staff/search", json=own | {"threshold": 0.5}).json()
    assert reply["model"] == first.model
    assert [candidate["person"]["id"] for candidate in reply["candidates"]] == [person]
    assert reply["candidates"][0]["probability"] is None


def test_people(api: Any, problem: Any) -> None:
    person = api.person("  Ada Lovelace ")
    url = f"/v1/collections/staff/people/{person}"
    found = api.get(url).json()
    assert (found["id"], found["name"], found["faces"], found["collection"]) == (person, "Ada Lovelace", 0, "staff")
    renamed = api.patch(url, json={"name": "Ada King"})
    assert (renamed.status_code, renamed.json()) == (200, found | {"name": "Ada King"})
    assert api.get(url).json()["name"] == "Ada King"
    assert api.delete(url).status_code == 204
    problem(api.get(url), "not-found", 404)
    problem(api.patch(url, json={"name": "x"}), "not-found", 404)
    problem(api.delete(url), "not-found", 404)


@pytest.mark.parametrize("name", ["", "   ", "x" * 201, "a\x00b", "a\nb", None, 5, ["a"]])
def test_names_of_people_are_checked(shared_api: Any, problem: Any, name: Any) -> None:
    shared_api.put("/v1/collections/staff")
    body = problem(shared_api.post("/v1/collections/staff/people", json={"name": name}), "invalid-request", 422)
    assert body["errors"][0]["field"] == "name"
    assert shared_api.get("/v1/collections/staff").json()["people"] == 0


def test_names_of_people_are_kept_as_they_are(api: Any) -> None:
    for name in ("Łukasz Ćwik", "李雷", "O'Brien; DROP TABLE people", "👩🏽‍🔬", "<script>"):
        person = api.person(name)
        assert api.get(f"/v1/collections/staff/people/{person}").json()["name"] == name


def test_pages(api: Any) -> None:
    people = [api.person(f"person {number}") for number in range(7)]
    url, cursor, seen = "/v1/collections/staff/people", "0", list[str]()
    while cursor is not None:
        page = api.get(url, params={"limit": 3, "cursor": cursor}).json()
        seen += [person["id"] for person in page["people"]]
        if cursor == "0":
            assert api.delete(f"{url}/{people[2]}").status_code == 204  # the last of the first page goes
        cursor = page["next"]
    assert seen == people
    assert api.get(url, params={"name": "person 4"}).json()["people"][0]["id"] == people[4]
    assert api.get(url, params={"name": "nobody"}).json() | {"model": ""} == {
        "collection": "staff",
        "model": "",
        "people": [],
        "next": None,
    }


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=-1", "cursor=" + "9" * 30])
def test_pages_are_checked(shared_api: Any, problem: Any, query: str) -> None:
    shared_api.put("/v1/collections/staff")
    problem(shared_api.get(f"/v1/collections/staff/people?{query}"), "invalid-request", 422)


def test_collections_do_not_see_each_other(api: Any, problem: Any, vector: Any) -> None:
    ada = api.person("Ada", "one")
    api.put("/v1/collections/two")
    face = api.enrol(ada, vector(1), "one")["id"]
    problem(api.get(f"/v1/collections/two/people/{ada}"), "not-found", 404)
    problem(api.delete(f"/v1/collections/two/people/{ada}"), "not-found", 404)
    problem(api.get(f"/v1/collections/two/people/{ada}/faces"), "not-found", 404)
    problem(api.delete(f"/v1/collections/two/people/{ada}/faces/{face}"), "not-found", 404)
    assert api.find(vector(1), "two")["candidates"] == []
    assert len(api.find(vector(1), "one")["candidates"]) == 1


def test_deleting_a_collection_deletes_everybody(api: Any, vector: Any) -> None:
    ada = api.person("Ada")
    api.enrol(ada, vector(1))
    api.delete("/v1/collections/staff")
    bob = api.person("Bob")
    found = api.find(vector(1))
    assert (found["candidates"], found["templates"]) == ([], 0)
    api.enrol(bob, vector(1))
    assert [c["person"]["id"] for c in api.find(vector(1))["candidates"]] == [bob]


def test_after_a_switch_a_collection_is_put_as_before(make_api: Any, make_tiny_bundle: Any, problem: Any) -> None:
    other = make_tiny_bundle(seed=1, embedding_dim=24)
    api = make_api(more_bundles=[other.path])
    url = "/v1/collections/staff"
    assert api.put(url).status_code == 201
    assert api.put(f"{url}/upgrade", json={"model": other.model_id}).status_code == 200
    assert api.post(f"{url}/upgrade/switch", json={"leave_behind": True}).status_code == 200
    assert (api.put(url).status_code, api.put(url).json()["model"]) == (200, other.model_id)
    assert api.put(url, json={"keep_crops": True}).json()["keep_crops"] is True
    assert api.put(url, json={"model": other.model_id}).status_code == 200
    problem(api.put(url, json={"model": api.model}), "model-mismatch", 409)
