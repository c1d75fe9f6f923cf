"""The statements on one index's table. Vectors go in and out in PostgreSQL's binary formats."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import Cursor
from sqlalchemy import Connection, text

from facemargin.index.export import Portion
from facemargin.index.pgvector.connection import driver
from facemargin.index.pgvector.rows import BinaryVector, BinaryVectorDumper, packed, unpacked, unpacked_ids

Neighbour = tuple[int, float]
"""An id and its similarity."""


class Table:
    """A table (id bigint, vector halfvec); counts nothing and locks nothing.

    Args:
        name: with its schema, ready to be put into SQL.
        dim: length of the vectors.
    """

    def __init__(self, name: str, dim: int) -> None:
        self.name = name
        self._dim = dim

    def create(self, connection: Connection) -> None:
        """Make the table. Left to itself, VACUUM would spare its graph, deleted vectors and all, when they are few."""
        columns = f"id bigint PRIMARY KEY, vector halfvec({self._dim}) NOT NULL"
        connection.execute(text(f"CREATE TABLE {self.name} ({columns}) WITH (vacuum_index_cleanup = on)"))

    def write(self, connection: Connection, ids: NDArray[np.int64], vectors: NDArray[np.float16]) -> None:
        """Insert new rows."""
        statement = _sql(f"COPY {self.name} (id, vector) FROM STDIN (FORMAT BINARY)")
        with driver(connection).cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(packed(ids, vectors))

    def delete(self, connection: Connection, ids: NDArray[np.int64]) -> None:
        """Delete rows that are there."""
        connection.execute(
            text(f"DELETE FROM {self.name} WHERE id = ANY(CAST(:ids AS bigint[]))"), {"ids": ids.tolist()}
        )

    def first_known(self, connection: Connection, ids: NDArray[np.int64]) -> int | None:
        """The smallest of the ids that has a row."""
        statement = f"SELECT min(id) FROM {self.name} WHERE id = ANY(CAST(:ids AS bigint[]))"
        known: int | None = connection.scalar(text(statement), {"ids": ids.tolist()})
        return known

    def first_unknown(self, connection: Connection, ids: NDArray[np.int64]) -> int | None:
        """The smallest of the ids that has no row."""
        statement = (
            "SELECT min(wanted) FROM unnest(CAST(:ids AS bigint[])) AS wanted"
            f" WHERE NOT EXISTS (SELECT FROM {self.name} WHERE id = wanted)"
        )
        unknown: int | None = connection.scalar(text(statement), {"ids": ids.tolist()})
        return unknown

    def ids(self, connection: Connection) -> NDArray[np.int64]:
        """Every id, ascending."""
        return unpacked_ids(self._copied(connection, f"SELECT id FROM {self.name} ORDER BY id"))

    def read(self, connection: Connection, ids: NDArray[np.int64]) -> Portion:
        """Rows of ascending ids, ascending, as far as they are there."""
        if not len(ids):
            return ids, np.empty((0, self._dim), dtype=np.float32)
        wanted = ",".join(map(str, ids.tolist()))
        statement = f"SELECT id, vector FROM {self.name} WHERE id = ANY('{{{wanted}}}'::bigint[]) ORDER BY id"
        return unpacked(self._copied(connection, statement), self._dim)

    def nearest(
        self, connection: Connection, queries: NDArray[np.float16], k: int, settings: str
    ) -> Iterator[Sequence[Neighbour]]:
        """The k rows with the largest inner products for each query, or all where there are fewer; best first.

        A graph whose rows were mostly removed may give fewer than k. Then all rows are compared.

        Args:
            connection: in a transaction.
            queries: (Q, dim).
            k: at least 1.
            settings: SQL for this transaction, before the first search.
        """
        statement = f"SELECT id, -(vector <#> %(q)b::halfvec) FROM {self.name} ORDER BY (vector <#> %(q)b::halfvec)"
        graph, plain = f"{statement} LIMIT {k}", f"{statement} + 0 LIMIT {k}"  # a graph is of no use for a sum
        with driver(connection).cursor(binary=True) as cursor:
            cursor.adapters.register_dumper(BinaryVector, BinaryVectorDumper)
            cursor.execute(_sql(settings), binary=False)  # several statements go together as text only
            for query in queries:
                found = _rows(cursor, graph, BinaryVector.of(query))
                if len(found) < k:
                    found = _rows(cursor, plain, BinaryVector.of(query))
                yield sorted(found, key=lambda neighbour: -neighbour[1])

    def vacuum(self, connection: Connection, *, full: bool) -> None:
        """Take deleted rows out of table, key and graph.

        Args:
            connection: that commits by itself.
            full: write all of them anew, while nobody can read.
        """
        options = "FULL, ANALYZE" if full else "ANALYZE"
        connection.execute(text(f"VACUUM ({options}) {self.name}"))

    def _copied(self, connection: Connection, statement: str) -> bytes:
        whole = _sql(f"COPY ({statement}) TO STDOUT (FORMAT BINARY)")
        with driver(connection).cursor() as cursor, cursor.copy(whole) as copy:
            return b"".join(copy)


def _rows(cursor: Cursor[Any], statement: str, query: BinaryVector) -> list[Neighbour]:
    """Without a prepared plan: a general one would not know how little a small LIMIT asks for."""
    rows: list[Neighbour] = cursor.execute(_sql(statement), {"q": query}, prepare=False).fetchall()
    return rows


def _sql(statement: str) -> bytes:
    """As psycopg takes SQL that was put together from checked names."""
    return statement.encode()
