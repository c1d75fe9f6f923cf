"""The tables. A change of them raises `SCHEMA_VERSION`, and a store of another version is refused by name.

Row numbers are int64 and never given again (AUTOINCREMENT), so that an index keyed by them cannot mistake a new face
for a deleted one. What clients see are random ids without meaning.
"""

import secrets
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import JSON, DateTime, ForeignKey, LargeBinary, MetaData, TypeDecorator
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

SCHEMA_VERSION = 1

_AUTOINCREMENT = {"sqlite_autoincrement": True}


def new_id(prefix: str) -> str:
    """A random id of 80 bits: ``prefix`` and 16 characters of base 32 in lower case, safe in a URL."""
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    return f"{prefix}_" + "".join(secrets.choice(alphabet) for _ in range(16))


def now() -> datetime:
    """The present time, UTC, to the millisecond."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone: SQLite keeps none, so it is stored as UTC and given back as UTC."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC without a zone."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Give back UTC with its zone."""
        return None if value is None else value.replace(tzinfo=UTC)


class Vector(TypeDecorator[NDArray[np.float32]]):
    """A float32 vector as little-endian bytes."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: NDArray[np.float32] | None, dialect: Dialect) -> bytes | None:
        """Store the bytes."""
        return None if value is None else value.astype("<f4").tobytes()

    def process_result_value(self, value: Any | None, dialect: Dialect) -> NDArray[np.float32] | None:
        """Give back the vector (a read-only view of the bytes)."""
        return None if value is None else np.frombuffer(value, dtype="<f4").astype(np.float32, copy=False)


class Table(DeclarativeBase):
    """Base of the tables."""

    metadata = MetaData()


class CollectionRow(Table):
    """A gallery, bound to one model."""

    __tablename__ = "collections"
    __table_args__ = _AUTOINCREMENT

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    model: Mapped[str]
    dim: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class PersonRow(Table):
    """Somebody in a collection."""

    __tablename__ = "people"
    __table_args__ = _AUTOINCREMENT

    id: Mapped[int] = mapped_column(primary_key=True)
    public_id: Mapped[str] = mapped_column(unique=True, default=lambda: new_id("p"))
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class FaceRow(Table):
    """One template of a person."""

    __tablename__ = "faces"
    __table_args__ = _AUTOINCREMENT

    id: Mapped[int] = mapped_column(primary_key=True)
    public_id: Mapped[str] = mapped_column(unique=True, default=lambda: new_id("f"))
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), index=True)
    model: Mapped[str]
    vector: Mapped[NDArray[np.float32]] = mapped_column(Vector)
    source: Mapped[str]
    quality: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    person: Mapped[PersonRow] = relationship(lazy="raise")


class ApiKeyRow(Table):
    """An API key: what identifies it, and the hash of its secret."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes]
    label: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ReplyRow(Table):
    """The reply to a write with an Idempotency-Key, kept to be given again.

    ``body`` is emptied when the person or collection it speaks of is deleted; the row stays, so that a late retry does
    not do the write again.
    """

    __tablename__ = "replies"

    caller: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes]
    status: Mapped[int]
    body: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    collection: Mapped[str | None] = mapped_column(index=True)
    person: Mapped[str | None] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, index=True)
