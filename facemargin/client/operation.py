"""One definition of a call, for both clients.

A call is defined once, as a function that turns arguments into `Parts`, with its route and the type of its reply.
`Operation` makes a method of it: on a `Client` it answers, on an `AsyncClient` it is awaited; both are typed.
"""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from facemargin.client.errors import UnexpectedReply

P = ParamSpec("P")
T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)
Parse = Callable[[httpx.Response], T]


@dataclass(frozen=True)
class Parts:
    """What the arguments of a call come to.

    Attributes:
        path: values of the route's parameters.
        query: of the URL; None is left out.
        images: files of a form by the name of the part; with any, `fields` are the form's, otherwise a JSON body's.
        fields: of the body (`given` leaves out what is None); no mapping at all is no body.
        idempotency_key: of a write; made up where it is None.
    """

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str | int | None] = field(default_factory=dict)
    images: Sequence[tuple[str, bytes]] = ()
    fields: Mapping[str, Any] | None = None
    idempotency_key: str | None = None


def given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request ready to be sent, and how its reply is read.

    Attributes:
        method: HTTP method.
        path: of the URL, quoted.
        parts: query and body.
        writes: whether it changes anything and so carries an Idempotency-Key.
        parse: makes the reply of a successful response.
    """

    method: str
    path: str
    parts: Parts
    writes: bool
    parse: Parse[T]


class Blocking(ABC):
    """A client whose calls answer."""

    @abstractmethod
    def _perform(self, make: Callable[[], Call[T]]) -> T: ...


class Awaiting(ABC):
    """A client whose calls are awaited."""

    @abstractmethod
    def _perform(self, make: Callable[[], Call[T]]) -> Coroutine[Any, Any, T]: ...


class Operation(Generic[P, T]):
    """A call of the service, as a method of both clients.

    Args:
        build: turns the arguments into the parts of the request.
        method: HTTP method.
        route: path of the OpenAPI document, with its parameters in braces.
        parse: reads the reply.
        writes: whether it takes an Idempotency-Key.
        reply: type of the reply, for the signature that `help` shows.
    """

    def __init__(
        self, build: Callable[P, Parts], *, method: str, route: str, parse: Parse[T], writes: bool, reply: Any
    ) -> None:
        self._build = build
        self.method = method
        self.route = route
        self.writes = writes
        self._parse = parse
        self.__doc__ = build.__doc__
        self.signature = inspect.signature(build).replace(return_annotation=reply)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """The request that these arguments make; nothing is sent."""
        parts = self._build(*args, **kwargs)
        path = self.route
        for name, value in parts.path.items():
            path = path.replace(f"{{{name}}}", _segment(name, value))
        return Call(self.method, path, parts, self.writes, self._parse)

    @overload
    def __get__(self, client: None, owner: type) -> "Operation[P, T]": ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Blocking | Awaiting | None, owner: type) -> Any:
        """The method of a client; of the class, the operation itself."""
        if client is None:
            return self
        perform = client._perform

        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return perform(lambda: self.call(*args, **kwargs))

        functools.update_wrapper(method, self._build)
        method.__signature__ = self.signature  # type: ignore[attr-defined]
        return method


def _segment(name: str, value: str) -> str:
    """One segment of a path: nothing in a name can lead to another route."""
    if value in ("", ".", ".."):
        raise ValueError(f"{name} is {value!r}; that is no name")
    return quote(value, safe="")


def operation(
    method: str, route: str, reply: type[ModelT], *, writes: bool = False
) -> Callable[[Callable[P, Parts]], Operation[P, ModelT]]:
    """Decorate the function that builds a call whose reply is a JSON object."""

    def make(build: Callable[P, Parts]) -> Operation[P, ModelT]:
        return Operation(build, method=method, route=route, parse=model_reply(reply), writes=writes, reply=reply)

    return make


def deletion(route: str) -> Callable[[Callable[P, Parts]], Operation[P, None]]:
    """Decorate the function that builds a deletion."""
    return lambda build: Operation(build, method="DELETE", route=route, parse=_no_reply, writes=True, reply=None)


def text(route: str) -> Callable[[Callable[P, Parts]], Operation[P, str]]:
    """Decorate the function that builds a call whose reply is plain text."""
    return lambda build: Operation(build, method="GET", route=route, parse=_text, writes=False, reply=str)


def model_reply(reply: type[ModelT]) -> Parse[ModelT]:
    """Reads a JSON object; members that this client does not know are left alone."""

    def parse(response: httpx.Response) -> ModelT:
        try:
            return reply.model_validate_json(response.content)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
            raise UnexpectedReply(
                f"the reply to {response.request.method} {response.request.url.path} is not a {reply.__name__} "
                f"({wrong}); is this the address of a facemargin service, and of this version?"
            ) from None  # the reply may hold vectors, which the validation error would show

    return parse


def _no_reply(response: httpx.Response) -> None:
    return None


def _text(response: httpx.Response) -> str:
    return response.text


class _Page(Protocol):
    @property
    def next(self) -> str | None: ...


PageT = TypeVar("PageT", bound=_Page)
ItemT = TypeVar("ItemT")
PageCall = Callable[[str | None], Call[PageT]]
"""From the cursor of a page (None: the first) to its call."""


class Listing(Generic[P, PageT, ItemT]):
    """A listing, page after page as it is walked through, as a method of both clients.

    Args:
        pages: turns the arguments into the calls of the pages.
        items: the items of a page.
        item: their type, for the signature that `help` shows.
    """

    def __init__(
        self, pages: Callable[P, PageCall[PageT]], items: Callable[[PageT], Sequence[ItemT]], item: Any
    ) -> None:
        self._pages = pages
        self._items = items
        self.__doc__ = pages.__doc__
        self.signature = inspect.signature(pages).replace(return_annotation=Iterator[item])

    @overload
    def __get__(self, client: None, owner: type) -> "Listing[P, PageT, ItemT]": ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, Iterator[ItemT]]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, AsyncIterator[ItemT]]: ...
    def __get__(self, client: Blocking | Awaiting | None, owner: type) -> Any:
        """The method of a client; of the class, the listing itself."""
        if client is None:
            return self
        walk = self._walk_blocking if isinstance(client, Blocking) else self._walk_awaiting

        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return walk(client, self._pages(*args, **kwargs))  # type: ignore[arg-type]

        functools.update_wrapper(method, self._pages)
        method.__signature__ = self.signature  # type: ignore[attr-defined]
        return method

    def _walk_blocking(self, client: Blocking, page_call: PageCall[PageT]) -> Iterator[ItemT]:
        cursor, more = None, True
        while more:
            page = client._perform(functools.partial(page_call, cursor))
            yield from self._items(page)
            cursor, more = page.next, page.next is not None

    async def _walk_awaiting(self, client: Awaiting, page_call: PageCall[PageT]) -> AsyncIterator[ItemT]:
        cursor, more = None, True
        while more:
            page = await client._perform(functools.partial(page_call, cursor))
            for item in self._items(page):
                yield item
            cursor, more = page.next, page.next is not None


def listing(
    items: Callable[[PageT], Sequence[ItemT]], item: type[ItemT]
) -> Callable[[Callable[P, PageCall[PageT]]], Listing[P, PageT, ItemT]]:
    """Decorate the function that builds the calls of a listing's pages."""
    return lambda pages: Listing(pages, items, item)
