"""One table of PostgreSQL as an index."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, text

from facemargin.errors import DuplicateIdError, IndexDroppedError, UnknownIdError
from facemargin.index.base import (
    SearchResult,
    checked_ids,
    checked_k,
    checked_pairs,
    checked_vectors,
)
from facemargin.index.export import Portion, portions
from facemargin.index.half import halved
from facemargin.index.hnsw import Hnsw
from facemargin.index.pgvector.connection import answered, transaction
from facemargin.index.pgvector.graph import Graph
from facemargin.index.pgvector.schema import REGISTER, table_of
from facemargin.index.pgvector.table import Table


class PgvectorIndex:
    """A table of ids and halfvecs with an HNSW graph over them.

    Each call is a transaction of its own, or a part of somebody else's (`within`). Writers of one index take turns, in
    whatever processes they are: each holds the index's row in the register until its transaction ends.

    Args:
        database: where it is; begins transactions READ COMMITTED.
        name: checked.
        dim: length of the vectors.
        hnsw: how it is built and searched.
        connection: of a transaction that calls are a part of.
    """

    def __init__(self, database: Engine, name: str, dim: int, hnsw: Hnsw, connection: Connection | None = None) -> None:
        self.name = name
        self._database = database
        self._dim = dim
        self._hnsw = hnsw
        self._graph = Graph(name, hnsw)
        self._connection = connection
        self._table = Table(table_of(name), dim)

    def within(self, connection: Connection) -> "PgvectorIndex":
        """The same index, whose calls happen in the transaction of a connection and become seen when it commits.

        A call that raises an error of the index (a duplicate, unknown or wrong id) has changed nothing, and the
        transaction can go on.

        Args:
            connection: to the same database, in a transaction that is READ COMMITTED where it changes the index.
        """
        return PgvectorIndex(self._database, self.name, self._dim, self._hnsw, connection)

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._dim

    def __len__(self) -> int:
        """Number of vectors held; one row's read."""
        with self._transaction() as connection:
            return self._count(connection)

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors under new ids; see `Index.add`."""
        ids, vectors = checked_pairs(ids, vectors, self._dim)
        with self._changing(len(ids)) as connection:
            if (known := self._table.first_known(connection, ids)) is not None:
                raise DuplicateIdError(f"id {known} is already in the index")
            self._table.write(connection, ids, halved(vectors))

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Remove vectors by their ids; see `Index.remove`. What stays on the disk: docs/engines.md."""
        ids = checked_ids(ids, unique=True)
        with self._changing(-len(ids)) as connection:
            if (unknown := self._table.first_unknown(connection, ids)) is not None:
                raise UnknownIdError(f"id {unknown} is not in the index")
            self._table.delete(connection, ids)

    def search(self, queries: NDArray[np.float32], k: int) -> SearchResult:
        """Find the k largest inner products; see `Index.search`. Exact where the planner finds that faster."""
        queries, k = checked_vectors(queries, self._dim), checked_k(k)
        result = SearchResult(np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64))
        with self._transaction() as connection:
            nearest = self._table.nearest(connection, halved(queries), k, self._graph.settings(k))
            for row, found in enumerate(nearest):
                result.ids[row, : len(found)] = [number for number, _ in found]
                result.similarities[row, : len(found)] = [similarity for _, similarity in found]
        return result

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give back vectors by their ids; see `Index.vectors`."""
        ids = checked_ids(ids, unique=False)
        known, vectors = self._held(np.unique(ids))
        if len(unknown := np.setdiff1d(ids, known)):
            raise UnknownIdError(f"id {int(unknown[0])} is not in the index")
        return vectors[np.searchsorted(known, ids)]

    def ids(self) -> NDArray[np.int64]:
        """Every id; see `Index.ids`."""
        with self._transaction() as connection:
            return self._table.ids(connection)

    def export(self) -> Iterator[Portion]:
        """Give back everything in portions; see `Index.export`."""
        return portions(self.ids(), self._held)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """See `DurableIndex.loading`: the graph of an empty index is built at the end."""
        with self._transaction() as connection:
            if not self._count(connection, lock=True):
                self._graph.drop(connection)
        yield
        self.build()

    def build(self) -> None:
        """Build the graph where it is missing. Changes wait for it, or fail after the server's ``lock_timeout``."""
        with self._transaction() as connection:
            self._graph.build(connection)

    def tidy(self, *, thorough: bool = False) -> None:
        """See `DurableIndex.tidy`: VACUUM overwrites what was removed in the graph, VACUUM FULL in the table too."""
        self.build()
        with answered(), self._database.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            with self._graph.memory(connection):
                self._table.vacuum(connection, full=thorough)

    def create(self, connection: Connection) -> None:
        """Make the table, empty, and its graph."""
        self._table.create(connection)
        self._graph.build(connection)

    def _transaction(self) -> AbstractContextManager[Connection]:
        return transaction(self._database, self._connection)

    @contextmanager
    def _changing(self, more: int) -> Iterator[Connection]:
        """Let one writer in at a time, and count what it has added."""
        with self._transaction() as connection:
            self._count(connection, lock=True)
            yield connection
            statement = f"UPDATE {REGISTER} SET count = count + :more WHERE name = :name"
            connection.execute(text(statement), {"more": more, "name": self.name})

    def _count(self, connection: Connection, *, lock: bool = False) -> int:
        statement = f"SELECT count FROM {REGISTER} WHERE name = :name AND dim = :dim"
        statement += " FOR NO KEY UPDATE" if lock else ""
        count: int | None = connection.scalar(text(statement), {"name": self.name, "dim": self._dim})
        if count is None:
            raise IndexDroppedError(f"index {self.name!r} has been dropped")
        return count

    def _held(self, ids: NDArray[np.int64]) -> Portion:
        """Those of some ascending ids that are there, and their vectors."""
        with self._transaction() as connection:
            return self._table.read(connection, ids)
