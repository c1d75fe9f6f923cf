"""The galleries follow the store, also where an index fails."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from facemargin.errors import ModelMismatchError
from facemargin.index import contents, segmented
from facemargin.index.base import SearchResult
from service.entries import Entry
from service.gallery import Change, Hit, difference, nearest_people
from service.memory_gallery import MemoryGallery
from service.store import CollectionRow, TemplateRow
from service.store.snapshot_keys import collections_with_snapshot_key


@pytest.fixture
def api(make_api: Any) -> Any:
    """A service whose housekeeping does not come by while a test looks at what it would mend."""
    made = make_api(housekeeping_seconds=30)
    while made.service.writer.unforgotten:  # until the first round is over
        time.sleep(0.02)
    time.sleep(0.1)
    return made


def fail_once(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, error: Exception) -> None:
    original = getattr(target, name)

    def failing(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(target, name, original)
        raise error

    monkeypatch.setattr(target, name, failing)


def index_of(api: Any) -> Any:
    (shelf,) = api.service.gallery._shelves.values()
    return type(shelf.index)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("faiss"), ValueError("faiss"), AssertionError("faiss"), KeyError(3)]
)
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
    fail_once(monkeypatch, api.service.gallery._maker, "built", MemoryError())
    api.enrol(person, vector(2))
    problem(api.get("/health/ready"), "not-ready", 503)
    api.person("Bob")
    assert api.get("/health/ready").status_code == 200
    assert api.find(vector(2), threshold=0.999)["templates"] == 2


def test_a_difference_of_many_entries(vector: Any) -> None:
    one, other = vector(1), vector(2)
    before = [Entry(number, 1, one) for number in range(50_000)]  # comparing each with each would take minutes
    after = [*before[1:-1], Entry(49_999, 1, other), Entry(50_000, 1, one)]
    change = difference(CollectionRow(id=1, model="m", dim=32), before, after)
    assert change.remove == [0, 49_999]
    assert change.add == after[-2:]


def test_a_search_waits_for_the_index_of_a_model_that_its_collection_has_moved_to(
    api: Any, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.enrol(api.person("Ada"), vector(1))
    gallery, store = api.service.gallery, api.service.store
    with store.write() as session:
        row = session.scalars(select(CollectionRow)).one()
        face = session.scalars(select(TemplateRow)).one()
        session.add(TemplateRow(face_id=face.face_id, model="another", sealed=vector(2).tobytes()))
        before = CollectionRow(id=row.id, name=row.name, model=row.model, dim=row.dim, sequence=row.sequence)
        row.model, row.sequence = "another", row.sequence + 1
        session.flush()
        change = gallery.moved(session, row, None)
        change.sequence = row.sequence
    assert len(gallery.search(before, vector(1), threshold=0.999, limit=1)) == 1
    with ThreadPoolExecutor(1) as pool:
        searching: Future[Any] = pool.submit(gallery.search, row, vector(2), threshold=0.999, limit=1)
        with pytest.raises(TimeoutError):
            searching.result(0.2)
        gallery.follow(store, [change])
        assert len(searching.result(5)) == 1
    with pytest.raises(ModelMismatchError, match="searched by model another"):
        gallery.search(before, vector(1), threshold=0.999, limit=1)


def test_a_search_does_not_wait_for_ever(api: Any, vector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.memory_gallery.LONGEST_SWAP_S", 0.05)
    api.enrol(api.person("Ada"), vector(1))
    with api.service.store.read() as session:
        row = session.scalars(select(CollectionRow)).one()
    later = CollectionRow(id=row.id, name=row.name, model="another", dim=32, sequence=row.sequence + 1)
    with pytest.raises(ModelMismatchError):
        api.service.gallery.search(later, vector(1), threshold=0.999, limit=1)


@pytest.mark.parametrize("what", ["face", "person", "collection"])
def test_a_deletion_destroys_the_key_of_the_snapshot_in_its_transaction(
    make_api: Any, vector: Any, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = make_api(housekeeping_seconds=30)
    person = api.person()
    face = api.enrol(person, vector(1))["id"]
    api.enrol(api.person("Bob"), vector(2))
    gallery, store = api.service.gallery, api.service.store
    (number,) = gallery._shelves
    assert gallery.save(store, number)
    monkeypatch.setattr(gallery, "follow", lambda *_: None)  # as if killed after the commit
    url = "/v1/collections/staff" + ("" if what == "collection" else f"/people/{person}")
    assert api.delete(url + (f"/faces/{face}" if what == "face" else "")).status_code == 204
    with store.read() as session:
        assert collections_with_snapshot_key(session) == set()


def test_an_enrolment_leaves_the_snapshot_of_use_and_raises_the_sequence(make_api: Any, vector: Any) -> None:
    api = make_api(housekeeping_seconds=30)
    person = api.person()
    api.enrol(person, vector(1))
    gallery, store = api.service.gallery, api.service.store
    ((number, shelf),) = gallery._shelves.items()
    assert gallery.save(store, number)
    sequence = shelf.sequence
    api.enrol(person, vector(2))
    with store.read() as session:
        assert collections_with_snapshot_key(session) == {number}
        assert shelf.sequence == session.get_one(CollectionRow, number).sequence == sequence + 1


DIM, ROWS = 16, 8192  # a segment


@pytest.fixture(scope="module")
def many() -> Any:
    """A gallery of one segment's vectors less one, and more of them."""
    vectors = np.random.default_rng(0).standard_normal((ROWS + 100, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def filled(vectors: Any, count: int) -> tuple[MemoryGallery, CollectionRow]:
    gallery = MemoryGallery(index="segmented", templates="best")
    gallery.apply([Change(1, "m", DIM, add=[Entry(i, i, vectors[i]) for i in range(count)])])
    return gallery, CollectionRow(id=1, name="staff", model="m", dim=DIM, sequence=0)


def found(gallery: MemoryGallery, row: CollectionRow, vector: Any) -> list[int]:
    return [hit.person for hit in gallery.search(row, vector, threshold=0.999, limit=1)]


def test_searches_go_on_while_codes_are_made(many: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, row = filled(many, ROWS - 1)
    searched: list[list[int]] = []
    segment = contents.Segment

    def sealing(*arguments: Any) -> Any:
        searching = threading.Thread(target=lambda: searched.append(found(gallery, row, many[5])))
        searching.start()
        searching.join(5)
        in_time.append(not searching.is_alive())
        return segment(*arguments)

    in_time: list[bool] = []
    monkeypatch.setattr(contents, "Segment", sealing)
    gallery.apply([Change(1, "m", DIM, add=[Entry(ROWS, ROWS, many[ROWS])])])
    assert in_time == [True]
    assert searched == [[5]]
    assert found(gallery, row, many[ROWS]) == [ROWS]


def test_changes_go_on_while_others_search_and_what_goes_is_found_no_more(
    many: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, row = filled(many, ROWS + 10)
    scan, scanning, go_on = segmented.scan, threading.Event(), threading.Event()

    def slowly(*arguments: Any, **more: Any) -> Any:
        rough = scan(*arguments, **more)
        scanning.set()
        assert go_on.wait(20)
        return rough

    monkeypatch.setattr(segmented, "scan", slowly)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(found, gallery, row, many[5])
        assert scanning.wait(20)
        try:
            added = Change(1, "m", DIM, add=[Entry(ROWS + 50, ROWS + 50, many[ROWS + 50])])
            for change in (Change(1, "m", DIM, remove=[5]), added):
                pool.submit(gallery.apply, [change]).result(5)
            assert gallery.size(row) == gallery.total == ROWS + 10
        finally:
            go_on.set()
        assert running.result(20) == []


@pytest.mark.parametrize("index", ["segmented", "exact"])
def test_nobody_is_missed_while_one_entry_takes_the_place_of_another(
    vector: Any, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    gallery = MemoryGallery(index=index, templates="mean")
    row = CollectionRow(id=1, name="staff", model="m", dim=32, sequence=0)
    gallery.apply([Change(1, "m", 32, add=[Entry(7, 7, vector(1))])])
    taken = gallery._shelves[1].index
    add, running = taken.add, []

    with ThreadPoolExecutor(1) as pool:

        def adding(*arguments: Any) -> None:
            running.append(pool.submit(found, gallery, row, vector(1)))
            with pytest.raises(TimeoutError):
                running[0].result(0.3)
            add(*arguments)

        monkeypatch.setattr(taken, "add", adding)
        gallery.apply([Change(1, "m", 32, remove=[7], add=[Entry(7, 7, vector(1))])])
        assert running[0].result(10) == [7]


def test_a_search_of_an_index_that_is_taken_down_meanwhile_looks_at_the_next_one(
    api: Any, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.enrol(api.person("Ada"), vector(1))
    gallery, store = api.service.gallery, api.service.store
    ((number, shelf),) = gallery._shelves.items()
    search = shelf.index.search

    def late(*arguments: Any) -> Any:
        gallery.stale.add(number)
        gallery.repair(store)
        return search(*arguments)

    monkeypatch.setattr(shelf.index, "search", late)
    with store.read() as session:
        row = session.scalars(select(CollectionRow)).one()
    assert len(gallery.search(row, vector(1), threshold=0.999, limit=1)) == 1
    assert gallery._shelves[number] is not shelf
    assert not len(shelf.index)


def test_rounding_makes_nobody_more_than_alike() -> None:
    found = SearchResult(np.array([[1.0001, -np.inf]], dtype=np.float32), np.array([[7, -1]]))
    index: Any = SimpleNamespace(search=lambda *_: found)
    query = np.ones(1, dtype=np.float32)
    hits = nearest_people(index, lambda ids: dict.fromkeys(ids, 3), query, threshold=0.5, limit=1, other_than=None)
    assert hits == [Hit(3, 7, 1.0)]
