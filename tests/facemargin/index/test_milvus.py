"""Milvus beyond the contract of every engine: its server goes and comes back, and changes that are cut short."""

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from facemargin.errors import IndexUnavailableError, MissingExtraError
from facemargin.index import SearchEngine, open_engine
from facemargin.index.milvus import MilvusAddress, MilvusIndex, connection
from facemargin.index.milvus.collection import Collection
from tests.milvus import MilvusServer

DIM = 8


def unit(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def ids(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, dtype=np.int64)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SearchEngine]:
    opened = open_engine(f"milvus:{tmp_path / 'lite.db'}")
    yield opened
    opened.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MilvusServer]:
    started = MilvusServer(tmp_path / "server")
    yield started
    started.kill()


def test_a_killed_server_is_an_error_within_seconds_and_its_return_is_noticed(
    server: MilvusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_S", 1.0)
    engine = open_engine(server.url)
    index, vectors = engine.index("faces", DIM), unit(3)
    index.add(ids(1, 2, 3), vectors)
    server.kill()
    for call in (
        lambda: index.search(vectors, 1),
        lambda: index.add(ids(4), unit(1, seed=4)),
        lambda: index.remove(ids(1)),
        lambda: len(index),
        engine.check,
    ):
        start = time.monotonic()
        with pytest.raises(IndexUnavailableError, match=rf"http{server.url.removeprefix('milvus')} does not answer"):
            call()
        assert time.monotonic() - start < 15
    server.start()
    assert index.ids().tolist() == [1, 2, 3]  # acknowledged, so kept
    assert index.search(vectors, 1).ids.ravel().tolist() == [1, 2, 3]
    index.add(ids(4), unit(1, seed=4))
    assert len(index) == 4
    engine.close()


def test_a_server_that_takes_connections_and_says_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_S", 0.5)
    monkeypatch.setenv("FACEMARGIN_MILVUS_TOKEN", "hidden")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        engine = open_engine(f"milvus://me@127.0.0.1:{silent.getsockname()[1]}/faces")
        start = time.monotonic()
        with pytest.raises(IndexUnavailableError, match="does not answer") as caught:
            engine.check()
        assert time.monotonic() - start < 5
        assert "hidden" not in repr(caught.value) + repr(caught.value.__cause__)


@pytest.mark.parametrize(
    ("rest", "tls", "uri", "database", "token"),
    [
        ("//host", False, "http://host:19530", "", "secret"),
        ("//host:1/faces", True, "https://host:1", "faces", "secret"),
        ("//me@[::1]:19531", False, "http://[::1]:19531", "", "me:secret"),
    ],
)
def test_addresses_are_read_and_their_token_is_not_shown(
    rest: str, tls: bool, uri: str, database: str, token: str
) -> None:
    address = MilvusAddress.parse(rest, secret="secret", tls=tls)
    assert (address.uri, address.database, address.token) == (uri, database, token)
    assert "secret" not in f"{address} {address!r}"


def test_a_large_change_goes_in_batches_and_is_taken_back_when_one_fails(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, vectors = engine.index("batches", DIM), unit(25)
    assert isinstance(index, MilvusIndex)
    index._collection.rows_at_a_time = 10
    index.add(np.arange(25), vectors)
    index.remove(np.arange(0, 25, 2))
    assert index.ids().tolist() == list(range(1, 25, 2))
    insert, left = Collection.insert, [2]

    def fail(self: Collection, some: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        if not left[0]:
            raise IndexUnavailableError("gone")
        left[0] -= 1
        insert(self, some, rows)

    monkeypatch.setattr(Collection, "insert", fail)
    with pytest.raises(IndexUnavailableError, match="gone"):
        index.add(np.arange(100, 125), vectors)
    assert index.ids().tolist() == list(range(1, 25, 2))


def test_a_batch_that_is_sent_twice_is_there_once(engine: SearchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pymilvus does of its own accord when a connection breaks before the answer; Milvus keeps two inserts."""
    index, vectors = engine.index("twice", DIM), unit(3)
    assert isinstance(index, MilvusIndex)
    with engine._connection.client() as client:  # type: ignore[attr-defined]
        monkeypatch.delattr(type(client), "insert")
    index.add(ids(1, 2, 3), vectors)
    index._collection.insert(ids(1, 2, 3), vectors)
    assert (len(index), index.ids().tolist()) == (3, [1, 2, 3])
    assert np.sort(index.search(vectors[:1], 3).ids).tolist() == [[1, 2, 3]]


def test_an_index_that_others_made_anew_with_another_length_is_opened_with_that(engine: SearchEngine) -> None:
    assert engine.index("anew", DIM).dim == DIM
    with engine._connection.client() as client:  # type: ignore[attr-defined]
        client.drop_collection("facemargin_anew")
    index = engine.index("anew", 2 * DIM)
    assert index.dim == 2 * DIM
    assert engine.index("anew", 2 * DIM) is index


def test_what_has_no_prefix_is_not_ours(engine: SearchEngine) -> None:
    engine.index("ours", DIM)
    with engine._connection.client() as client:  # type: ignore[attr-defined]
        client.create_collection("theirs", dimension=4)
    assert engine.names() == {"ours"}
    engine.drop("theirs")
    with engine._connection.client() as client:  # type: ignore[attr-defined]
        assert client.has_collection("theirs")


@pytest.mark.parametrize("dim", [1, 40_000])
def test_lengths_that_milvus_refuses_are_refused_here(engine: SearchEngine, dim: int) -> None:
    with pytest.raises(ValueError, match="Milvus takes vectors of 2 to 32768 numbers"):
        engine.index("lengths", dim)


def test_more_than_milvus_gives_at_once_is_compared_here(engine: SearchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    nearest, asked = Collection.nearest, list[int]()

    def noted(self: Collection, queries: NDArray[np.float32], k: int) -> Iterator[list[tuple[int, float]]]:
        asked.append(k)
        return nearest(self, queries, k)

    monkeypatch.setattr("facemargin.index.milvus.index.MOST_FOUND", 5)
    monkeypatch.setattr(Collection, "nearest", noted)
    index, vectors = engine.index("many", DIM), unit(30)
    index.add(np.arange(30), vectors)
    for k in (5, 12, 40):
        similarities, found = index.search(vectors[:3], k)
        expected = np.sort(vectors[:3] @ vectors.T, axis=1)[:, ::-1][:, :k]
        np.testing.assert_allclose(similarities[:, :30], expected, atol=1e-5)
        assert found.shape == (3, k)
        assert (found[:, 30:] == -1).all()
    assert asked == [5]


def test_a_graph_that_leads_to_too_little_is_made_up_for(engine: SearchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    index, vectors = engine.index("few", DIM), unit(6)
    index.add(np.arange(6), vectors)
    monkeypatch.setattr(Collection, "nearest", lambda self, queries, k: iter([[(0, 1.0)]] * len(queries)))
    assert set(index.search(vectors[:1], 6).ids[0].tolist()) == set(range(6))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'facemargin\[milvus\]'"):
        open_engine("milvus://host")
