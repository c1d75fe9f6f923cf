"""Who may come in: a request for a face in an image is refused at its head where it would wait longer than the limit.

Owns where the refusal stands: before the key is checked and before anything of the body is read. What needs no image
(health, metrics, reading the store) never waits. The estimate is in `service.load`.
"""

from collections.abc import Collection, Iterable
from re import Pattern

from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service import problems
from service.bodies import reads_images
from service.errors import OverloadedError
from service.load import Load


class Admission:
    """Refuse requests with images at their head while the wait for them is too long.

    They take their places later, in `service.faces`: slow uploads, and what turns out to need no image, take none.

    Args:
        app: what is inside.
        load: the estimate.
        routes: paths of the routes that take images, by POST.
    """

    def __init__(self, app: ASGIApp, load: Load, routes: Collection[Pattern[str]]) -> None:
        self.app = app
        self.load = load
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http" or not self._takes_images(scope):
            await self.app(scope, receive, send)
            return
        try:
            self.load.demand()
        except OverloadedError as error:
            body = problems.describe(error) | {"request_id": scope["state"]["request_id"]}
            await problems.reply(body)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _takes_images(self, scope: Scope) -> bool:
        return scope["method"] == "POST" and any(route.match(scope["path"]) for route in self.routes)


def image_routes(routers: Iterable[APIRouter]) -> list[Pattern[str]]:
    """Paths of the routes whose body may hold images."""
    routes = (route for router in routers for route in router.routes if isinstance(route, APIRoute))
    return [route.path_regex for route in routes if _reads_images(route.dependant)]


def _reads_images(dependant: Dependant) -> bool:
    found = dependant.call is not None and reads_images(dependant.call)
    return found or any(_reads_images(inner) for inner in dependant.dependencies)
