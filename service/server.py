"""Running the application: the socket, who comes in by it, the line that says where it listens, the end."""

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

from facemargin.errors import ConfigError
from service.connections import Room, guarded
from service.memory import return_freed_memory, share_one_store
from service.security import is_loopback

log = logging.getLogger("facemargin.service")

GRACE_SECONDS = 30
_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 15
_AT_A_TIME = 64
"""Connections taken in one turn of the event loop, so that those who are in get theirs."""

_REST_SECONDS = 1.0
"""Until the next try to take a connection when the system has no files or memory for it."""

_SWITCH_SECONDS = 0.0002
"""How long a thread of Python may keep the others from running Python. With the default of 5 ms, a thread that comes
out of the network waits for whole turns of the event loop while its core does nothing."""

_TIDY_SECONDS = 5.0
"""Between two times that freed memory is returned."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_OTHER_FILES = 512
"""Open files beside connections: the database's connections have three each."""


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to a host and port; port 0 lets the system choose.

    Raises:
        ConfigError: the address is unknown or taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(_BACKLOG)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return bound


def address_of(bound: socket.socket) -> str:
    """The http address of a socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def demand_key_beyond_loopback(host: str, active_keys: int) -> None:
    """Pass if the service may listen on a host.

    Raises:
        ConfigError: other machines could reach it, and it has no key.
    """
    if not is_loopback(host) and active_keys == 0:
        raise ConfigError(
            f"--host {host} would open the service to other machines, and its store has no valid API key; "
            "make one with `facemargin keys add --store DIR --scope admin`, or use --host 127.0.0.1"
        )


class _Server(uvicorn.Server):
    """Uvicorn, with an own way in, and saying when it is there.

    uvloop takes one new connection in a turn of its loop. Under load a turn is long, so new connections would wait for
    seconds while kept ones are answered at once.
    """

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._say_started = started
        self._arriving: set[asyncio.Task[Any]] = set()
        self._resting: asyncio.TimerHandle | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup([])
        for bound in sockets or []:
            bound.setblocking(False)
            bound.listen(_BACKLOG)
            self._open(bound)
        self._tidying = asyncio.get_running_loop().create_task(_tidy())
        self._say_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nobody any more, and let those who are in finish."""
        self._tidying.cancel()
        if self._resting is not None:
            self._resting.cancel()
        for bound in sockets or []:
            asyncio.get_running_loop().remove_reader(bound)
        await asyncio.gather(*self._arriving, return_exceptions=True)
        await super().shutdown(sockets)

    def _open(self, bound: socket.socket) -> None:
        self._resting = None
        asyncio.get_running_loop().add_reader(bound, self._take, bound)

    def _take(self, bound: socket.socket) -> None:
        """Take in who is at the door."""
        for _ in range(_AT_A_TIME):
            try:
                connection, _address = bound.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._rest(bound)
                return
            self._let_in(connection)

    def _rest(self, bound: socket.socket) -> None:
        log.warning("no files or memory for new connections; trying again in %g s", _REST_SECONDS)
        loop = asyncio.get_running_loop()
        loop.remove_reader(bound)
        self._resting = loop.call_later(_REST_SECONDS, self._open, bound)

    def _let_in(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
        self._arriving.add(task)
        task.add_done_callback(self._arrived)

    def _arrived(self, task: "asyncio.Task[Any]") -> None:
        self._arriving.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:  # it went before it was in
            log.debug("a connection was lost on arrival: %s", error)

    def _protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


async def _tidy() -> None:
    while True:
        await asyncio.sleep(_TIDY_SECONDS)
        await asyncio.to_thread(return_freed_memory)


def run(app: FastAPI, bound: socket.socket, *, started: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; what was accepted is finished first, for at most `GRACE_SECONDS`."""
    settings = app.state.service.settings
    share_one_store()
    sys.setswitchinterval(_SWITCH_SECONDS)
    _allow_files(settings.max_connections + _OTHER_FILES)
    config = uvicorn.Config(
        app,
        http=guarded(Room(settings.max_connections, settings.head_seconds)),
        ws="none",
        lifespan="on",  # "auto" would serve on after a start that failed
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything is closed
        _Server(config, started).run(sockets=[bound])


def _allow_files(wanted: int) -> None:
    """Raise the soft limit of open files as far as needed and permitted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        permitted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (permitted, hard))
