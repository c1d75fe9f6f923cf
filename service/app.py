"""The application: settings in, ASGI app out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from facemargin import __version__
from service import openapi, problems
from service.body_limit import BodyLimit
from service.context import build_service
from service.request_log import RequestLog
from service.routes import ROUTERS
from service.settings import Settings, read_settings


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
        yield
        service.close()

    app = FastAPI(
        title="facemargin",
        version=__version__,
        lifespan=lifespan,
        docs_url="/docs" if settings.docs else None,
        redoc_url=None,
    )
    app.state.service = service
    for router in ROUTERS:
        app.include_router(router)
    problems.install(app)
    openapi.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestLog, model=service.models.default.id)  # added last, so it is the outermost
    return app
