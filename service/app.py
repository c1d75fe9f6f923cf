"""The application: settings in, ASGI app out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI

from facemargin import __version__
from service import compreface, openapi, problems
from service.admission import Admission, image_routes
from service.body_limit import BodyLimit
from service.context import build_service
from service.headers import AllowedHosts, SecurityHeaders
from service.request_log import RequestLog, Templates
from service.routes import ROUTERS
from service.settings import Settings, read_settings

_NO_TELEMETRY: Final[Any] = {"tracing": False, "metrics": False, "logs": False}
"""FastAPI's own spans have paths and queries in them; `service.tracing` makes ours. Older FastAPI has none."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application of one service: load the models, open the store, rebuild the galleries.

    Args:
        settings: by default, read from the environment now.

    Raises:
        ConfigError: a setting is missing or wrong.
        BundleError, ModelNotFoundError, StoreError: what they name cannot be used.
    """
    settings = settings if settings is not None else read_settings()
    service = build_service(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            service.start()
            yield
        finally:
            service.close()

    app = FastAPI(
        title="facemargin",
        version=__version__,
        lifespan=lifespan,
        docs_url="/docs" if settings.docs else None,
        redoc_url=None,
        telemetry=_NO_TELEMETRY,
    )
    app.state.service = service
    routers = (*ROUTERS, *compreface.ROUTERS)
    for router in routers:
        app.include_router(router)
    problems.install(app)
    compreface.install(app)
    openapi.install(app)
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        max_seconds=settings.upload_seconds,
        bytes_per_second=settings.upload_bytes_per_second,
    )
    app.add_middleware(Admission, load=service.load, routes=image_routes(routers))
    app.add_middleware(AllowedHosts, hosts=settings.allowed_hosts)
    app.add_middleware(compreface.ErrorForm)
    app.add_middleware(
        RequestLog,
        model=service.models.default.id,
        templates=Templates([*app.routes, *(route for router in routers for route in router.routes)]),
        metrics=service.metrics,
        tracing=service.tracing,
    )
    app.add_middleware(SecurityHeaders, hsts=settings.hsts)  # added last, so it is the outermost
    return app
