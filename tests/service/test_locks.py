"""Names that one at a time may hold, and the position in the log that all services of a store share."""

from typing import Any

import pytest

from service.store import Store
from service.store.followed import Position, serve_index, served_index
from service.store.locks import locks_of

pytestmark = pytest.mark.both_databases


def test_a_name_is_one_holders_until_it_is_given_back(location: Any) -> None:
    with Store(location) as store:
        one, other = locks_of(store), locks_of(store)
        assert one.acquire("a")
        assert not other.acquire("a")
        assert not one.acquire("a")
        assert other.acquire("b")
        one.release("a")
        assert other.acquire("a")
        for name in ("a", "b"):
            other.release(name)
            assert one.acquire(name)
            one.release(name)


def fail_after(position: Position, number: int) -> None:
    with position.turn() as turn:
        turn.position = number
        raise RuntimeError


def test_a_position_counts_when_its_turn_ends_well(location: Any) -> None:
    with Store(location) as store:
        position = Position(store)
        with position.turn() as turn:
            assert turn.position is None
            turn.position = 7
        with pytest.raises(RuntimeError):
            fail_after(position, 9)
        position.keep()
        with store.read() as session:
            assert position.now(session) == 7
    with Store(location) as again, Position(again).turn() as turn:
        assert turn.position == 7


def test_the_engine_that_was_served_last_is_known(location: Any) -> None:
    with Store(location) as store:
        for url in ("faiss:", "pgvector:", "pgvector:"):
            serve_index(store, url)
            with store.read() as session:
                assert served_index(session) == url
