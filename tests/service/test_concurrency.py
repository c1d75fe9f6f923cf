"""Many clients at once: nobody is lost, no search sees half of a write."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.both_databases


def test_searches_during_enrolments_and_deletions(api: Any, vector: Any) -> None:
    steady = api.person("steady")
    api.enrol(steady, vector(0))
    people = [api.person(f"person {number}") for number in range(3)]
    done, wrong = threading.Event(), list[Any]()

    def look() -> None:
        while not done.is_set():
            found = api.find(vector(0), threshold=0.999)["candidates"]
            if [candidate["person"]["id"] for candidate in found] != [steady]:
                wrong.append(found)

    def work(number: int) -> list[str]:
        kept = []
        for step in range(8):
            face = api.enrol(people[number], vector(100 * (number + 1) + step))["id"]
            if step % 3:
                kept.append(face)
            else:
                url = f"/v1/collections/staff/people/{people[number]}/faces/{face}"
                assert api.delete(url).status_code == 204
        return kept

    with ThreadPoolExecutor(5) as pool:
        lookers = [pool.submit(look) for _ in range(2)]
        kept = list(pool.map(work, range(3)))
        done.set()
        for looker in lookers:
            looker.result()
    assert wrong == []
    for person, faces in zip(people, kept, strict=True):
        listed = api.get(f"/v1/collections/staff/people/{person}/faces").json()["faces"]
        assert [face["id"] for face in listed] == faces
    assert api.find(vector(0))["templates"] == 1 + sum(map(len, kept))
    for number, person in enumerate(people):
        for step in range(8):
            found = api.find(vector(100 * (number + 1) + step), threshold=0.999)["candidates"]
            assert [c["person"]["id"] for c in found] == ([person] if step % 3 else [])


@pytest.mark.sqlite
def test_embedding_at_once_gives_what_it_gives_alone(api: Any, crop: Any) -> None:
    def embed(number: int) -> Any:
        answer = api.post("/v1/embeddings", files={"images": crop(number)}, data={"aligned": "true"})
        return answer.json()["images"][0]["faces"][0]["embedding"]

    alone = [embed(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_allclose(list(pool.map(embed, range(8))), alone, atol=1e-6)
