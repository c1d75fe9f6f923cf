"""FAISS, imported when the first index is made: training needs the protocol of an index and not the library."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from facemargin.errors import MissingExtraError


def load_faiss() -> Any:
    """The module ``faiss``.

    Raises:
        MissingExtraError: FAISS is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise MissingExtraError("the index faiss:", "serve", "faiss") from error


@contextmanager
def alone() -> Iterator[None]:
    """Keep what FAISS is asked in this block on the calling thread; else it has a team of threads for each caller."""
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
