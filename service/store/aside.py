"""Ways beside the transactions of a shared store: for what is asked all the time, and for figures that may be lost."""

import contextlib
from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.store.database import Store


@contextlib.contextmanager
def aside(store: Store) -> Iterator[Session]:
    """A session beside the writers of a PostgreSQL store; what it commits may be lost if the server is killed.

    Raises:
        OperationalError: the database does not answer, or somebody holds the same rows for more than half a second.
    """
    engine = store.engine.execution_options(takes_turns=False)
    with Session(engine) as session, session.begin():
        session.execute(text("SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '500ms'"))
        yield session


@contextlib.contextmanager
def glance(store: Store) -> Iterator[Session]:
    """A session to read in, each of whose statements sees the state of its own moment: nothing is begun or ended.

    Raises:
        OperationalError: the database does not answer.
    """
    if not store.shared:  # a file, of which a transaction costs nothing
        with store.read() as session:
            yield session
        return
    with Session(store.engine.execution_options(takes_turns=False, isolation_level="AUTOCOMMIT")) as session:
        yield session
