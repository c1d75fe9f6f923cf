"""The two clients: each can send a request and wait; everything else they share."""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import SecretStr

from facemargin.client.exchange import Answer, Hold, Manner, Pause, exchange
from facemargin.client.operation import Awaiting, Blocking, Call
from facemargin.client.operations import Operations
from facemargin.client.retrying import Retries

T = TypeVar("T")
_DEFAULT_URL = "http://127.0.0.1:8000"
_DEFAULT_RETRIES = Retries()


class _Connection:
    """Where a client sends, and how."""

    def __init__(
        self, url: str, key: str | None, *, timeout: float, connect_timeout: float, retries: Retries | None
    ) -> None:
        self.url = _checked(url)
        self._key = SecretStr(key) if key is not None else None
        self._manner = Manner(timeout, connect_timeout, retries, time.monotonic)
        self._hold = Hold()

    def __repr__(self) -> str:
        """The address, and not the key."""
        return f"{type(self).__name__}({self.url!r})"

    def _options(self) -> dict[str, Any]:
        key = {} if self._key is None else {"Authorization": f"Bearer {self._key.get_secret_value()}"}
        return {"base_url": self.url, "headers": key, "trust_env": not _is_loopback(self.url)}


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ValueError(f"url is not an address: {error}") from error
    if parsed.userinfo:
        raise ValueError("url holds a user or a password; give the API key as `key`")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"url is {url!r}; it must begin with http:// or https:// and name a host")
    return url.rstrip("/")


def _is_loopback(url: str) -> bool:
    """Whether an address is this machine's: no proxy of the environment is asked then."""
    host = httpx.URL(url).host
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Client(_Connection, Operations, Blocking):
    """A client whose calls answer; may be used by several threads at once.

    Args:
        url: of the service, without ``/v1``.
        key: API key; none for a service without keys on this machine.
        timeout: longest wait, in seconds, for one step of the network, such as the first byte of an answer.
        connect_timeout: longest wait for a connection.
        retries: how calls are tried again, and until when; None sends each once.
        transport: what carries the requests, such as ``httpx.HTTPTransport(verify=...)`` for an own TLS certificate.
        sleep: waits between tries; a program that wants to stop a waiting call may raise from it.

    Raises:
        ValueError: the address cannot be used.

    Example:
        >>> from facemargin.client import Client
        >>> Client("http://127.0.0.1:8000", key="fm_1234_secret")
        Client('http://127.0.0.1:8000')
    """

    def __init__(
        self,
        url: str = _DEFAULT_URL,
        key: str | None = None,
        *,
        timeout: float = 30.0,
        connect_timeout: float = 5.0,
        retries: Retries | None = _DEFAULT_RETRIES,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(url, key, timeout=timeout, connect_timeout=connect_timeout, retries=retries)
        self._sleep = sleep
        self._http = httpx.Client(transport=transport, **self._options())

    def _perform(self, make: Callable[[], Call[T]]) -> T:
        steps = exchange(make(), self._manner, self._hold)
        answer: Answer = None
        try:
            while True:
                step = steps.send(answer)
                if isinstance(step, Pause):
                    self._sleep(step.seconds)
                    answer = None
                else:
                    answer = self._send(step.arguments)
        except StopIteration as done:
            reply: T = done.value
            return reply

    def _send(self, arguments: dict[str, Any]) -> httpx.Response | httpx.RequestError:
        try:
            return self._http.request(**arguments)
        except httpx.RequestError as error:
            return error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        """The client, closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()


class AsyncClient(_Connection, Operations, Awaiting):
    """A client whose calls are awaited (asyncio). Arguments as of `Client`.

    Files are read and pictures encoded in a thread, so the event loop goes on meanwhile.
    """

    def __init__(
        self,
        url: str = _DEFAULT_URL,
        key: str | None = None,
        *,
        timeout: float = 30.0,
        connect_timeout: float = 5.0,
        retries: Retries | None = _DEFAULT_RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Coroutine[Any, Any, object]] = asyncio.sleep,
    ) -> None:
        super().__init__(url, key, timeout=timeout, connect_timeout=connect_timeout, retries=retries)
        self._sleep = sleep
        self._http = httpx.AsyncClient(transport=transport, **self._options())

    async def _perform(self, make: Callable[[], Call[T]]) -> T:
        steps = exchange(await asyncio.to_thread(make), self._manner, self._hold)
        answer: Answer = None
        try:
            while True:
                step = steps.send(answer)
                if isinstance(step, Pause):
                    await self._sleep(step.seconds)
                    answer = None
                else:
                    answer = await self._send(step.arguments)
        except StopIteration as done:
            reply: T = done.value
            return reply

    async def _send(self, arguments: dict[str, Any]) -> httpx.Response | httpx.RequestError:
        try:
            return await self._http.request(**arguments)
        except httpx.RequestError as error:
            return error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """The client, closed at the end of the block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.close()
