"""What several services of one store, and indexes outside of it, need: a log of changes, shared limits, each other.

And, in PostgreSQL, that deleted rows about people are vacuumed soon.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_VACUUM = (
    "autovacuum_vacuum_threshold=0, autovacuum_vacuum_scale_factor=0, "
    "toast.autovacuum_vacuum_threshold=0, toast.autovacuum_vacuum_scale_factor=0"
)


def upgrade() -> None:
    """Add the three tables, and say when those about people are vacuumed."""
    op.create_table(
        "changes",
        sa.Column("seq", _NUMBER, nullable=False),
        sa.Column("collection", _NUMBER, nullable=False),
        sa.Column("removed", sa.JSON(), nullable=False),
        sa.Column("added", sa.JSON(), nullable=False),
        sa.Column("rebuild", sa.Boolean(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_changes_at"), "changes", ["at"], unique=False)
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("described", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("seen_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "taken",
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("taken", _NUMBER, nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("who"),
    )
    op.create_index(op.f("ix_taken_at"), "taken", ["at"], unique=False)
    if op.get_bind().dialect.name == "postgresql":
        for table in ("people", "faces", "templates", "replies"):
            op.execute(f"ALTER TABLE {table} SET ({_VACUUM})")
