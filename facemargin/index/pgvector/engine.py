"""Indexes in a PostgreSQL database."""

from sqlalchemy import Engine, text

from facemargin.errors import IndexingError
from facemargin.index.base import checked_dim
from facemargin.index.engine import checked_name
from facemargin.index.hnsw import Hnsw
from facemargin.index.pgvector.connection import transaction
from facemargin.index.pgvector.graph import MOST_DIM
from facemargin.index.pgvector.index import PgvectorIndex
from facemargin.index.pgvector.schema import REGISTER, lock, prepare, table_of


class PgvectorEngine:
    """Tables in the schema ``facemargin_vectors``, made when the first of these calls finds the server.

    Args:
        database: with the driver psycopg, and without listeners that begin more than a transaction.
        hnsw: how indexes are built and searched.
    """

    durable = True
    place = "pgvector:"
    plaintext = True
    transactional = True

    def __init__(self, database: Engine, hnsw: Hnsw | None = None) -> None:
        self._database = database.execution_options(isolation_level="READ COMMITTED")
        self._hnsw = hnsw or Hnsw()
        self._ready = False

    def index(self, name: str, dim: int) -> PgvectorIndex:
        """Open an index; see `SearchEngine.index`. Its table is made in a transaction of its own."""
        if checked_dim(dim) > MOST_DIM:
            raise ValueError(f"dim is {dim}; pgvector searches vectors of at most {MOST_DIM} numbers")
        opened = PgvectorIndex(self._database, checked_name(name), dim, self._hnsw)
        self._prepare()
        held = self._dim(name) or self._created(opened)
        if held != dim:
            raise IndexingError(f"index {name!r} holds vectors of {held} numbers, not of {dim}")
        return opened

    def names(self) -> frozenset[str]:
        """Names of all indexes; see `SearchEngine.names`."""
        self._prepare()
        with transaction(self._database) as connection:
            return frozenset(connection.scalars(text(f"SELECT name FROM {REGISTER}")))

    def drop(self, name: str) -> None:
        """Remove an index; see `SearchEngine.drop`.

        Waits for transactions that have changed or searched it, but not for a VACUUM of minutes: that is
        `IndexUnavailableError` after two seconds.
        """
        self._prepare()
        with transaction(self._database) as connection:
            connection.execute(text("SET LOCAL lock_timeout = '2s'"))
            lock(connection)
            held = connection.scalar(text(f"DELETE FROM {REGISTER} WHERE name = :n RETURNING name"), {"n": name})
            if held is not None:
                connection.execute(text(f"DROP TABLE IF EXISTS {table_of(held)}"))

    def check(self) -> None:
        """Ask for a sign of life and for pgvector 0.8; see `SearchEngine.check`."""
        self._ready = False
        self._prepare()

    def close(self) -> None:
        """Nothing: the connections are of whoever gave the database."""

    def _prepare(self) -> None:
        if not self._ready:
            with transaction(self._database) as connection:
                prepare(connection)
            self._ready = True

    def _dim(self, name: str) -> int | None:
        with transaction(self._database) as connection:
            dim: int | None = connection.scalar(text(f"SELECT dim FROM {REGISTER} WHERE name = :n"), {"n": name})
            return dim

    def _created(self, index: PgvectorIndex) -> int:
        """Make an index unless somebody just has; the length of its vectors."""
        with transaction(self._database) as connection:
            lock(connection)
            statement = f"INSERT INTO {REGISTER} (name, dim) VALUES (:n, :dim) ON CONFLICT DO NOTHING RETURNING dim"
            if connection.scalar(text(statement), {"n": index.name, "dim": index.dim}) is not None:
                index.create(connection)
                return index.dim
        return self._dim(index.name) or 0
