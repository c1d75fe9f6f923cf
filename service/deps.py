"""The wiring of routes: what they can ask for, as `Annotated` aliases."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Header, Path, Request
from starlette.datastructures import Headers

from service.bodies import Body
from service.context import Service
from service.current import asked_by
from service.security import COLLECTION_NAME, Principal, Scope
from service.writes import Once, fingerprint


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]


async def _principal(request: Request) -> Principal:
    """Who asks. It depends on nothing: FastAPI takes longer to ask a dependency than most of them take to answer."""
    gate, headers = request.app.state.service.gate, request.headers
    await gate.wait_for_keys()
    principal: Principal = gate.identify(
        _token(headers),
        client=request.client.host if request.client is not None else None,
        host=headers.get("Host"),
        origin=headers.get("Origin"),
    )
    asked_by(principal.name)
    allowance = gate.charge(principal)
    if allowance is not None:
        request.state.allowance = allowance  # the headers of the reply show it
        allowance.demand()
    return principal


def _token(headers: Headers) -> str | None:
    """The key of a request, by one of the two headers that `service.openapi.KEYS` tells."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else headers.get("X-API-Key") or None


Known = Annotated[Principal, Depends(_principal)]


def allowed(*scopes: Scope) -> Callable[[Principal], Awaitable[Principal]]:
    """A dependency that lets a key with one of the scopes pass."""

    async def check(principal: Known) -> Principal:
        principal.demand(*scopes)
        return principal

    return check


AnyCaller = Annotated[Principal, Depends(allowed(*(scope for scope in Scope if scope is not Scope.METRICS)))]
Embedder = Annotated[Principal, Depends(allowed(Scope.EMBED))]
Verifier = Annotated[Principal, Depends(allowed(Scope.VERIFY))]
Reader = Annotated[Principal, Depends(allowed(Scope.READ))]
PeopleWriter = Annotated[Principal, Depends(allowed(Scope.WRITE))]
Enroller = Annotated[Principal, Depends(allowed(Scope.WRITE, Scope.ENROL_EMBEDDING))]
Admin = Annotated[Principal, Depends(allowed(Scope.ADMIN))]
MetricsReader = Annotated[Principal, Depends(allowed(Scope.METRICS))]

_Name = Annotated[
    str,
    Path(
        pattern=COLLECTION_NAME,
        description="Name of the collection: letters, digits, '.', '_', '-'; at most 63.",
        examples=["staff"],
    ),
]


async def _entered(name: _Name, principal: Known) -> str:
    principal.enter(name)
    return name


async def _to_be_made(name: _Name, principal: Known) -> str:
    principal.make(name)
    return name


CollectionName = Annotated[str, Depends(_entered)]
"""The collection of a path, which the key may touch; to a key limited to others it does not exist."""

NewCollectionName = Annotated[str, Depends(_to_be_made)]
"""The same where the route makes it."""

PersonId = Annotated[str, Path(max_length=64, description="Id of the person.", examples=["p_4fz1k8m2q7w9x3c5"])]
FaceId = Annotated[str, Path(max_length=64, description="Id of the face.", examples=["f_0a9s8d7f6g5h4j3k"])]


class Repeatable:
    """A write that its client may send again: by the header ``Idempotency-Key`` it is done once."""

    def __init__(self, request: Request, key: str | None) -> None:
        self._request = request
        self._key = key

    def once(self, caller: Principal, payload: Body | None = None) -> Once:
        """The identity of this write."""
        content = payload.model_dump() if payload is not None else None
        path = self._request.url.path
        return Once(caller.name, self._key, fingerprint(self._request.method, path, content) if self._key else b"")


async def _repeatable(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            pattern=r"^[\x21-\x7e]{1,255}$",
            description="Any text of up to 255 characters, new for each write. Sent again with the same request, "
            "it gets the first answer again (with the header Idempotency-Replayed) and nothing is done twice.",
            examples=["1f0c1b9e-2d5c-4a35-9a3e-6f0d3c0b7a11"],
        ),
    ] = None,
) -> Repeatable:
    return Repeatable(request, key)


RepeatableDep = Annotated[Repeatable, Depends(_repeatable)]
