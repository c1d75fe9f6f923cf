"""The truth: collections, people, faces, keys, repeated replies and the audit log in one database.

`Store` owns the database, SQLite's or PostgreSQL's, and its transactions; the modules beside it are plain functions on
a session, one kind of row each. Nothing here knows of HTTP, images or indexes.
"""

from service.store.database import Store
from service.store.location import Location, parse_location
from service.store.tables import ApiKeyRow, AuditRow, CollectionRow, FaceRow, PersonRow, ReplyRow, TemplateRow

__all__ = [
    "ApiKeyRow",
    "AuditRow",
    "CollectionRow",
    "FaceRow",
    "Location",
    "PersonRow",
    "ReplyRow",
    "Store",
    "TemplateRow",
    "parse_location",
]
