"""What a store knows of itself: its secret, the master key that it needs, and whether it is to be compacted."""

import os

from sqlalchemy import Connection, delete, insert
from sqlalchemy.orm import Session

from service.errors import StoreError
from service.store.tables import MetaRow
from service.store.vault import KEY_BYTES, Vault, master_key_id, seal, subkey, unseal

SECRET = "secret"
MASTER_KEY = "master key"
COMPACTION = "compaction due"
ALONE = "had alone"
_SECRET_CONTEXT = "secret of the store"


def opened_vault(session: Session, master: bytes | None, called: str) -> Vault:
    """The vault of a store, which errors call ``called``; the first time, its secret is made.

    Raises:
        StoreError: the store is encrypted and the key is missing or another one; or it is not, and a key is given.
    """
    stored = session.get(MetaRow, SECRET)
    if stored is None:
        return _first(session, master)
    needed = needed_master_key(session)
    if needed is None:
        if master is not None:
            raise StoreError(
                f"the store {called} is not encrypted, and a master key is set; encrypt it with "
                "`facemargin encryption enable`, or start without the key"
            )
        return Vault(stored.value, None)
    if master is None:
        raise StoreError(
            f"the store {called} is encrypted; set FACEMARGIN_MASTER_KEY_FILE (or FACEMARGIN_MASTER_KEY) to its key"
        )
    if master_key_id(master) != needed:
        raise StoreError(f"the store {called} is encrypted with another master key than the one that is set")
    return Vault(unseal(subkey(master, SECRET), stored.value, _SECRET_CONTEXT), master)


def keep_secret(session: Session, secret: bytes, master: bytes | None) -> None:
    """Write the secret, sealed where there is a master key, and which key that is, if any."""
    sealed = secret if master is None else seal(subkey(master, SECRET), secret, _SECRET_CONTEXT)
    session.merge(MetaRow(name=SECRET, value=sealed))
    if master is not None:
        session.merge(MetaRow(name=MASTER_KEY, value=master_key_id(master)))
    elif (needed := session.get(MetaRow, MASTER_KEY)) is not None:
        session.delete(needed)


def needed_master_key(session: Session) -> bytes | None:
    """The id (`master_key_id`) of the master key that a store needs; None where it is not encrypted."""
    row = session.get(MetaRow, MASTER_KEY)
    return row.value if row is not None else None


def ask_for_compaction(session: Session) -> None:
    """Note that rows of before are to be removed from the file (`Store.compact`)."""
    session.merge(MetaRow(name=COMPACTION, value=b""))


def compaction_is_due(session: Session) -> bool:
    """Whether the file may hold rows of before a change of its encryption."""
    return session.get(MetaRow, COMPACTION) is not None


def compaction_is_done(session: Session) -> None:
    """Forget `ask_for_compaction`."""
    session.execute(delete(MetaRow).where(MetaRow.name == COMPACTION))


def note_alone(connection: Connection) -> None:
    """Leave the mark of who has the store alone: services that find another than before must start anew."""
    connection.execute(delete(MetaRow).where(MetaRow.name == ALONE))
    connection.execute(insert(MetaRow).values(name=ALONE, value=os.urandom(8)))


def _first(session: Session, master: bytes | None) -> Vault:
    secret = os.urandom(KEY_BYTES)
    keep_secret(session, secret, master)
    return Vault(secret, master)
