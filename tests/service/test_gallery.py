"""The galleries follow the store, also where an index fails."""

from typing import Any

import pytest

from service.gallery import Entry, difference
from service.store import CollectionRow


def fail_once(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, error: Exception) -> None:
    original = getattr(target, name)

    def failing(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(target, name, original)
        raise error

    monkeypatch.setattr(target, name, failing)


def index_of(api: Any) -> Any:
    (shelf,) = api.service.gallery._shelves.values()
    return type(shelf.index)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("faiss")])
def test_an_index_that_fails_after_the_commit_is_rebuilt(
    api: Any, vector: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    ada, bob = api.person("Ada"), api.person("Bob")
    api.enrol(ada, vector(1))
    fail_once(monkeypatch, index_of(api), "add", error)
    api.enrol(bob, vector(2))
    for person, number in ((ada, 1), (bob, 2)):
        found = api.find(vector(number), threshold=0.999)
        assert [candidate["person"]["id"] for candidate in found["candidates"]] == [person]
        assert found["templates"] == 2
    assert api.get("/health/ready").status_code == 200


def test_a_deletion_that_the_index_refuses(api: Any, vector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    person = api.person()
    api.enrol(person, vector(1))
    fail_once(monkeypatch, index_of(api), "remove", RuntimeError("faiss"))
    assert api.delete(f"/v1/collections/staff/people/{person}").status_code == 204
    assert api.find(vector(1), threshold=0.999)["templates"] == 0


def test_not_ready_while_the_rebuilding_fails(
    api: Any, problem: Any, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = api.person()
    api.enrol(person, vector(1))
    fail_once(monkeypatch, index_of(api), "add", MemoryError())
    fail_once(monkeypatch, api.service.gallery, "_built", MemoryError())
    api.enrol(person, vector(2))
    problem(api.get("/health/ready"), "store-unavailable", 503)
    api.person("Bob")
    assert api.get("/health/ready").status_code == 200
    assert api.find(vector(2), threshold=0.999)["templates"] == 2


def test_a_difference_of_many_entries(vector: Any) -> None:
    one, other = vector(1), vector(2)
    before = [Entry(number, 1, one) for number in range(50_000)]  # comparing each with each would take minutes
    after = [*before[1:-1], Entry(49_999, 1, other), Entry(50_000, 1, one)]
    change = difference(CollectionRow(id=1, dim=32), before, after)
    assert change.remove == [0, 49_999]
    assert change.add == after[-2:]
