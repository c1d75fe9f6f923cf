"""The rows of one store to another, of whichever kind, checked as they arrive.

Row numbers, ids, ciphertexts and the chain of the audit log stay as they are, and so does the number that each table
would give next. What is only about services that are running is left out. So are the fillers, which the target makes
for itself, and the marks that each kind of database keeps for itself.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, delete, func, insert, select, text
from sqlalchemy import Table as SqlTable

from service.errors import StoreError
from service.store.meta import ALONE, COMPACTION
from service.store.tables import AUDIT_GIVEN, MetaRow, ReplicaRow, Table, TakenRow, filler

Progress = Callable[[str, int], None]
"""Is told the name of a table, and how many of its rows are copied."""

_AT_A_TIME: Final = 500
_LEFT_OUT: Final = (ReplicaRow.__tablename__, TakenRow.__tablename__)
_OWN_MARKS: Final = (AUDIT_GIVEN, ALONE, COMPACTION)
_FILLER: Final = "filler"
_AUDIT: Final = "audit"


@dataclass(frozen=True)
class _Content:
    """How many rows a table has, and the sum of their digests: the same in any order."""

    rows: int = 0
    digests: int = 0

    def with_row(self, values: tuple[Any, ...]) -> "_Content":
        digest = hashlib.sha256(repr(values).encode(errors="backslashreplace")).digest()
        return _Content(self.rows + 1, (self.digests + int.from_bytes(digest)) % (1 << 256))


def nobody(table: str, rows: int) -> None:
    """The `Progress` that nobody looks at."""


def copy_rows(source: Connection, target: Connection, progress: Progress = nobody) -> dict[str, int]:
    """Insert every row of a store into another that has the tables and no rows, and read them back.

    Args:
        source: in a transaction that sees one state.
        target: in a transaction, which the caller commits.
        progress: is told of it.

    Returns:
        the number of rows by table.

    Raises:
        StoreError: a value that the target cannot hold, or what is read back is not what was inserted.
    """
    counts = {}
    for table in _copied():
        sent = _insert_all(source, target, table, progress)
        if _content(target, table) != sent:
            raise StoreError(f"what arrived of the table {table.name} is not what was sent; nothing was changed")
        counts[table.name] = sent.rows
    _carry_numbers(source, target)
    return counts


def _copied() -> list[SqlTable]:
    return [table for table in Table.metadata.sorted_tables if table.name not in _LEFT_OUT]


def _insert_all(source: Connection, target: Connection, table: SqlTable, progress: Progress) -> _Content:
    sent, space = _Content(), filler(target.dialect.name)
    for rows in _batches(source, table):
        for row in rows:
            sent = sent.with_row(_values(row, table))
            if row.get(_FILLER) is not None:
                row[_FILLER] = space
        _insert(target, table, rows)
        progress(table.name, sent.rows)
    return sent


def _insert(target: Connection, table: SqlTable, rows: list[dict[str, Any]]) -> None:
    nul = [name for row in rows for name, value in row.items() if isinstance(value, str) and "\0" in value]
    if nul and target.dialect.name == "postgresql":
        raise StoreError(
            f"the column {nul[0]} of the table {table.name} holds a text with a NUL character, which PostgreSQL "
            "cannot hold; change it first"
        )
    target.execute(insert(table), rows)


def _batches(source: Connection, table: SqlTable) -> Iterator[list[dict[str, Any]]]:
    wanted = select(table)
    if table.name == "meta":
        wanted = wanted.where(table.c.name.not_in(_OWN_MARKS))
    elif table.name == _AUDIT:
        wanted = wanted.order_by(table.c.seq)  # the database takes them in their order only
    found = source.execute(wanted, execution_options={"yield_per": _AT_A_TIME})
    for rows in found.mappings().partitions(_AT_A_TIME):
        yield [dict(row) for row in rows]


def _content(connection: Connection, table: SqlTable) -> _Content:
    found = _Content()
    for rows in _batches(connection, table):
        for row in rows:
            found = found.with_row(_values(row, table))
    return found


def _values(row: dict[str, Any], table: SqlTable) -> tuple[Any, ...]:
    return tuple(row[column.name] for column in table.columns if column.name != _FILLER)


def _carry_numbers(source: Connection, target: Connection) -> None:
    """Let the target go on counting where the source would: no row number is ever given again."""
    for table in _copied():
        if table.dialect_options["sqlite"]["autoincrement"]:
            _SETTERS[target.dialect.name](target, table, _GETTERS[source.dialect.name](source, table))


def _of_sqlite(source: Connection, table: SqlTable) -> int:
    return source.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table.name}) or 0


def _of_postgres(source: Connection, table: SqlTable) -> int:
    if table.name == _AUDIT:
        return int(source.scalar(select(MetaRow.value).where(MetaRow.name == AUDIT_GIVEN)) or 0)
    last, called = source.execute(text(f"SELECT last_value, is_called FROM {_sequence(table)}")).one()
    return int(last) if called else 0


def _to_sqlite(target: Connection, table: SqlTable, last: int) -> None:
    given = {"name": table.name, "last": last}
    target.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), given)
    target.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), given)


def _to_postgres(target: Connection, table: SqlTable, last: int) -> None:
    if table.name != _AUDIT:
        target.execute(select(func.setval(_sequence(table), max(last, 1), last > 0)))
        return
    target.execute(delete(MetaRow).where(MetaRow.name == AUDIT_GIVEN))
    target.execute(insert(MetaRow).values(name=AUDIT_GIVEN, value=str(last).encode()))


_GETTERS: Final = {"sqlite": _of_sqlite, "postgresql": _of_postgres}
_SETTERS: Final = {"sqlite": _to_sqlite, "postgresql": _to_postgres}


def _sequence(table: SqlTable) -> str:
    (column,) = table.primary_key.columns
    return f"{table.name}_{column.name}_seq"
