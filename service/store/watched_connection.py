"""A connection to PostgreSQL that does not wait for a server that hangs."""

import time
from collections.abc import Generator
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.waiting import Ready

_PATIENCE_S: Final = 15.0
_ANSWER_S: Final = 4


class WatchedConnection(psycopg.Connection[Any]):
    """A connection that asks, in a long silence, whether the server still answers anybody, and closes where not.

    A machine that vanished is noticed by TCP. One that stands still (processes that are stopped, a disk that hangs)
    goes on acknowledging what is sent to it, and a socket in the file system knows no time limits at all. How long a
    statement may take is unknown, so what is asked is a second connection.
    """

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for the end of an exchange with the server.

        Raises:
            OperationalError: the server was silent, and does not answer a new connection either.
        """
        return super().wait(self._watched(gen), interval, timeout)

    def _watched(self, exchange: Any) -> Generator[Any, Any, Any]:
        heard = time.monotonic()
        try:
            wanted = next(exchange)
            while True:
                ready = yield wanted
                if ready != Ready.NONE:
                    heard = time.monotonic()
                elif time.monotonic() - heard > _PATIENCE_S:
                    self._demand_answer()
                    heard = time.monotonic()
                wanted = exchange.send(ready)
        except StopIteration as ended:
            return ended.value

    def _demand_answer(self) -> None:
        """Any answer will do, also that there are too many connections, or that the server is about to stop."""
        here = self.info
        server = {"host": here.host, "hostaddr": here.hostaddr, "port": str(here.port), "password": here.password}
        known: Any = {name: value for name, value in server.items() if value}
        try:
            where = make_conninfo(here.dsn, **known, connect_timeout=_ANSWER_S, target_session_attrs="any")
            psycopg.connect(where).close()
        except psycopg.errors.ConnectionTimeout:
            self.pgconn.finish()
            raise psycopg.OperationalError("the server does not answer any more") from None
        except psycopg.OperationalError:
            return
