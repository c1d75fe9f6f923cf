"""What a search engine promises: any number of named indexes, in this process or outside of it."""

import re
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from facemargin.index.base import Index

if TYPE_CHECKING:
    import sqlalchemy

_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")


class SearchEngine(Protocol):
    """Holds any number of named indexes.

    Making an engine connects to nothing. A call that the engine outside does not answer raises `IndexUnavailableError`;
    the next call tries again.
    """

    @property
    def durable(self) -> bool:
        """Whether what it holds outlives this process; its indexes are `DurableIndex` then."""
        ...

    @property
    def place(self) -> str:
        """Where it is, the same for every URL that leads there; no secret is in it."""
        ...

    @property
    def plaintext(self) -> bool:
        """Whether vectors leave the memory of this process in the clear."""
        ...

    @property
    def transactional(self) -> bool:
        """Whether its indexes are in the store's database and can change in its transactions: `TransactionalIndex`."""
        ...

    def index(self, name: str, dim: int) -> Index:
        """Open an index; it is made where it is not there.

        Args:
            name: a letter, then at most 47 letters, digits and underscores, all lower case.
            dim: length of the vectors, at least 1; the same for every call with this name.

        Raises:
            ConfigError: the engine outside lacks what it needs.
            IndexingError: the index is there with another length.
            IndexUnavailableError: the engine does not answer.
            ValueError: a name or length that cannot be.
        """
        ...

    def names(self) -> frozenset[str]:
        """Names of all its indexes.

        Raises:
            IndexUnavailableError: the engine does not answer.
        """
        ...

    def drop(self, name: str) -> None:
        """Remove an index with everything in it; a name that is not there is no error.

        Raises:
            IndexUnavailableError: the engine does not answer.
        """
        ...

    def check(self) -> None:
        """Ask the engine for a sign of life.

        Raises:
            ConfigError: it answers, and lacks what is needed.
            IndexUnavailableError: it does not answer; the message says why.
        """
        ...

    def close(self) -> None:
        """Give back connections; the engine and its indexes are not used after that."""
        ...


class DurableIndex(Index, Protocol):
    """An index that outlives the process.

    Vectors are kept in float16 (`facemargin.index.half`). Besides the errors of `Index`, every call may raise
    `IndexUnavailableError` and, when the index was dropped meanwhile, `IndexDroppedError`.
    """

    def loading(self) -> AbstractContextManager[None]:
        """A block in which much is added: what makes searches fast may be built at its end, once for all of it.

        Searches in the meantime are right and slow. When the block raises or the process dies, what was added stays;
        another such block, or `tidy`, builds what is missing.
        """
        ...

    def tidy(self, *, thorough: bool = False) -> None:
        """Have the engine clear away what was removed; docs/engines.md says how far that goes, and how long it takes.

        Args:
            thorough: also what is only left as bytes in unused parts of files, though everybody waits for it.
        """
        ...


class TransactionalIndex(DurableIndex, Protocol):
    """An index in the same database as the store."""

    def within(self, connection: "sqlalchemy.Connection") -> "TransactionalIndex":
        """The same index, whose calls happen in the transaction of a connection and become seen when it commits.

        A call that raises an error of the index (a duplicate, unknown or wrong id) has changed nothing, and the
        transaction can go on.
        """
        ...


def checked_name(name: str) -> str:
    """Return ``name`` if an index can be called so.

    Raises:
        ValueError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"the name of an index is {name!r}; it must be a letter and at most 47 letters, digits and underscores, "
            "all lower case"
        )
    return name
