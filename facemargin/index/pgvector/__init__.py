"""Indexes as tables of PostgreSQL, searched by pgvector. Needs SQLAlchemy and psycopg, so only `ENGINES` imports it."""

from facemargin.index.pgvector.engine import PgvectorEngine
from facemargin.index.pgvector.index import PgvectorIndex

__all__ = ["PgvectorEngine", "PgvectorIndex"]
