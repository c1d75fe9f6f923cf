"""`facemargin gallery move`: filled, compared, given again after a kill, while a service goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from facemargin import cli
from facemargin.errors import DataError
from facemargin.index import SearchEngine
from service import gallery_move
from service.alignment import apart
from service.entries import Entries, Templates
from service.galleries import open_engine_of
from service.gallery_move import Move
from service.index_names import IndexNames
from service.store import CollectionRow, Store
from service.store.faces import NewFace, add_face
from service.store.people import add_collection, add_person
from tests.milvus import MilvusServer

DIM = 32
everywhere = pytest.mark.parametrize(
    ("database", "kind"), [("postgresql", "pgvector"), ("sqlite", "milvus")], indirect=["database"]
)
on_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


def vectors(count: int, seed: int = 0) -> Any:
    some = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return some / np.linalg.norm(some, axis=1, keepdims=True)


@pytest.fixture
def store(location: Any) -> Iterator[Store]:
    """Two collections: five people with two faces each, and one person."""
    with Store(location) as made:
        made.unlock(None)
        with made.write() as session:
            for name, people, each in (("guests", 1, 1), ("staff", 5, 2)):
                row = add_collection(session, name, model="m", dim=DIM)
                fill(session, row, people, each)
        yield made


def fill(session: Any, row: CollectionRow, people: int, each: int = 1) -> None:
    for number, vector in enumerate(vectors(people * each, seed=row.id)):
        if number % each == 0:
            person = add_person(session, row, f"person {number}")
        add_face(session, row, person, NewFace(vector, "embedding"))


@pytest.fixture
def url(kind: str, tmp_path: Path) -> str:
    return {"pgvector": "pgvector:", "milvus": f"milvus:{tmp_path / 'm.db'}"}[kind]


@pytest.fixture
def engine(store: Store, url: str) -> Iterator[SearchEngine]:
    opened = open_engine_of(url, store, allow_plaintext=False)
    yield opened
    opened.close()


def moved(store: Store, engine: SearchEngine, templates: Templates = "best") -> gallery_move.Moved:
    return Move(store, engine, templates=templates, progress=lambda *_: None).run()


def index_of(store: Store, engine: SearchEngine, name: str = "staff", templates: Templates = "best") -> Any:
    with store.read() as session:
        row = session.scalars(select(CollectionRow).where(CollectionRow.name == name)).one()
    return engine.index(IndexNames(store.vault, templates).of_row(row), DIM)


def check_whole(store: Store, engine: SearchEngine, templates: Templates = "best") -> None:
    with store.read() as session:
        for row in session.scalars(select(CollectionRow)):
            index: Any = engine.index(IndexNames(store.vault, templates).of_row(row), DIM)
            assert not len(apart(session, Entries(templates), row, index, vectors=True).ids)


@everywhere
@pytest.mark.parametrize(("templates", "entries"), [("best", 11), ("mean", 6)])
def test_everything_is_moved_and_a_second_time_nothing(
    store: Store, engine: SearchEngine, templates: Templates, entries: int
) -> None:
    told: list[tuple[int, int]] = []
    move = Move(store, engine, templates=templates, progress=lambda *counts: told.append(counts))
    assert move.run() == gallery_move.Moved(collections=2, entries=entries, added=entries)
    assert told[-1] == (entries, entries)
    check_whole(store, engine, templates)
    assert moved(store, engine, templates) == gallery_move.Moved(collections=2, entries=entries)


@everywhere
def test_a_missing_an_extra_and_a_wrong_entry_are_found_and_put_right(store: Store, engine: SearchEngine) -> None:
    moved(store, engine)
    index = index_of(store, engine)
    missing, wrong, *_ = index.ids().tolist()
    index.remove(np.array([missing, wrong]))
    index.add(np.array([wrong, 10**6]), vectors(2, seed=99))
    assert moved(store, engine) == gallery_move.Moved(collections=2, entries=11, added=1, removed=1, replaced=1)
    check_whole(store, engine)


class Faulty:
    """An engine whose indexes do to what is added what a test wants."""

    def __init__(self, engine: SearchEngine, fault: Callable[[Any, Any], tuple[Any, Any]]) -> None:
        self._engine, self._fault = engine, fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def index(self, name: str, dim: int) -> Any:
        index, fault = self._engine.index(name, dim), self._fault

        class Index:
            def __len__(self) -> int:
                return len(index)

            def __getattr__(self, attribute: str) -> Any:
                return getattr(index, attribute)

            def add(self, ids: Any, vectors: Any) -> None:
                index.add(*fault(ids, vectors))

        return Index()


@pytest.mark.parametrize(("database", "kind"), [("postgresql", "pgvector")], indirect=["database"])
@pytest.mark.parametrize(
    "fault",
    [
        lambda ids, some: (ids, some[::-1].copy() if len(some) > 1 else -some),
        lambda ids, some: (ids[1:], some[1:]),
    ],
    ids=["wrong", "missing"],
)
def test_an_engine_that_keeps_something_else_is_an_error(store: Store, engine: SearchEngine, fault: Any) -> None:
    with pytest.raises(DataError, match="does not hold what was put into it"):
        moved(store, Faulty(engine, fault))  # type: ignore[arg-type]


@everywhere
def test_what_is_written_while_an_engine_is_filled_is_taken_over(
    store: Store, engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def meanwhile(done: int, total: int) -> None:
        if done == total and not written:  # the first collection and all others were filled by then
            with store.write() as session:
                row = session.scalars(select(CollectionRow).where(CollectionRow.name == "staff")).one()
                fill(session, row, 3)
                fill(session, add_collection(session, "late", model="m", dim=DIM), 1)
                written.append(row.id)

    done = Move(store, engine, templates="best", progress=meanwhile).run()
    assert (done.collections, done.entries) == (3, 15)
    check_whole(store, engine)


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "facemargin", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture
def facemargin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """A command in this process: exit code, output, errors."""

    def made(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["facemargin", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return made


@pytest.fixture
def call(facemargin: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str, str]]:
    """The command ``gallery move``."""
    return partial(facemargin, "gallery", "move")


def place(store: Store) -> str:
    location = store.location
    return str(location) if isinstance(location, Path) else location.render_as_string(hide_password=False)


@on_postgresql
def test_from_one_engine_to_the_next_and_back(make_api: Any, vector: Any, call: Any, tmp_path: Path) -> None:
    milvus = f"milvus:{tmp_path / 'm.db'}"
    api = make_api()
    where = place(api.service.store)
    api.enrol(api.person(), vector(1))
    api.close()
    api.service.close()
    for source, target in (("faiss:", "pgvector:"), ("pgvector:", milvus), (milvus, "faiss:")):
        code, said, _ = call("--store", where, "--from", source, "--to", target, "--drop")
        assert code == 0
        assert f"Set FACEMARGIN_INDEX={target}" in said
        assert ("1 entries of 1 collections, counts and checksums as in the store; 1 added" in said) == (
            target != "faiss:"
        )
        assert ("1 indexes dropped" in said) == (source != "faiss:")
        api = make_api(index=target)
        assert len(api.find(vector(1), threshold=0.9)["candidates"]) == 1
        api.close()
        api.service.close()
        with Store(where) as store:
            store.unlock(None)
            if source != "faiss:":
                old = open_engine_of(source, store, allow_plaintext=False)
                assert not old.names()
                old.close()


@everywhere
def test_a_service_goes_on_while_its_store_is_moved(
    make_api: Any, vector: Any, call: Any, url: str, kind: str, tmp_path: Path
) -> None:
    api = make_api()
    where = place(api.service.store)
    api.enrol(api.person(), vector(1))
    assert call("--store", where, "--from", "faiss:", "--to", url)[0] == 0
    assert len(api.find(vector(1), threshold=0.9)["candidates"]) == 1
    code, _, error = call("--store", where, "--from", "faiss:", "--to", url, "--drop")
    assert (code, "a service is searching faiss:" in error) == (2, True)
    api.enrol(api.person("Bob"), vector(2))  # after the move; found by the start on the other engine
    api.close()
    api.service.close()
    again = make_api(index=url)
    assert [len(again.find(vector(number), threshold=0.9)["candidates"]) for number in (1, 2)] == [1, 1]
    if kind == "pgvector":  # a file of milvus-lite has one process
        code, said, _ = call("--store", where, "--from", "faiss:", "--to", url)
        assert (code, "keeps it up to date; nothing was filled" in said) == (0, True)


@everywhere
def test_json_and_errors(store: Store, url: str, call: Any) -> None:
    where = place(store)
    store.close()
    code, said, _ = call("--store", where, "--from", "faiss:", "--to", url, "--json")
    assert code == 0
    assert json.loads(said) == {"collections": 2, "entries": 11, "added": 11, "removed": 0, "replaced": 0, "dropped": 0}
    for words, message in (
        (("--from", "faiss:", "--to", "qdrant:"), r"names no engine; begin with one of"),
        (("--from", url, "--to", url, "--drop"), r"--from and --to are the same"),
        (("--from", "faiss:", "--to", "milvus://127.0.0.1:1"), r"does not answer"),
    ):
        code, _, error = call("--store", where, *words)
        assert (code, error.count("\n"), bool(re.search(message, error))) == (2, 1, True), error


def test_an_encrypted_store_needs_leave(location: Any, call: Any, tmp_path: Path, monkeypatch: Any) -> None:
    key, milvus = bytes(range(32)), f"milvus:{tmp_path / 'm.db'}"
    with Store(location) as store:
        store.unlock(key)
    words = ("--store", str(location), "--from", "faiss:", "--to", milvus)
    monkeypatch.setenv("FACEMARGIN_MASTER_KEY", b64encode(key).decode())
    code, _, error = call(*words)
    assert (code, "--allow-plaintext-index" in error) == (2, True)
    assert call(*words, "--allow-plaintext-index")[0] == 0
    monkeypatch.setenv("FACEMARGIN_ALLOW_PLAINTEXT_INDEX", "true")
    assert call(*words)[0] == 0


def test_a_store_is_not_encrypted_while_an_index_holds_it_in_the_clear(
    location: Any, store: Store, call: Any, facemargin: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    store.close()
    (tmp_path / "key").write_bytes(b64encode(bytes(range(32))))
    milvus, where = f"milvus:{tmp_path / 'm.db'}", str(location)
    assert call("--store", where, "--from", "faiss:", "--to", milvus)[0] == 0
    enable = ["encryption", "enable", "--store", where, "--key-file", str(tmp_path / "key")]
    code, _, error = facemargin(*enable)
    assert code == 2
    assert re.search(r"in the clear in the index at Milvus at \S+m.db; drop them first", error), error
    assert call("--store", where, "--from", milvus, "--to", "faiss:", "--drop")[0] == 0
    assert facemargin(*enable)[0] == 0
    monkeypatch.setenv("FACEMARGIN_MASTER_KEY", b64encode(bytes(range(32))).decode())
    assert call("--store", where, "--from", "faiss:", "--to", milvus, "--allow-plaintext-index")[0] == 0
    monkeypatch.delenv("FACEMARGIN_MASTER_KEY")
    assert facemargin("encryption", "disable", *enable[2:])[0] == 0
    assert facemargin(*enable)[0] == 2
    assert facemargin(*enable, "--allow-plaintext-index")[0] == 0


@on_postgresql
def test_an_engine_that_a_service_searches_is_not_dropped_however_its_url_is_written(
    make_api: Any, vector: Any, call: Any
) -> None:
    api = make_api(index="pgvector:?ef_search=400")
    where = place(api.service.store)
    api.enrol(api.person(), vector(1))
    code, _, error = call("--store", where, "--from", "pgvector:", "--to", "faiss:", "--drop")
    assert (code, "a service is searching pgvector:" in error) == (2, True)
    code, said, _ = call("--store", where, "--from", "faiss:", "--to", "pgvector:")
    assert (code, "nothing was filled" in said) == (0, True)
    assert len(api.find(vector(1), threshold=0.9)["candidates"]) == 1


@pytest.mark.slow
@on_postgresql
@pytest.mark.parametrize("kind", ["pgvector", "milvus"])
def test_a_move_that_is_killed_at_any_moment_is_given_again(
    make_api: Any, vector: Any, kind: str, tmp_path: Path
) -> None:
    server = MilvusServer(tmp_path / "milvus", start=kind == "milvus")
    target = server.url if kind == "milvus" else "pgvector:"
    api = make_api()
    api.enrol(api.person(), vector(1))
    with api.service.store.write() as session:
        fill(session, session.scalars(select(CollectionRow)).one(), 6000)
    where = place(api.service.store)
    command = [
        sys.executable,
        "-m",
        "facemargin",
        "gallery",
        "move",
        "--store",
        where,
        "--from",
        "faiss:",
        "--to",
        target,
    ]
    try:
        began = time.monotonic()
        assert subprocess.run([*command, "--json"], check=False, capture_output=True).returncode == 0
        whole = time.monotonic() - began
        engine = open_engine_of(target, api.service.store, allow_plaintext=False)
        Move(api.service.store, engine, templates="best", progress=lambda *_: None).drop()
        killed = []
        for share in (0.4, 0.6, 0.75, 0.85, 0.95):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(share * whole)
            process.send_signal(signal.SIGKILL)
            killed.append(process.wait())
            assert len(api.find(vector(1), threshold=0.9)["candidates"]) == 1
        assert -signal.SIGKILL in killed
        done = run(*command[3:], "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["entries"] == 6001
        check_whole(api.service.store, engine)
        engine.close()
    finally:
        server.kill()
