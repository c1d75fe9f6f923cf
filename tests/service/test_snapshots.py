"""Snapshots of indexes: used when they are right, completed when they are old, thrown away otherwise."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import snapshots as snapshots_module
from service.erasure import remove_person
from service.gallery import Change, difference
from service.memory_gallery import MemoryGallery
from service.shelf import ShelfMaker
from service.snapshots import Block, Label, SnapshotError, Snapshots
from service.store import CollectionRow, Store
from service.store.faces import NewFace, add_face
from service.store.people import add_collection, add_person, person
from service.store.snapshot_keys import collections_with_snapshot_key

DIM = 4
MASTER = bytes(range(32))


def unit(seed: int) -> Any:
    vector = np.random.default_rng(seed).standard_normal(DIM)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


class Bench:
    """A store with one collection, and galleries of it."""

    def __init__(self, folder: Path, *, templates: Any = "best", master: bytes | None = None) -> None:
        self.folder, self.templates = folder, templates
        self.store = Store(folder)
        self.store.unlock(master)
        self.snapshots = Snapshots(folder / "snapshots", rows=2)
        self.gallery = self.new_gallery()
        with self.store.write() as session:
            self.collection = add_collection(session, "staff", model="m", dim=DIM).id
        self.next = 0

    @property
    def file(self) -> Path:
        return self.folder / "snapshots" / f"{self.collection}.snapshot"

    def new_gallery(self) -> MemoryGallery:
        return MemoryGallery(index="exact", templates=self.templates, snapshots=self.snapshots)

    def enrol(self, *, people: int = 1, faces: int = 1) -> list[str]:
        return [self._enrol(faces) for _ in range(people)]

    def _enrol(self, faces: int) -> str:
        changes: list[Change] = []
        with self.store.write() as session:
            row = session.get_one(CollectionRow, self.collection)
            somebody = add_person(session, row, "somebody")
            for _ in range(faces):
                add_face(session, row, somebody, NewFace(unit(self.next), "embedding"))
                self.next += 1
            changes.append(difference(row, [], self.gallery.entries(session, row, somebody)))
            self._count(session, row, changes)
        self.gallery.follow(self.store, changes)
        return somebody.public_id

    def erase(self, public_id: str, *, follow: bool = True) -> None:
        with self.store.write() as session:
            row = session.get_one(CollectionRow, self.collection)
            gone = person(session, row, public_id)
            changes = [difference(row, self.gallery.entries(session, row, gone), [])]
            remove_person(session, gone)
            self._count(session, row, changes)
            self.gallery.prepare(session, changes)
        if follow:
            self.gallery.follow(self.store, changes)

    def _count(self, session: Any, row: CollectionRow, changes: list[Change]) -> None:
        row.sequence += 1
        for change in changes:
            change.sequence = row.sequence

    def save(self) -> bool:
        return self.gallery.save(self.store, self.collection)

    def loaded(self) -> Any:
        gallery = self.new_gallery()
        gallery.load(self.store)
        return contents(gallery, self.collection)

    def truth(self) -> Any:
        gallery = MemoryGallery(index="exact", templates=self.templates)
        gallery.load(self.store)
        return contents(gallery, self.collection)


def contents(gallery: MemoryGallery, collection: int) -> dict[int, tuple[int, bytes]]:
    shelf = gallery._shelves[collection]
    ids = sorted(shelf.people)
    vectors = shelf.index.vectors(np.array(ids, dtype=np.int64))
    return {number: (shelf.people[number], vector.tobytes()) for number, vector in zip(ids, vectors, strict=True)}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "store")
    with made.store:
        yield made


@pytest.fixture
def no_building(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the index was built from the store")

    monkeypatch.setattr(ShelfMaker, "built", refuse)


@pytest.mark.parametrize("master", [None, MASTER])
@pytest.mark.parametrize("templates", ["best", "mean"])
def test_a_snapshot_gives_back_what_the_store_holds(
    tmp_path: Path, templates: str, master: bytes | None, request: pytest.FixtureRequest
) -> None:
    bench = Bench(tmp_path, templates=templates, master=master)
    with bench.store:
        bench.enrol(people=3, faces=2)
        truth = bench.truth()
        assert len(truth) == (6 if templates == "best" else 3)
        assert bench.save()
        request.getfixturevalue("no_building")
        assert bench.loaded() == truth


@pytest.mark.parametrize("templates", ["best", "mean"])
def test_what_came_after_it_is_added_from_the_store(
    tmp_path: Path, templates: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    bench = Bench(tmp_path, templates=templates)
    with bench.store:
        bench.enrol(people=4)
        assert bench.save()
        bench.enrol(people=3, faces=2)
        truth = bench.truth()
        monkeypatch.setattr("service.shelf._AT_A_TIME", 2)
        monkeypatch.setattr("service.shelf._MOST_MISSING", 0.9)
        request.getfixturevalue("no_building")
        assert bench.loaded() == truth


def test_one_that_lacks_most_is_thrown_away(bench: Bench) -> None:
    bench.enrol()
    assert bench.save()
    bench.enrol(people=5)
    assert bench.loaded() == bench.truth()
    assert not bench.file.exists()


def read(bench: Bench) -> list[Block]:
    """What the file holds; raises where it cannot be used."""
    with bench.store.read() as session:
        found = bench.snapshots.read(session, Label(bench.collection, "m", bench.templates, DIM, 0, 0))
        assert found is not None
        return list(found[1])


def test_torn_or_edited_anywhere_it_is_thrown_away(bench: Bench) -> None:
    bench.enrol(people=4)  # two chunks of the same length
    assert bench.save()
    whole, truth = bench.file.read_bytes(), bench.truth()
    header, first, second = whole[:72], whole[72:164], whole[164:]
    assert len(read(bench)) == 2
    torn = [whole[:length] for length in range(len(whole))]
    edited = [whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :] for at in range(len(whole))]
    exchanged = [header + second + first, header + first + first, whole + b"\0", whole + second]
    for number, content in enumerate([*torn, *edited, *exchanged]):
        bench.file.write_bytes(content)
        with pytest.raises(SnapshotError):
            read(bench)
        if number % 10 == 0:
            assert bench.loaded() == truth
            assert not bench.file.exists()
    bench.file.write_bytes(whole)
    assert len(read(bench)) == 2


def test_one_of_another_store_does_not_open(bench: Bench, tmp_path: Path) -> None:
    other = Bench(tmp_path / "other")
    with other.store:
        for each in (bench, other):
            each.enrol(people=2)
            assert each.save()
        bench.file.write_bytes(other.file.read_bytes())
        with pytest.raises(SnapshotError, match="chunk 0 was changed"):
            read(bench)
        assert bench.loaded() == bench.truth()


def test_an_older_one_of_the_same_collection_does_not_open(bench: Bench) -> None:
    bench.enrol(people=2)
    assert bench.save()
    older = bench.file.read_bytes()
    bench.enrol()
    assert bench.save()
    bench.file.write_bytes(older)
    with pytest.raises(SnapshotError):
        read(bench)
    assert bench.loaded() == bench.truth()


@pytest.mark.parametrize("other", [{"model": "n"}, {"templates": "mean"}, {"dim": 5}, {"collection": 2}])
def test_one_of_something_else_is_refused(bench: Bench, other: dict[str, Any]) -> None:
    bench.enrol(people=2)
    assert bench.save()
    wanted = {"collection": bench.collection, "model": "m", "templates": "best", "dim": DIM} | other
    if other.get("collection"):
        bench.file.rename(bench.file.with_name("2.snapshot"))
    with bench.store.read() as session, pytest.raises(SnapshotError, match=r"another collection|no key"):
        bench.snapshots.read(session, Label(**wanted, sequence=0, count=0))


def test_with_the_deletion_the_file_is_gone(bench: Bench) -> None:
    gone, *_ = bench.enrol(people=3)
    assert bench.save()
    bench.erase(gone)
    assert not bench.file.exists()
    assert bench.loaded() == bench.truth()
    assert len(bench.truth()) == 2
    assert bench.gallery.unsaved(1) == [bench.collection]


def test_killed_between_the_deletion_and_the_file_it_opens_for_nobody(bench: Bench) -> None:
    gone, *_ = bench.enrol(people=3)
    assert bench.save()
    bench.erase(gone, follow=False)
    assert bench.file.exists()
    with pytest.raises(SnapshotError, match="no key"):
        read(bench)
    assert len(bench.loaded()) == 2
    assert not bench.file.exists()


def test_who_was_deleted_past_the_service_is_not_served(bench: Bench) -> None:
    gone, *_ = bench.enrol(people=3)
    assert bench.save()
    with bench.store.write() as session:
        remove_person(session, person(session, session.get_one(CollectionRow, bench.collection), gone))
    assert bench.loaded() == bench.truth()
    assert not bench.file.exists()


@pytest.mark.parametrize("last", [False, True])
def test_a_deletion_while_it_is_written_ends_it(bench: Bench, monkeypatch: pytest.MonkeyPatch, last: bool) -> None:
    gone, *_ = bench.enrol(people=4)
    flush, times = snapshots_module.flush, 0

    def flush_and_erase(file: Any) -> None:
        nonlocal times
        times += 1
        flush(file)
        if times == (2 if last else 1):  # the first is after the first chunk, the second after all of them
            bench.erase(gone)

    monkeypatch.setattr(snapshots_module, "flush", flush_and_erase)
    assert bench.save() is False
    assert list((bench.folder / "snapshots").iterdir()) == []
    with bench.store.read() as session:
        assert collections_with_snapshot_key(session) == set()
    assert len(bench.loaded()) == 3
    monkeypatch.undo()
    assert bench.save()


def test_searches_and_writes_go_on_while_it_is_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.enrol(people=4)
    writing, go_on, done = threading.Event(), threading.Event(), list[bool]()

    def wait(_: Any) -> None:
        writing.set()
        assert go_on.wait(60)

    monkeypatch.setattr(snapshots_module, "flush", wait)
    thread = threading.Thread(target=lambda: done.append(bench.save()))
    thread.start()
    assert writing.wait(60)
    try:
        row = CollectionRow(id=bench.collection, name="staff", model="m", dim=DIM)
        bench.enrol(people=2)
        assert len(bench.gallery.search(row, unit(5), threshold=0.999, limit=1)) == 1
    finally:
        go_on.set()
    thread.join(60)
    assert done == [True]
    assert sum(len(block.ids) for block in read(bench)) == 4
    assert bench.loaded() == bench.truth()


def test_a_disk_that_fails_leaves_nothing_half_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.enrol(people=4)
    assert bench.save()
    before = bench.file.read_bytes()
    bench.enrol()

    def full(_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshots_module, "flush", full)
    with pytest.raises(OSError, match="No space"):
        bench.save()
    assert [path.name for path in (bench.folder / "snapshots").iterdir()] == [bench.file.name]
    assert bench.file.read_bytes() == before
    assert bench.loaded() == bench.truth()


def test_what_was_half_written_when_killed_is_swept(bench: Bench) -> None:
    bench.enrol(people=2)
    assert bench.save()
    (bench.folder / "snapshots" / "1.part").write_bytes(b"half")
    (bench.folder / "snapshots" / "99.snapshot").write_bytes(b"of nobody")
    bench.loaded()
    assert [path.name for path in (bench.folder / "snapshots").iterdir()] == [bench.file.name]


def test_no_vector_is_in_it_in_the_clear(bench: Bench) -> None:
    bench.enrol(people=3)
    assert bench.save()
    assert bench.file.stat().st_mode & 0o777 == 0o600
    content = bench.file.read_bytes()
    assert all(unit(number).tobytes()[:8] not in content for number in range(3))


def test_it_is_written_again_when_a_tenth_is_younger(bench: Bench) -> None:
    assert bench.gallery.unsaved(1) == []
    bench.enrol(people=20)
    assert bench.gallery.unsaved(21) == []
    assert bench.gallery.unsaved(20) == [bench.collection]
    assert bench.save()
    bench.enrol(people=2)
    assert bench.gallery.unsaved(1) == []
    bench.enrol()
    assert bench.gallery.unsaved(1) == [bench.collection]


@pytest.mark.parametrize("moment", ["before", "after", "instead"])
def test_one_that_is_begun_between_a_deletion_and_the_index_is_of_no_use(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The deletion is committed, its key destroyed and its file deleted, but the index still holds the entry."""
    gone, *_ = bench.enrol(people=4)
    apply = bench.gallery.apply
    reached, go_on, written = threading.Event(), threading.Event(), list[bool]()
    thread = threading.Thread(target=lambda: written.append(bench.save()))

    def hold_flush(_: Any) -> None:
        reached.set()
        assert go_on.wait(60)

    def apply_late(changes: Any) -> None:
        if moment == "before":  # it is finished before the index follows
            bench.save()
        else:
            thread.start()
            assert reached.wait(60)
            if moment == "instead":
                raise MemoryError
        apply(changes)

    monkeypatch.setattr(bench.gallery, "apply", apply_late)
    if moment != "before":
        monkeypatch.setattr(snapshots_module, "flush", hold_flush)
    try:
        bench.erase(gone)
    finally:
        go_on.set()
    if moment != "before":
        thread.join(60)
        assert written == [False]
    assert not bench.file.exists()
    assert len(bench.gallery._shelves[bench.collection].people) == 3
    assert bench.gallery._shelves[bench.collection].saved is None
    monkeypatch.undo()
    assert bench.save()
    assert sum(len(block.ids) for block in read(bench)) == 3


def test_an_index_that_is_apart_from_the_store_has_none(bench: Bench) -> None:
    bench.enrol(people=2)
    bench.gallery.stale.add(bench.collection)
    assert not bench.save()
    bench.gallery.repair(bench.store)
    assert bench.save()


def test_one_of_a_later_sequence_than_the_store_is_thrown_away(bench: Bench) -> None:
    bench.enrol(people=2)
    assert bench.save()
    with bench.store.write() as session:
        session.get_one(CollectionRow, bench.collection).sequence = 1
    assert bench.loaded() == bench.truth()
    assert not bench.file.exists()


def test_closing_gives_up_what_is_being_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.enrol(people=12)
    flushed = list[int]()

    def close(_: Any) -> None:
        flushed.append(1)
        bench.snapshots.close()

    monkeypatch.setattr(snapshots_module, "flush", close)
    assert not bench.save()
    assert len(flushed) == 1  # of three: after chunks 1 and 5, and at the end
    assert list((bench.folder / "snapshots").iterdir()) == []
