"""One file per group of routes; to add a group, write its file and name its router here."""

from fastapi import APIRouter

from service.routes import (
    collections,
    console,
    embeddings,
    export,
    faces,
    health,
    metrics,
    models,
    people,
    search,
    upgrades,
    verify,
)

ROUTERS: tuple[APIRouter, ...] = (
    embeddings.router,
    verify.router,
    collections.router,
    people.router,
    export.router,
    faces.router,
    search.router,
    upgrades.router,
    models.router,
    health.router,
    metrics.router,
    console.router,
)

__all__ = ["ROUTERS"]
