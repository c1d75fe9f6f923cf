"""Search engines by URL."""

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from facemargin.errors import ConfigError
from facemargin.index.engine import SearchEngine
from facemargin.index.hnsw import Hnsw
from facemargin.index.kinds import INDEXES
from facemargin.index.memory_engine import MemoryEngine

if TYPE_CHECKING:
    import sqlalchemy

DEFAULT_KIND = "segmented"
MILVUS_TOKEN = "FACEMARGIN_MILVUS_TOKEN"
"""Environment variable of the password or token for ``milvus://``."""
EngineMaker = Callable[[str, "sqlalchemy.Engine | None"], SearchEngine]
"""Makes an engine of what follows the scheme and its colon, and of the store's database where there is one."""


def open_engine(url: str, *, database: "sqlalchemy.Engine | None" = None) -> SearchEngine:
    """Make an engine; it connects to nothing until it is asked something.

    Args:
        url: ``faiss:`` or ``faiss:KIND`` (a key of `INDEXES`), ``pgvector:``, ``milvus://host:port/database``,
            ``milvus+tls://host:port/database``, ``milvus:PATH.db``; the last four may end in ``?ef_search=400`` and
            the other options of `Hnsw`.
        database: the store's PostgreSQL, for ``pgvector:``.

    Raises:
        ConfigError: an unknown scheme, a URL that it cannot be, or a package that is missing.
    """
    scheme = scheme_of(url)
    return ENGINES[scheme](url.removeprefix(f"{scheme}:"), database)


def scheme_of(url: str) -> str:
    """The key of `ENGINES` that a URL begins with.

    Raises:
        ConfigError: there is none.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or scheme not in ENGINES:
        known = ", ".join(f"{name}:" for name in sorted(ENGINES))
        raise ConfigError(f"the index {shown(url)!r} names no engine; begin with one of {known}")
    return scheme


def shown(url: str) -> str:
    """A URL as messages show it, without what may be a password."""
    before, at, place = url.rpartition("@")
    return f"{before.partition('//')[0]}//***@{place}" if at and "//" in before else place


def _memory(rest: str, database: "sqlalchemy.Engine | None") -> SearchEngine:
    kind = rest or DEFAULT_KIND
    if kind not in INDEXES:
        known = ", ".join(f"faiss:{name}" for name in sorted(INDEXES))
        raise ConfigError(f"the index 'faiss:{kind}' is unknown; it may be {known}")
    return MemoryEngine(kind)


def _pgvector(rest: str, database: "sqlalchemy.Engine | None") -> SearchEngine:
    if database is None:
        raise ConfigError("the index 'pgvector:' is in the store's database; it needs a store on PostgreSQL")
    nothing, _, query = rest.partition("?")
    if nothing:
        raise ConfigError(
            f"the index 'pgvector:{nothing}' names something; write pgvector:, or pgvector:?ef_search=400"
        )
    from facemargin.index.pgvector import PgvectorEngine

    return PgvectorEngine(database, Hnsw.parse(query))


def _milvus(rest: str, database: "sqlalchemy.Engine | None", *, tls: bool = False) -> SearchEngine:
    from facemargin.index.milvus import MilvusAddress, MilvusEngine

    place, _, query = rest.partition("?")
    address = MilvusAddress.parse(place, secret=os.environ.get(MILVUS_TOKEN, ""), tls=tls)
    return MilvusEngine(address, Hnsw.parse(query))


ENGINES: dict[str, EngineMaker] = {
    "faiss": _memory,
    "pgvector": _pgvector,
    "milvus": _milvus,
    "milvus+tls": partial(_milvus, tls=True),
}
