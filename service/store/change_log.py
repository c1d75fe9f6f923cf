"""The log of what writes mean for indexes that follow from outside their transactions.

Lines are written in the transaction of the write, in its turn, so their numbers grow in the order of the commits and a
reader that has seen one has seen all before it. They hold row numbers only. `drop_old_changes` notes how far it went,
so that a follower knows whether lines that it has not read are gone. All moments are the database's, since the clocks
of the services' machines need not agree.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service.store.clock import moment
from service.store.tables import ChangeRow, MetaRow

_DROPPED = "changes dropped"
MOST_AT_A_TIME = 10_000
_COLUMNS = ChangeRow.collection, ChangeRow.removed, ChangeRow.added, ChangeRow.rebuild, ChangeRow.seq, ChangeRow.at


class LoggedChange(NamedTuple):
    """What a write meant for the index of one collection.

    Attributes:
        collection: row number.
        removed: ids of entries that went or were changed.
        added: ids of entries that came or were changed.
        rebuild: whether the index is another from now on (another model's), or none (the collection is gone).
        seq: number of the line; 0 as long as it has none.
        at: when it was written; None as long as it was not.
    """

    collection: int
    removed: Sequence[int] = ()
    added: Sequence[int] = ()
    rebuild: bool = False
    seq: int = 0
    at: datetime | None = None


def log_changes(session: Session, changes: Iterable[LoggedChange]) -> list[int]:
    """Write lines in the transaction of a write; their numbers, in order."""
    at = moment(session)
    rows = [
        ChangeRow(collection=each.collection, removed=[*each.removed], added=[*each.added], rebuild=each.rebuild, at=at)
        for each in changes
    ]
    session.add_all(rows)
    session.flush()
    return [row.seq for row in rows]


def changes_after(
    session: Session, seq: int, *, at: datetime | None = None, limit: int = MOST_AT_A_TIME
) -> list[LoggedChange] | None:
    """The lines after a number, in order, at most ``limit``; None where not all of them are there any more.

    A number that was never given counts as one whose lines are gone: the database is another, or an older copy. So
    does one whose line was written at another moment than ``at``: an older copy gives the same numbers again.
    """
    wanted = select(*_COLUMNS).where(ChangeRow.seq >= seq).order_by(ChangeRow.seq).limit(limit + 1)
    lines = [LoggedChange(*row) for row in session.execute(wanted)]
    if lines and lines[0].seq == seq:
        return lines[1:] if at is None or at == lines[0].at else None
    return lines[:limit] if seq == _dropped(session) else None


def last_change(session: Session) -> int:
    """Number of the last line that was written; 0 where none was. What a reader of this state has seen."""
    return max(session.scalar(select(func.max(ChangeRow.seq))) or 0, _dropped(session))


def written_at(session: Session, seq: int) -> datetime | None:
    """When a line was written; None where it is not there any more."""
    return session.scalar(select(ChangeRow.at).where(ChangeRow.seq == seq))


def drop_old_changes(session: Session, *, before: datetime) -> int:
    """Drop lines written before a moment; how many."""
    newest = session.scalar(select(func.max(ChangeRow.seq)).where(ChangeRow.at < before))
    if newest is None:
        return 0
    gone = session.execute(delete(ChangeRow).where(ChangeRow.seq <= newest).returning(ChangeRow.seq)).all()
    session.merge(MetaRow(name=_DROPPED, value=str(newest).encode()))
    return len(gone)


def has_old_changes(session: Session, *, before: datetime) -> bool:
    """Whether `drop_old_changes` would find any."""
    return session.scalar(select(ChangeRow.seq).where(ChangeRow.at < before).limit(1)) is not None


def _dropped(session: Session) -> int:
    """Number of the last line that was dropped; 0 where none was."""
    found = session.get(MetaRow, _DROPPED)
    return int(found.value) if found is not None else 0
