"""The tables, the same in SQLite and PostgreSQL. A change of them raises `SCHEMA_VERSION` and needs a migration.

Row numbers are int64 and never given again (AUTOINCREMENT, sequences), so that an index keyed by them cannot mistake a
new face for a deleted one. What clients see are random ids without meaning.

What must leave SQLite's file with its row stands behind a filler, at the end of the row. SQLite overwrites deleted rows
with zeros (``secure_delete``), but when it moves rows from one page to another it leaves a copy of them in the page
that they left, and of that copy a later deletion knows nothing. It moves the first part of a row only, at most a page
less 35 bytes; the rest lies in pages of its own, which stay where they are and are zeroed when they are given up. So
the filler is as long as that first part, and the pages are small. (SQLite's file format, "B-tree Cell Format".)
"""

import secrets
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DDL, JSON, BigInteger, DateTime, ForeignKey, Integer, MetaData, String, TypeDecorator, event
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

SCHEMA_VERSION = 3
PAGE_BYTES = 512
FILLER = bytes(PAGE_BYTES - 35)

RowNumber = BigInteger().with_variant(Integer, "sqlite")  # SQLite's INTEGER has 64 bits, and only it counts by itself

_PLAIN = String().with_variant(String(collation="C"), "postgresql")  # in the order of SQLite, whatever the locale

_AUTOINCREMENT = {"sqlite_autoincrement": True}
_WITHOUT_ROWID = {"sqlite_with_rowid": False}


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


class Table(DeclarativeBase):
    """Base of the tables."""

    metadata = MetaData()
    type_annotation_map = {int: RowNumber}  # noqa: RUF012 - read once, by the class statement


def filler(dialect: str) -> bytes:
    """What stands before the bytes of a row that must leave the file with it; PostgreSQL has no use for it."""
    return FILLER if dialect == "sqlite" else b""


def _filler(context: DefaultExecutionContext) -> bytes:
    return filler(context.dialect.name)


class MetaRow(Table):
    """Something about the store itself: its secret, and which master key it needs."""

    __tablename__ = "meta"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes]


class CollectionRow(Table):
    """A gallery, bound to one model; ``public_id`` tells it from every other of any time, in the audit log.

    ``sequence`` grows with every transaction that changes its templates. While a collection moves to another model,
    ``upgrade_model`` names that one; afterwards ``previous_model`` names the one it can go back to.
    """

    __tablename__ = "collections"
    __table_args__ = _AUTOINCREMENT

    id: Mapped[int] = mapped_column(primary_key=True)
    public_id: Mapped[str] = mapped_column(unique=True, default=lambda: new_id("c"))
    name: Mapped[str] = mapped_column(_PLAIN, unique=True)
    model: Mapped[str]
    dim: Mapped[int]
    keep_crops: Mapped[bool] = mapped_column(default=False)
    sequence: Mapped[int] = mapped_column(default=0)
    upgrade_model: Mapped[str | None]
    previous_model: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class PersonRow(Table):
    """Somebody in a collection; ``wrapped_key`` is the data key of an encrypted store, ``expires_at`` the end."""

    __tablename__ = "people"
    __table_args__ = _AUTOINCREMENT

    id: Mapped[int] = mapped_column(primary_key=True)
    public_id: Mapped[str] = mapped_column(unique=True, default=lambda: new_id("p"))
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"), index=True)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    filler: Mapped[bytes] = mapped_column(default=_filler, deferred=True)
    name: Mapped[str]
    wrapped_key: Mapped[bytes | None]


class FaceRow(Table):
    """An enrolled face; ``crop`` is the stored aligned crop (PNG, sealed) where the collection keeps crops.

    Only then is there a filler.
    """

    __tablename__ = "faces"
    __table_args__ = _AUTOINCREMENT

    id: Mapped[int] = mapped_column(primary_key=True)
    public_id: Mapped[str] = mapped_column(unique=True, default=lambda: new_id("f"))
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), index=True)
    source: Mapped[str]
    quality: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    crop_template: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    filler: Mapped[bytes | None] = mapped_column(deferred=True)
    crop: Mapped[bytes | None] = mapped_column(deferred=True)
    person: Mapped[PersonRow] = relationship(lazy="raise")


class TemplateRow(Table):
    """The vector of a face by one model, float32 little-endian, sealed; never changed once written."""

    __tablename__ = "templates"

    face_id: Mapped[int] = mapped_column(ForeignKey("faces.id", ondelete="CASCADE"), primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    filler: Mapped[bytes] = mapped_column(default=_filler, deferred=True)
    sealed: Mapped[bytes]


class ApiKeyRow(Table):
    """An API key: what identifies it, the hash of its secret, and its limits; None is no limit."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes]
    label: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(JSON)
    collections: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    requests_per_minute: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ReplyRow(Table):
    """The reply to a write with an Idempotency-Key, kept to be given again.

    It names nobody: ``key``, ``fingerprint`` and ``collection`` are keyed pseudonyms, and ``sealed``
    opens only with the Idempotency-Key itself. It is emptied when somebody it speaks of is deleted; the row stays, so
    that a late retry does not do the write again.
    """

    __tablename__ = "replies"

    key: Mapped[bytes] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes]
    status: Mapped[int]
    sealed: Mapped[bytes | None]
    collection: Mapped[str | None] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, index=True)


class MentionRow(Table):
    """A person or face, by a keyed pseudonym, that a reply speaks of."""

    __tablename__ = "reply_mentions"
    __table_args__ = _WITHOUT_ROWID

    pseudonym: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[bytes] = mapped_column(ForeignKey("replies.key", ondelete="CASCADE"), primary_key=True, index=True)


class AuditRow(Table):
    """A line of the audit log, chained to the one before it by its digest; never changed, never deleted."""

    __tablename__ = "audit"
    __table_args__ = _AUTOINCREMENT

    seq: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    event: Mapped[str]
    collection: Mapped[str]
    person: Mapped[str | None]
    face: Mapped[str | None]
    faces: Mapped[int]
    actor: Mapped[str]
    previous: Mapped[bytes]
    digest: Mapped[bytes]


class ChangeRow(Table):
    """What a write meant for a collection's index, for those who follow it from outside the write's transaction.

    Row numbers only, no personal data. ``rebuild`` stands for more than can be listed: the collection is gone, or is
    another model's now. `service.housekeeping` drops lines that every follower has had the time to read.
    """

    __tablename__ = "changes"
    __table_args__ = _AUTOINCREMENT

    seq: Mapped[int] = mapped_column(primary_key=True)
    collection: Mapped[int]
    removed: Mapped[list[int]] = mapped_column(JSON)
    added: Mapped[list[int]] = mapped_column(JSON)
    rebuild: Mapped[bool]
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, index=True)


class TakenRow(Table):
    """How many requests a rate limit has granted to somebody (a keyed pseudonym), by all services of the store."""

    __tablename__ = "taken"

    who: Mapped[str] = mapped_column(primary_key=True)
    taken: Mapped[int]
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, index=True)


class ReplicaRow(Table):
    """A service of the store: what must be alike in all of them, and when it was last there."""

    __tablename__ = "replicas"

    id: Mapped[str] = mapped_column(primary_key=True)
    described: Mapped[dict[str, Any]] = mapped_column(JSON)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


_APPEND_ONLY = {
    "audit_keeps": "BEFORE UPDATE ON audit",
    "audit_holds": "BEFORE DELETE ON audit",
    "audit_grows": "BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE seq >= NEW.seq)",  # also REPLACE
}
"""What the database itself refuses to do to the audit log, by the name of its trigger."""

AUDIT_GIVEN = "audit given"
"""Name of the `MetaRow` in which PostgreSQL counts the audit records; SQLite counts by itself."""

SQLITE_AUDIT = [
    f"CREATE TRIGGER {_name} {_when} BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
    for _name, _when in _APPEND_ONLY.items()
]
POSTGRES_AUDIT = [
    """CREATE FUNCTION audit_refuses() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
       RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'integrity_constraint_violation'; END $$""",
    """CREATE FUNCTION audit_counts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
       IF EXISTS (SELECT 1 FROM audit WHERE seq >= NEW.seq) THEN
         RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'integrity_constraint_violation'; END IF;
       INSERT INTO meta (name, value) VALUES ('audit given', convert_to(NEW.seq::text, 'UTF8'))
         ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value;
       RETURN NEW; END $$""",
    "CREATE TRIGGER audit_keeps BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_refuses()",
    "CREATE TRIGGER audit_holds BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_refuses()",
    "CREATE TRIGGER audit_grows BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION audit_counts()",
]

POSTGRES_VACUUM = [
    f"ALTER TABLE {_table} SET (autovacuum_vacuum_threshold=0, autovacuum_vacuum_scale_factor=0, "
    "toast.autovacuum_vacuum_threshold=0, toast.autovacuum_vacuum_scale_factor=0)"
    for _table in ("people", "faces", "templates", "replies")
]
"""Deleted rows with something about a person are vacuumed in the server's next round, however few they are."""

for _dialect, _statements in (("sqlite", SQLITE_AUDIT), ("postgresql", [*POSTGRES_AUDIT, *POSTGRES_VACUUM])):
    for _statement in _statements:
        _ddl = DDL(_statement).execute_if(dialect=_dialect)  # type: ignore[no-untyped-call]
        event.listen(Table.metadata, "after_create", _ddl)
