"""FAISS, imported when the first index is made: training needs the protocol of an index and not the library."""

import importlib
from typing import Any

from facemargin.errors import MissingExtraError


def load_faiss(user: str) -> Any:
    """The module ``faiss``.

    Args:
        user: what needs it, for the message.

    Raises:
        MissingExtraError: FAISS is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise MissingExtraError(user, "serve", "faiss") from error
