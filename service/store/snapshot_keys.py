"""The keys of index snapshots: one random key per collection, which opens one file and no other.

The key lives in the database and the snapshot beside it, so the transaction that takes somebody's templates away takes
the key too: from its commit on, the file opens for nobody. A database put back from a backup knows the keys of its own
time, so it cannot be given a snapshot of another history.
"""

import os

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.errors import StoreError
from service.store.tables import MetaRow
from service.store.vault import KEY_BYTES, seal, unseal, vault_of

_PREFIX = "snapshot "
_PURPOSE = "snapshot keys"


def new_snapshot_key() -> bytes:
    """A random key for one file."""
    return os.urandom(KEY_BYTES)


def keep_snapshot_key(session: Session, collection: int, key: bytes) -> None:
    """Store the key of a collection's snapshot in place of the one before."""
    sealed = seal(vault_of(session).derive(_PURPOSE), key, _name(collection))
    session.merge(MetaRow(name=_name(collection), value=sealed))


def find_snapshot_key(session: Session, collection: int) -> bytes | None:
    """The key of a collection's snapshot; None where there is none, or none that this store made."""
    row = session.get(MetaRow, _name(collection))
    if row is None:
        return None
    try:
        return unseal(vault_of(session).derive(_PURPOSE), row.value, _name(collection))
    except StoreError:
        return None


def drop_snapshot_key(session: Session, collection: int) -> None:
    """Destroy the key: whoever takes templates of a collection away must do so in the same transaction."""
    session.execute(delete(MetaRow).where(MetaRow.name == _name(collection)))


def collections_with_snapshot_key(session: Session) -> set[int]:
    """Row numbers of the collections whose snapshot can be opened."""
    names = session.scalars(select(MetaRow.name).where(MetaRow.name.startswith(_PREFIX)))
    return {int(name.removeprefix(_PREFIX)) for name in names}


def _name(collection: int) -> str:
    return f"{_PREFIX}{collection}"
