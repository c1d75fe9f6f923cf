"""One file per group of routes; to add a group, write its file and name its router here."""

from fastapi import APIRouter

from service.routes import collections, embeddings, faces, health, models, people, search, verify

ROUTERS: tuple[APIRouter, ...] = (
    embeddings.router,
    verify.router,
    collections.router,
    people.router,
    faces.router,
    search.router,
    models.router,
    health.router,
)

__all__ = ["ROUTERS"]
