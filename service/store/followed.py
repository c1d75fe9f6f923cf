"""Which engine the indexes of a store were last served from, and how far one elsewhere has followed the log."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, text
from sqlalchemy.orm import Session

from service.store.database import Store
from service.store.tables import MetaRow

_SERVED: Final = "index served"
_POSITION: Final = "index position"
_IN_CLEAR: Final = "indexes in the clear"
_DROPPED: Final = "vectors dropped of "
_LOCK: Final = 7_020_651_003
"""Number of the advisory lock of whoever brings an index elsewhere up to date."""
_FOLLOWING_MS: Final = 10_000
_LOADING_MS: Final = 600_000


def served_index(session: Session) -> str | None:
    """Place of the engine that the store was last served from; None where there was none, or nothing is known of it."""
    row = session.get(MetaRow, _SERVED)
    return None if row is None else row.value.decode()


def serve_index(store: Store, place: str) -> None:
    """Note from which engine a store is served from now on; an engine served before it may fall behind."""
    with store.read() as session:
        if served_index(session) == place:
            return
    with store.write() as session:
        session.merge(MetaRow(name=_SERVED, value=place.encode()))


def forget_index(session: Session) -> None:
    """Have every index compared in full at the next start: the store is not the one any more that they follow."""
    session.execute(delete(MetaRow).where(MetaRow.name.in_((_SERVED, _POSITION))))


def indexes_in_clear(session: Session) -> list[str]:
    """Places of the engines outside of the service that hold, or may hold, templates of the store in the clear."""
    row = session.get(MetaRow, _IN_CLEAR)
    return [] if row is None else [str(place) for place in json.loads(row.value)]


def note_in_clear(store: Store, place: str, *, there: bool) -> None:
    """Note that an engine is about to be given templates in the clear, or that there are none in it any more."""
    with store.read() as session:
        if (place in indexes_in_clear(session)) == there:
            return
    with store.write() as session:
        places = {*indexes_in_clear(session)} - {place} | ({place} if there else set())
        session.merge(MetaRow(name=_IN_CLEAR, value=json.dumps(sorted(places)).encode()))


def count_dropped_vectors(session: Session, collection: int) -> None:
    """Count, in the transaction that does it, that vectors of other models were dropped from a collection."""
    value = dropped_vectors(session, collection) + 1
    session.merge(MetaRow(name=f"{_DROPPED}{collection}", value=str(value).encode()))


def dropped_vectors(session: Session, collection: int) -> int:
    """How often that happened; the log of changes would tell it too, but is not kept for as long as a draft takes."""
    row = session.get(MetaRow, f"{_DROPPED}{collection}")
    return 0 if row is None else int(row.value)


@dataclass
class Turn:
    """The turn of whoever brings an index up to date.

    Attributes:
        position: number of the last line of the log that the index has; None where that is not known. To be set.
    """

    position: int | None


class Position:
    """How far the index of a store has followed the log, and the turn to bring it further.

    On a store that several services share, both are in its database: a row, and a lock that the server frees when a
    process dies. The one service of an SQLite store keeps them itself, and writes the number down now and then: what is
    taken over twice after a kill is taken over to the same effect.

    Args:
        store: whose.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = threading.Lock()
        self._known: int | None = None
        self._kept: int | None = None
        with store.read() as session:
            self._known = self._kept = _read(session)

    def now(self, session: Session) -> int | None:
        """Number of the last line that the index has."""
        return _read(session) if self._store.shared else self._known

    @contextlib.contextmanager
    def turn(self, *, loading: bool = False) -> Iterator[Turn]:
        """Alone among all services; the position that is set in the block counts when it ends without an error.

        Args:
            loading: whether to wait for somebody who takes minutes.

        Raises:
            OperationalError: somebody takes too long.
        """
        with self._shared(loading) if self._store.shared else self._own() as turn:
            yield turn

    def keep(self) -> None:
        """Write the number down, where that was not done."""
        with self._turn:
            if not self._store.shared and self._known != self._kept:
                with self._store.write() as session:
                    _write(session, self._known)
                self._kept = self._known

    @contextlib.contextmanager
    def _own(self) -> Iterator[Turn]:
        with self._turn:
            turn = Turn(self._known)
            yield turn
            self._known = turn.position

    @contextlib.contextmanager
    def _shared(self, loading: bool) -> Iterator[Turn]:
        """In a transaction that need not be on the disk: what is lost with the server is taken over again."""
        engine = self._store.engine.execution_options(takes_turns=False, isolation_level="READ COMMITTED")
        with Session(engine) as session, session.begin():
            session.execute(text("SET LOCAL synchronous_commit = off"))
            session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            session.execute(text(f"SET LOCAL lock_timeout = {_LOADING_MS if loading else _FOLLOWING_MS}"))
            session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})
            turn = Turn(_read(session))
            before = turn.position
            yield turn
            if turn.position != before:
                _write(session, turn.position)


def _read(session: Session) -> int | None:
    row = session.get(MetaRow, _POSITION)
    return None if row is None else int(row.value)


def _write(session: Session, position: int | None) -> None:
    session.merge(MetaRow(name=_POSITION, value=str(position).encode()))
