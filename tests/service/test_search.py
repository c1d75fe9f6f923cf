"""Searching a collection: who, at which rate, and equal to brute force whatever happened before."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from service.decisions import fmr_of_search, fpir_of_search
from service.routes import search
from service.upgrades import model_before, next_model
from service.writes import Once, Reply


def test_the_threshold_follows_from_the_size_of_the_gallery(api: Any, vector: Any, synthetic_calibration: Any) -> None:
    person = api.person()
    for number in range(4):
        api.enrol(person, vector(number))
    reply = api.find(vector(99), max_fpir=0.02)
    wanted = synthetic_calibration.threshold(1 - 0.98**0.25, extrapolate=True)
    assert reply["templates"] == 4
    assert reply["threshold"] == pytest.approx(wanted.value)
    assert reply["threshold_fpir"] == pytest.approx(1 - (1 - reply["threshold_fmr"]) ** 4)
    assert reply["threshold_fpir"] <= 0.02 * (1 + 1e-9)
    assert api.find(vector(99))["threshold"] > reply["threshold"]  # the default, 0.01, is stricter


def test_candidates_carry_what_their_similarity_means(api: Any, vector: Any, synthetic_calibration: Any) -> None:
    for number in range(3):
        api.enrol(api.person(f"person {number}"), vector(number))
    (candidate,) = api.find(vector(1))["candidates"]
    similarity = candidate["similarity"]
    assert candidate["person"]["name"] == "person 1"
    assert candidate["probability"] == pytest.approx(synthetic_calibration.probability(similarity))
    assert candidate["fmr"] == pytest.approx(synthetic_calibration.fmr(similarity))
    assert candidate["fpir"] == pytest.approx(3 * candidate["fmr"], rel=1e-3)


def test_a_stranger_gets_nobody(api: Any, vector: Any) -> None:
    api.enrol(api.person(), vector(1))
    assert api.find(vector(2))["candidates"] == []


def test_an_explicit_threshold_and_the_limit(api: Any, vector: Any) -> None:
    people = [api.person(f"person {number}") for number in range(6)]
    for number, person in enumerate(people):
        api.enrol(person, vector(number))
    similarities = sorted((float(vector(9) @ vector(number)) for number in range(6)), reverse=True)
    found = api.find(vector(9), threshold=-1, limit=4)["candidates"]
    assert [candidate["similarity"] for candidate in found] == pytest.approx(similarities[:4], abs=1e-5)
    middle = (similarities[2] + similarities[3]) / 2
    assert len(api.find(vector(9), threshold=middle)["candidates"]) == 3


def test_a_person_with_many_faces_does_not_hide_others(api: Any, vector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More faces of one person near the probe than a first look at the index takes in."""
    monkeypatch.setattr("service.gallery._FIRST_K", 4)
    crowd, other = api.person("crowd"), api.person("other")
    probe, rng = vector(0), np.random.default_rng(0)
    for _ in range(12):
        api.enrol(crowd, probe + 0.01 * rng.standard_normal(32))
    api.enrol(other, probe + 0.3 * vector(5))
    found = api.find(probe, threshold=0.5, limit=2)["candidates"]
    assert [candidate["person"]["id"] for candidate in found] == [crowd, other]


def test_without_calibration(make_api: Any, make_tiny_bundle: Any, problem: Any, vector: Any) -> None:
    api = make_api(bundle=make_tiny_bundle(calibrated=False))
    person = api.person()
    enrolled = api.enrol(person, vector(1))
    assert (enrolled["resemblance_checked"], enrolled["warnings"]) == (False, [])
    body = {"embedding": vector(1).tolist(), "model": api.model}
    problem(api.post("/v1/collections/staff/search", json=body), "calibration-missing", 422)
    (candidate,) = api.find(vector(1), threshold=0.4)["candidates"]
    assert (candidate["probability"], candidate["fmr"], candidate["fpir"]) == (None, None, None)


def test_rates_that_the_data_do_not_support(make_api: Any, problem: Any, vector: Any) -> None:
    api = make_api(extrapolate=False)
    api.enrol(api.person(), vector(1))
    body = {"embedding": vector(1).tolist(), "model": api.model, "max_fpir": 1e-7}
    assert (
        problem(api.post("/v1/collections/staff/search", json=body), "unsupported-fmr", 422)["smallest_supported"] > 0
    )


@pytest.mark.parametrize(
    "more",
    [
        {"max_fpir": 0},
        {"max_fpir": 1},
        {"threshold": 2},
        {"limit": 0},
        {"limit": 101},
        {"max_fpir": 0.1, "threshold": 0},
    ],
)
def test_wrong_fields(shared_api: Any, problem: Any, vector: Any, more: dict[str, float]) -> None:
    shared_api.put("/v1/collections/staff")
    body = {"embedding": vector(1).tolist(), "model": shared_api.model, **more}
    problem(shared_api.post("/v1/collections/staff/search", json=body), "invalid-request", 422)


@pytest.mark.parametrize("templates", [1, 7, 1000, 10**6, 10**9])
@pytest.mark.parametrize("fpir", [1e-6, 0.01, 0.5, 0.99])
def test_rates_of_search_are_each_others_inverse(templates: int, fpir: float) -> None:
    fmr = fmr_of_search(fpir, templates)
    assert 0 < fmr <= fpir
    assert fpir_of_search(fmr, templates) == pytest.approx(fpir, rel=1e-9)


def test_small_rates_keep_their_digits() -> None:
    assert fmr_of_search(0.01, 10**9) == pytest.approx(1.00503358535e-11, rel=1e-9)
    assert fpir_of_search(1.0, 5) == 1.0


class Truth:
    """What the gallery should be, in plain dictionaries."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.people: dict[str, dict[str, Any]] = defaultdict(dict)

    def search(self, query: Any, threshold: float, limit: int) -> list[tuple[str, float]]:
        scores = [(person, self._score(faces, query)) for person, faces in self.people.items() if faces]
        passing = [(person, score) for person, score in scores if score >= threshold]
        return sorted(passing, key=lambda item: -item[1])[:limit]

    def _score(self, faces: dict[str, Any], query: Any) -> float:
        vectors = np.array([*faces.values()], dtype=np.float64)
        if self.mode == "best":
            return float((vectors @ query).max())
        mean = vectors.mean(axis=0)
        return float(mean @ query / np.linalg.norm(mean))


@pytest.mark.parametrize(
    ("index", "mode", "seed"), [("faiss:", "best", 1), ("faiss:", "mean", 2), ("faiss:exact", "mean", 3)]
)
def test_after_any_operations_search_agrees_with_brute_force(
    make_api: Any, vector: Any, index: str, mode: str, seed: int
) -> None:
    api, truth, rng = make_api(index=index, templates=mode), Truth(mode), np.random.default_rng(seed)
    _do_anything(api, truth, rng, vector, steps=40)
    _agrees(api, truth, vector)
    api.close()
    api.service.close()
    again = make_api(index=index, templates=mode)  # and after a restart, from the store alone
    _agrees(again, truth, vector)


def _do_anything(api: Any, truth: Truth, rng: np.random.Generator, vector: Any, *, steps: int) -> None:
    for step in range(steps):
        people = sorted(truth.people)
        match rng.choice(["person", "enrol", "enrol", "enrol", "delete face", "delete person"]):
            case "enrol" if people:
                person, new = str(rng.choice(people)), vector(1000 + step)
                truth.people[person][api.enrol(person, new)["id"]] = new
            case "delete face" if people:
                person = str(rng.choice(people))
                if truth.people[person]:
                    face = str(rng.choice(sorted(truth.people[person])))
                    assert api.delete(f"/v1/collections/staff/people/{person}/faces/{face}").status_code == 204
                    del truth.people[person][face]
            case "delete person" if len(people) > 3:
                person = str(rng.choice(people))
                assert api.delete(f"/v1/collections/staff/people/{person}").status_code == 204
                del truth.people[person]
            case _:
                truth.people[api.person(f"person {step}")] = {}


def _agrees(api: Any, truth: Truth, vector: Any) -> None:
    for number in range(6):
        query = vector(number)
        for threshold, limit in ((-1, 100), (0.1, 3)):
            found = api.find(query, threshold=threshold, limit=limit)["candidates"]
            expected = truth.search(query, threshold, limit)
            assert [candidate["person"]["id"] for candidate in found] == [person for person, _ in expected]
            np.testing.assert_allclose([c["similarity"] for c in found], [score for _, score in expected], atol=1e-5)
    listed = api.get("/v1/collections/staff/people", params={"limit": 1000}).json()["people"]
    assert {person["id"]: person["faces"] for person in listed} == {p: len(f) for p, f in truth.people.items()}


@pytest.mark.parametrize(("moves", "status"), [(3, 200), (4, 409)])
def test_a_collection_that_moves_between_embedding_and_search_is_searched_by_its_new_model(
    make_api: Any, make_tiny_bundle: Any, crop: Any, monkeypatch: pytest.MonkeyPatch, moves: int, status: int
) -> None:
    other = make_tiny_bundle(seed=1)
    api = make_api(more_bundles=[other.path])
    person, sent = api.person(), {"files": {"image": crop(1)}, "data": {"aligned": "true", "threshold": "0.99"}}
    assert api.put("/v1/collections/staff/upgrade", json={"model": other.model_id}).status_code == 200
    assert api.post(f"/v1/collections/staff/people/{person}/faces", **sent | {"data": {"aligned": "true"}}).is_success
    embedded = search.probe_of
    ways = [next_model(api.service.models, leave_behind=False), model_before] * 2

    async def late(*arguments: Any) -> Any:
        probe = await embedded(*arguments)
        if len(ways) > 4 - moves:
            api.service.upgrader.move(Once("test", None, b""), "staff", ways.pop(0), lambda *_: Reply(200))
        return probe

    monkeypatch.setattr(search, "probe_of", late)
    answer = api.post("/v1/collections/staff/search", **sent)
    assert answer.status_code == status, answer.text
    if status == 200:
        assert [candidate["person"]["id"] for candidate in answer.json()["candidates"]] == [person]
        assert answer.json()["model"] == other.model_id
