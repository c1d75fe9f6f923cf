"""The connection to a Milvus: made when it is needed, with times that end, and errors told as those of an index.

pymilvus itself tries an unanswered call again until its time is over, on a new channel each time; so a connection that
was made once comes back with its server.
"""

import contextlib
import importlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from facemargin.errors import IndexDroppedError, IndexUnavailableError, MissingExtraError
from facemargin.index.milvus.address import MilvusAddress

CONNECT_S = 5.0
CALL_S = 10.0
"""Longest time of a call about vectors."""
BUILD_S = 600.0
"""Longest time of a call that flushes, compacts or loads a collection."""
_NOT_FOUND, _NOT_LOADED = 100, 101
_CHANNEL = {"grpc.use_local_subchannel_pool": 1, "grpc.max_reconnect_backoff_ms": 1000}
"""A new channel shares no waiting time with those that found the server away; else it would be noticed late."""


def load_pymilvus() -> Any:
    """The module ``pymilvus``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        library = importlib.import_module("pymilvus")
    except ModuleNotFoundError as error:
        raise MissingExtraError("the index milvus:", "milvus", "pymilvus") from error
    logging.getLogger("pymilvus").setLevel(
        logging.CRITICAL
    )  # it logs every error that it also raises, with a traceback
    return library


class NotLoadedError(IndexUnavailableError):
    """The server has the collection on its disk and not in its memory; it can be told to load it."""


class MilvusConnection:
    """One client for all threads.

    Args:
        address: of the server or file.

    Raises:
        MissingExtraError: pymilvus is not installed.
    """

    def __init__(self, address: MilvusAddress) -> None:
        self.library = load_pymilvus()
        self.address = address
        self._errors = self.library.exceptions
        self._rpc_error = importlib.import_module("grpc").RpcError
        self._client: Any = None
        self._making = threading.Lock()

    @contextmanager
    def client(self) -> Iterator[Any]:
        """The client, connected, in a block whose errors are those of an index.

        Raises:
            IndexDroppedError: the collection is not there.
            NotLoadedError: the collection is not in the server's memory.
            IndexUnavailableError: the server does not answer, or not as it should.
        """
        try:
            yield self._connected()
        except self._errors.MilvusException as error:
            if error.code == _NOT_FOUND:
                raise IndexDroppedError(f"the index has been dropped: {error.message}") from error
            if error.code == _NOT_LOADED:
                raise NotLoadedError(f"{self.address} has not loaded the index") from error
            raise self._unavailable(error.message) from error
        except self._rpc_error as error:
            raise self._unavailable(f"{error.code().name}: {error.details()}") from error

    def close(self) -> None:
        """Disconnect; a server in this process is stopped."""
        with self._making:
            if self._client is not None:
                self._client.close()
                self._client = None
        if self.address.is_file:
            with contextlib.suppress(ModuleNotFoundError):
                manager = importlib.import_module("milvus_lite.server_manager")
                manager.server_manager_instance.release_server(self.address.uri)

    def _connected(self) -> Any:
        with self._making:
            if self._client is None:
                self._client = self.library.MilvusClient(
                    self.address.uri,
                    token=self.address.token,
                    db_name=self.address.database,
                    timeout=CONNECT_S,
                    dedicated=True,
                    grpc_options=_CHANNEL,
                )
            return self._client

    def _unavailable(self, reason: object) -> IndexUnavailableError:
        text = " ".join(str(reason).split())
        if self.address.token:
            text = text.replace(self.address.token, "***")
        return IndexUnavailableError(f"{self.address} does not answer: {text}")
