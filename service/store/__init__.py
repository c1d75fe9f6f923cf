"""The truth: collections, people, templates, keys and repeated replies in one SQLite database.

`Store` owns the file and its transactions; the modules beside it are plain functions on a session, one kind of row
each. Nothing here knows of HTTP, images or indexes.
"""

from service.store.database import Store
from service.store.tables import ApiKeyRow, CollectionRow, FaceRow, PersonRow, ReplyRow

__all__ = ["ApiKeyRow", "CollectionRow", "FaceRow", "PersonRow", "ReplyRow", "Store"]
