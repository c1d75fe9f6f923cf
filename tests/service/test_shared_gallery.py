"""Indexes in memory that follow what several services write: whatever the order, they become what the store says."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from facemargin.errors import IndexUnavailableError
from service.entries import Entries
from service.gallery import Change, difference
from service.shared_gallery import SharedGallery
from service.store import CollectionRow, FaceRow, PersonRow, Store
from service.store.change_log import drop_old_changes
from service.store.faces import NewFace, add_face, add_template, delete_face, entry_ids
from service.store.people import add_collection, add_person, delete_collection, delete_person
from service.store.tables import ChangeRow, now
from service.store.upgrades import drop_templates
from service.writes import _count

DIM = 4
MODELS = ("one", "two")


class Clock:
    moment = 0.0

    def __call__(self) -> float:
        return self.moment


def unit(seed: int) -> Any:
    vector = np.random.default_rng(seed).standard_normal(DIM)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def gallery_on(store: Store, templates: Any = "best", clock: Callable[[], float] | None = None) -> SharedGallery:
    made = SharedGallery(index="exact", templates=templates, **({"clock": clock} if clock else {}))
    made.load(store)
    return made


@pytest.fixture
def store(tmp_path: Any) -> Iterator[Store]:
    """An SQLite store: what follows its log does not know the difference."""
    with Store(tmp_path / "store") as opened:
        opened.unlock(None)
        yield opened


@contextmanager
def writing(store: Store, gallery: SharedGallery) -> Iterator[tuple[Session, list[Change]]]:
    """A write through the service that has this gallery, up to its commit."""
    changes: list[Change] = []
    with store.write() as session:
        yield session, changes
        _count(session, changes)
        gallery.prepare(session, changes)


def made(store: Store) -> int:
    with store.write() as session:
        return add_collection(session, "staff", model=MODELS[0], dim=DIM).id


def enrolled(store: Store, gallery: SharedGallery, seed: int, person: int | None = None) -> tuple[int, int]:
    """Enrol a face with vectors by both models; row numbers of the person and the face."""
    with writing(store, gallery) as (session, changes):
        row = session.scalars(select(CollectionRow)).one()
        who = add_person(session, row, "x") if person is None else session.get_one(PersonRow, person)
        before = gallery.entries(session, row, who)
        face = add_face(session, row, who, NewFace(unit(seed), "embedding"))
        add_template(session, row, who, face, MODELS[row.model == MODELS[0]], unit(seed + 1_000_000))
        changes.append(difference(row, before, gallery.entries(session, row, who)))
        return who.id, face.id


def without_face(store: Store, gallery: SharedGallery, number: int) -> None:
    with writing(store, gallery) as (session, changes):
        row, face = session.scalars(select(CollectionRow)).one(), session.get_one(FaceRow, number)
        who = session.get_one(PersonRow, face.person_id)
        before = gallery.entries(session, row, who)
        delete_face(session, face)
        changes.append(difference(row, before, gallery.entries(session, row, who)))


def without_person(store: Store, gallery: SharedGallery, number: int) -> None:
    with writing(store, gallery) as (session, changes):
        row, who = session.scalars(select(CollectionRow)).one(), session.get_one(PersonRow, number)
        ids = entry_ids(session, row, people=gallery.templates == "mean", person=number).tolist()
        changes.append(Change(row.id, row.model, row.dim, remove=ids))
        delete_person(session, who)


def switched(store: Store, gallery: SharedGallery) -> None:
    with writing(store, gallery) as (session, changes):
        row = session.scalars(select(CollectionRow)).one()
        row.model = MODELS[row.model == MODELS[0]]
        session.flush()
        changes.append(gallery.moved(session, row, None))


def made_anew(store: Store, gallery: SharedGallery) -> None:
    with writing(store, gallery) as (session, changes):
        row = session.scalars(select(CollectionRow)).one()
        changes.append(Change(row.id, row.model, row.dim, drop=True))
        delete_collection(session, row)
    made(store)


def held(gallery: SharedGallery) -> dict[int, Any]:
    """Of each collection with entries: the model, whose each entry is, and its vector."""
    found = {}
    for number, shelf in gallery._shelves.items():
        ids = np.array(sorted(shelf.people), dtype=np.int64)
        assert len(ids) == len(shelf.index)
        if len(ids):
            vectors = shelf.index.vectors(ids).round(5).tolist()
            found[number] = (shelf.model, [(i, shelf.people[i], v) for i, v in zip(ids.tolist(), vectors, strict=True)])
    return found


def stored(store: Store, templates: Any) -> dict[int, Any]:
    found = {}
    with store.read() as session:
        for row in session.scalars(select(CollectionRow)):
            entries = [
                entry
                for block in Entries(templates).everything(session, row)
                for entry in zip(
                    block.ids.tolist(), block.people.tolist(), block.vectors.round(5).tolist(), strict=True
                )
            ]
            if entries:
                found[row.id] = (row.model, sorted(entries))
    return found


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["enrol", "enrol", "again", "face", "person", "switch", "anew", "follow", "follow", "build", "trim"]
        ),
        st.integers(0, 2),
        st.integers(0, 1000),
    ),
    max_size=30,
)


@pytest.mark.parametrize("templates", ["best", "mean"])
@given(steps=STEPS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_service_comes_to_hold_what_the_store_says(
    store: Store, templates: Any, steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes through any of three, each following when it likes or never, with lines dropped before it has."""
    monkeypatch.setattr(SharedGallery, "repair", lambda *_: None)  # it is a step of its own here
    with store.write() as session:
        session.execute(delete(CollectionRow))
    made(store)
    galleries = [gallery_on(store, templates) for _ in range(3)]
    for seed, (step, which, chosen) in enumerate(steps):
        gallery = galleries[which]
        with store.read() as session:
            faces, people = [session.scalars(select(table.id)).all() for table in (FaceRow, PersonRow)]
        match step:
            case "enrol":
                enrolled(store, gallery, seed)
            case "again" if people:
                enrolled(store, gallery, seed, people[chosen % len(people)])
            case "face" if faces:
                without_face(store, gallery, faces[chosen % len(faces)])
            case "person" if people:
                without_person(store, gallery, people[chosen % len(people)])
            case "switch":
                switched(store, gallery)
            case "anew":
                made_anew(store, gallery)
            case "follow":
                gallery.catch_up(store)
            case "build":
                gallery._rebuild_all(store)
            case "trim":
                with store.write() as session:
                    drop_old_changes(session, before=now() + timedelta(seconds=1))
    for gallery in galleries:
        gallery.catch_up(store)
        gallery._rebuild_all(store)
        assert gallery.trouble() is None
        assert held(gallery) == stored(store, templates)
        gallery.catch_up(store)
        gallery._position = 0  # everything once more
        gallery.catch_up(store)
        gallery._rebuild_all(store)
        assert held(gallery) == stored(store, templates)


def test_an_entry_that_changes_is_replaced_everywhere(store: Store) -> None:
    """The mean of a person changes with a further face, under the same id."""
    made(store)
    galleries = [gallery_on(store, "mean") for _ in range(2)]
    person, _ = enrolled(store, galleries[0], 1)
    for seed in (2, 3):
        for gallery in galleries:
            gallery.catch_up(store)
            assert held(gallery) == stored(store, "mean")
        enrolled(store, galleries[0], seed, person)
    for gallery in galleries:
        gallery.catch_up(store)
        assert held(gallery) == stored(store, "mean")


def collection_of(store: Store) -> CollectionRow:
    with store.read() as session:
        return session.scalars(select(CollectionRow)).one()


def found(gallery: SharedGallery, store: Store, seed: int) -> list[int]:
    hits = gallery.search(collection_of(store), unit(seed), threshold=0.999, limit=5)
    return [hit.entry for hit in hits]


def test_a_collection_that_was_filled_elsewhere_a_moment_ago_is_not_searched_as_if_it_were_empty(store: Store) -> None:
    clock = Clock()
    here, there = (gallery_on(store, clock=clock) for _ in range(2))
    made(store)
    enrolled(store, here, 1)
    with store.read() as session:
        row = session.scalars(select(CollectionRow)).one()
    assert [hit.person for hit in there.search(row, unit(1), threshold=0.9, limit=1)]


def test_a_search_reads_the_log_itself_where_nobody_has_for_too_long(store: Store) -> None:
    clock = Clock()
    here, there = gallery_on(store), gallery_on(store, clock=clock)
    made(store)
    enrolled(store, here, 2)
    assert found(there, store, 2)
    _, face = enrolled(store, here, 1)
    clock.moment = 0.79
    assert found(there, store, 1) == []
    clock.moment = 0.81
    assert there.size(collection_of(store)) == 2
    without_face(store, here, face)
    clock.moment = 1.6
    assert found(there, store, 1) == [face]
    clock.moment = 1.62
    assert found(there, store, 1) == []


def test_a_search_that_cannot_learn_what_others_wrote_is_not_answered(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    here = gallery_on(store, clock=clock)
    made(store)
    enrolled(store, here, 1)
    here.catch_up(store)
    row, read = collection_of(store), store.read
    monkeypatch.setattr(store, "read", _away)
    assert len(here.search(row, unit(1), threshold=0.9, limit=1)) == 1  # known to be so a moment ago
    clock.moment = 0.9
    for ask in (lambda: here.search(row, unit(1), threshold=0.9, limit=1), lambda: here.size(row)):
        with pytest.raises(OperationalError):
            ask()
    monkeypatch.setattr(store, "read", read)
    assert len(here.search(row, unit(1), threshold=0.9, limit=1)) == 1


def test_where_the_reading_of_the_log_hangs_searches_are_refused_soon(store: Store) -> None:
    clock = Clock()
    here = gallery_on(store, clock=clock)
    made(store)
    clock.moment = 0.9
    with here._looking, pytest.raises(IndexUnavailableError, match="behind the store"):
        found(here, store, 1)
    assert found(here, store, 1) == []


def test_a_write_that_was_not_followed_at_once_is_before_the_next_search(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    here = gallery_on(store, clock=clock)
    made(store)
    _, face = enrolled(store, here, 1)
    here.follow(store, [])
    clock.moment = 0.1
    without_face(store, here, face)
    row, read = collection_of(store), store.read
    monkeypatch.setattr(store, "read", _away)
    here.follow(store, [])  # raises nothing: the write is on the disk
    with pytest.raises(OperationalError):
        here.search(row, unit(1), threshold=0.9, limit=1)
    monkeypatch.setattr(store, "read", read)
    assert found(here, store, 1) == []


@contextmanager
def _away() -> Iterator[Session]:
    raise OperationalError("SELECT", {}, Exception("the server went away"))
    yield


def test_the_service_that_switches_a_model_has_its_index_and_the_others_build_it(store: Store) -> None:
    here, there = gallery_on(store), gallery_on(store)
    made(store)
    _, face = enrolled(store, here, 1)
    there.catch_up(store)
    drafted = here.draft(store, lambda session: _moved(session.scalars(select(CollectionRow)).one()))
    assert drafted is not None
    with writing(store, here) as (session, changes):
        row = session.scalars(select(CollectionRow)).one()
        row.model = MODELS[1]
        session.flush()
        changes.append(here.moved(session, row, drafted))
    here.follow(store, changes)
    here.discard(drafted)
    assert here._shelves[row.id] is drafted.shelf
    assert here._builder is None
    assert held(here) == stored(store, "best")
    assert found(there, store, 1_000_001) == [face]  # waits for what it builds
    assert held(there) == stored(store, "best")
    there.close()


def _moved(row: CollectionRow) -> CollectionRow:
    return CollectionRow(id=row.id, name=row.name, model=MODELS[1], dim=DIM, sequence=row.sequence)


def test_an_index_that_was_not_taken_over_in_time_is_not_zeroed_and_then_searched(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = gallery_on(store)
    made(store)
    _, face = enrolled(store, here, 1)
    here.catch_up(store)
    drafted = here.draft(store, lambda session: _moved(session.scalars(select(CollectionRow)).one()))
    assert drafted is not None
    with writing(store, here) as (session, changes):
        row = session.scalars(select(CollectionRow)).one()
        row.model = MODELS[1]
        session.flush()
        changes.append(here.moved(session, row, drafted))
    with monkeypatch.context() as patch:
        patch.setattr(store, "read", _away)
        here.follow(store, changes)
    here.discard(drafted)
    assert found(here, store, 1_000_001) == [face]
    here.close()


def test_a_draft_of_vectors_that_another_service_dropped_is_not_used(store: Store) -> None:
    here, there = gallery_on(store), gallery_on(store)
    made(store)
    person, face = enrolled(store, here, 1)
    drafted = here.draft(store, lambda session: _moved(session.scalars(select(CollectionRow)).one()))
    assert drafted is not None
    with writing(store, there) as (session, changes):  # an upgrade is cancelled, and begun again with other pictures
        row = session.scalars(select(CollectionRow)).one()
        drop_templates(session, row, MODELS[1])
        who, of = session.get_one(PersonRow, person), session.get_one(FaceRow, face)
        add_template(session, row, who, of, MODELS[1], unit(77))
        changes.append(Change(row.id, row.model, row.dim, drops_others=True))
    with writing(store, here) as (session, changes):
        row = session.scalars(select(CollectionRow)).one()
        row.model = MODELS[1]
        session.flush()
        changes.append(here.moved(session, row, drafted))
    here.follow(store, changes)
    here.discard(drafted)
    assert found(here, store, 77) == [face]


def test_a_collection_that_is_being_built_is_refused_and_others_are_searched(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.shared_gallery.LONGEST_SWAP_S", 0.05)
    here, there = gallery_on(store), gallery_on(store)
    made(store)
    _, face = enrolled(store, here, 1)
    there.catch_up(store)
    other = CollectionRow(id=99, name="other", model=MODELS[0], dim=DIM, sequence=0)
    may_build, build = threading.Event(), there._maker.built
    monkeypatch.setattr(there._maker, "built", lambda *args: (may_build.wait(10), build(*args))[1])
    switched(store, here)
    there.catch_up(store)
    assert "being rebuilt" in str(there.trouble())
    with pytest.raises(IndexUnavailableError, match="'staff' is being built anew"):
        found(there, store, 1)
    assert there.search(other, unit(1), threshold=0.9, limit=1) == []
    _, more = enrolled(store, here, 2)  # while it builds
    may_build.set()
    monkeypatch.setattr("service.shared_gallery.LONGEST_SWAP_S", 5.0)
    assert found(there, store, 1_000_001) == [face]
    there.catch_up(store)
    assert held(there)[collection_of(store).id][1][1][0] == more
    assert held(there) == stored(store, "best")
    there.close()


def test_who_slept_longer_than_the_log_reaches_back_builds_everything(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = gallery_on(store), gallery_on(store)
    made(store)
    _, face = enrolled(store, here, 1)
    with store.write() as session:
        drop_old_changes(session, before=now() + timedelta(seconds=1))
    there.catch_up(store)
    assert found(there, store, 1) == [face]
    assert "does not reach back" in caplog.text
    there.close()


def test_an_index_that_refuses_is_built_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = gallery_on(store), gallery_on(store)
    made(store)
    enrolled(store, here, 1)
    there.catch_up(store)
    monkeypatch.setattr(there._shelves[collection_of(store).id], "put_block", _full)
    _, face = enrolled(store, here, 2)
    there.catch_up(store)
    assert found(there, store, 2) == [face]
    assert held(there) == stored(store, "best")
    there.close()


def _full(_: Any) -> None:
    raise MemoryError


def test_a_database_that_was_put_back_and_gives_the_same_numbers_again_has_everything_built(store: Store) -> None:
    here, there = gallery_on(store), gallery_on(store)
    made(store)
    enrolled(store, here, 1)
    _, lost = enrolled(store, here, 2)
    there.catch_up(store)
    with store.write() as session:  # as an earlier state and another write since would have it
        delete_face(session, session.get_one(FaceRow, lost))
        last = session.get_one(ChangeRow, there._position)
        last.at += timedelta(seconds=1)
    assert found(there, store, 2) == [lost]  # not looked yet
    there.catch_up(store)
    assert found(there, store, 2) == []
    assert held(there) == stored(store, "best")
    there.close()


def test_an_index_that_cannot_be_built_keeps_no_other_from_being_built(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.shared_gallery._REST_S", 0.0)
    gallery = gallery_on(store)
    broken = made(store)
    with store.write() as session:
        whole = add_collection(session, "visitors", model=MODELS[0], dim=DIM).id
    build = gallery._maker.built
    monkeypatch.setattr(gallery._maker, "built", lambda s, row: _full(row) if row.id == broken else build(s, row))
    gallery._miss({broken, whole})
    gallery._rebuild_all(store)
    assert gallery.stale == {broken}
    assert f"index {broken} could not be built" in caplog.text


def test_only_the_first_searches_of_an_index_that_is_being_built_wait_for_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the threads of all searches would be waiting for the one collection."""
    monkeypatch.setattr(SharedGallery, "repair", lambda *_: None)
    clock = Clock()
    gallery = gallery_on(store, clock=clock)
    gallery._miss({made(store)})
    clock.moment = 2.1
    started = time.monotonic()
    with pytest.raises(IndexUnavailableError, match="being built anew"):
        found(gallery, store, 1)
    assert time.monotonic() - started < 1.0
    gallery._rebuild_all(store)
    assert found(gallery, store, 1) == []
    gallery._miss({collection_of(store).id})  # counted from here
    threading.Timer(0.1, gallery._rebuild_all, (store,)).start()
    assert found(gallery, store, 1) == []


def test_a_write_that_no_index_hears_of_is_not_followed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = gallery_on(store)
    made(store)
    enrolled(store, gallery, 1)
    with writing(store, gallery) as (session, _):
        add_person(session, session.scalars(select(CollectionRow)).one(), "x")
    monkeypatch.setattr(store, "read", _away)
    gallery.follow(store, [])
    assert gallery._owed_at < 0


def test_looking_where_nothing_is_new_begins_no_transaction(
    make_postgres_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(make_postgres_store()) as store:
        store.unlock(None)
        here, there = gallery_on(store), gallery_on(store)
        made(store)
        _, face = enrolled(store, here, 1)
        there.catch_up(store)
        with monkeypatch.context() as patch:
            patch.setattr(store, "read", _away)
            there.catch_up(store)
        without_face(store, here, face)
        with monkeypatch.context() as patch:
            patch.setattr(store, "read", _away)
            with pytest.raises(OperationalError):
                there.catch_up(store)
        there.catch_up(store)
        assert found(there, store, 1) == []


def test_more_lines_than_are_read_at_a_time_are_all_taken_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.shared_gallery.MOST_AT_A_TIME", 2)
    here, there = gallery_on(store), gallery_on(store)
    made(store)
    for seed in range(5):
        enrolled(store, here, seed)
    there.catch_up(store)
    assert held(there) == stored(store, "best")
