"""The HNSW graph of a table: a PostgreSQL index beside it."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

from facemargin.index.hnsw import Hnsw
from facemargin.index.pgvector.schema import SCHEMA, table_of

MOST_DIM = 4000
"""A graph on halfvec takes no longer vectors (pgvector's README, "HNSW")."""
_MOST_EF = 1000


class Graph:
    """The graph of one index.

    Args:
        name: of the index, checked.
        hnsw: how it is built and searched.
    """

    def __init__(self, name: str, hnsw: Hnsw) -> None:
        self._table = table_of(name)
        self._name = f'"{name}_hnsw"'
        self._hnsw = hnsw

    def build(self, connection: Connection) -> None:
        """Build it unless it is there, and have the planner know how large the table is."""
        there = connection.scalar(text("SELECT to_regclass(:name)"), {"name": f"{SCHEMA}.{self._name}"})
        if there is None:  # CREATE INDEX IF NOT EXISTS alone would wait for writers before it looks
            self._create(connection)
        connection.execute(text(f"ANALYZE {self._table}"))

    @contextmanager
    def memory(self, connection: Connection) -> Iterator[None]:
        """Let a connection that commits by itself have the memory for building in a block."""
        connection.execute(text(f"SET maintenance_work_mem = '{self._hnsw.build_memory_mb}MB'"))
        try:
            yield
        except BaseException:
            connection.invalidate()  # whoever had it next would have the memory too
            raise
        connection.execute(text("RESET maintenance_work_mem"))

    def drop(self, connection: Connection) -> None:
        """Take it away; searches are exact and slow without."""
        connection.execute(text(f"DROP INDEX IF EXISTS {SCHEMA}.{self._name}"))

    def _create(self, connection: Connection) -> None:
        options = f"m = {self._hnsw.m}, ef_construction = {self._hnsw.ef_construction}"
        statement = f"CREATE INDEX IF NOT EXISTS {self._name} ON {self._table} USING hnsw (vector halfvec_ip_ops)"
        connection.execute(text(f"SET LOCAL maintenance_work_mem = '{self._hnsw.build_memory_mb}MB'"))
        connection.execute(text(f"{statement} WITH ({options})"))

    def settings(self, k: int) -> str:
        """SQL before a search for k: settings of this transaction alone.

        Without compilation, which would take longer than a search. ``relaxed_order`` finds more of the true neighbours
        than ``strict_order`` when a scan goes on beyond its first candidates; the caller sorts them.
        """
        candidates = min(max(self._hnsw.ef_search, k), _MOST_EF)
        return (
            f"SET LOCAL jit = off; SET LOCAL hnsw.ef_search = {candidates};"
            " SET LOCAL hnsw.iterative_scan = relaxed_order; SET LOCAL hnsw.max_scan_tuples = 1000000;"
            " SET LOCAL hnsw.scan_mem_multiplier = 4"
        )
