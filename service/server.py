"""Running the application: the socket, the line that says where it listens, the end."""

import contextlib
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from facemargin.errors import ConfigError
from service.security import is_loopback

GRACE_SECONDS = 30
_BACKLOG = 2048


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
    """Uvicorn, saying when it is there."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._say_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._say_started()


def run(app: FastAPI, bound: socket.socket, *, started: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; what was accepted is finished first, for at most `GRACE_SECONDS`."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything is closed
        _Server(config, started).run(sockets=[bound])
