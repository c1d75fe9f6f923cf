"""One-to-many search over unit embeddings: one protocol, an exact oracle, FAISS, and segments for large galleries.

An `Index` holds ids and vectors and nothing else: people, collections and durability belong to whoever owns it. A
`SearchEngine` holds indexes by name, in memory or outside of this process, and is chosen by a URL (`open_engine`). To
add an index in memory, write a class with the methods of `Index` and name it in `INDEXES`; to add an engine, write one
with the methods of `SearchEngine` and name it in `ENGINES`. The contract tests then run over it.
"""

from facemargin.index.base import Index, SearchResult
from facemargin.index.checksum import Checksum, checksum
from facemargin.index.engine import DurableIndex, SearchEngine, TransactionalIndex
from facemargin.index.engines import ENGINES, open_engine
from facemargin.index.exact import NumpyIndex
from facemargin.index.faiss_index import FaissIndex
from facemargin.index.kinds import INDEXES, make_index
from facemargin.index.rwlock import ReadersWriterLock
from facemargin.index.segmented import SegmentedIndex

__all__ = [
    "ENGINES",
    "INDEXES",
    "Checksum",
    "DurableIndex",
    "FaissIndex",
    "Index",
    "NumpyIndex",
    "ReadersWriterLock",
    "SearchEngine",
    "SearchResult",
    "SegmentedIndex",
    "TransactionalIndex",
    "checksum",
    "make_index",
    "open_engine",
]
