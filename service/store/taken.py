"""What the rate limits of all services of a store have granted: one growing number for each who asks."""

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.store.clock import database_time
from service.store.tables import TakenRow


def add_taken(session: Session, granted: Mapping[str, int]) -> None:
    """Add what was granted to each; always in the same order, so that no two services wait for each other."""
    if not granted:
        return
    rows = [{"who": who, "taken": count, "at": database_time()} for who, count in sorted(granted.items())]
    added = insert(TakenRow).values(rows)
    summed = {"taken": TakenRow.taken + added.excluded.taken, "at": added.excluded.at}
    session.execute(added.on_conflict_do_update(index_elements=[TakenRow.who], set_=summed))


def taken(session: Session, *, within_s: float | None = None) -> dict[str, int]:
    """What each was granted in all, of those who were granted something within so many seconds, or ever."""
    wanted = select(TakenRow.who, TakenRow.taken)
    if within_s is not None:
        wanted = wanted.where(TakenRow.at > database_time() - timedelta(seconds=within_s))
    return {row.who: row.taken for row in session.execute(wanted)}


def drop_idle(session: Session, *, after: timedelta) -> None:
    """Forget who was granted nothing for so long."""
    session.execute(delete(TakenRow).where(TakenRow.at < database_time() - after))
