"""Rows of (bigint, halfvec) and of (bigint) in the binary format of PostgreSQL, made and read by numpy.

Layout: PostgreSQL's documentation of COPY ("Binary Format"); a halfvec is sent as its length and a zero, two bytes
each, then float16 numbers; everything is big-endian. All rows are equally long, so a block of them is one
structured array.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray
from psycopg.adapt import Dumper
from psycopg.pq import Format

from facemargin.index.export import Portion

_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_ID: list[tuple[str, str]] = [("columns", ">i2"), ("id_bytes", ">i4"), ("id", ">i8")]
_ID_BYTES = 8
_VECTOR_HEADER_BYTES = 4


def packed(ids: NDArray[np.int64], vectors: NDArray[np.float16]) -> bytes:
    """What COPY ... FROM STDIN takes, of (N,) ids and (N, dim) vectors."""
    dim = vectors.shape[1]
    rows = np.zeros(len(ids), dtype=_pair(dim))
    rows["columns"], rows["id_bytes"], rows["id"] = 2, _ID_BYTES, ids
    rows["vector_bytes"], rows["dim"], rows["vector"] = _VECTOR_HEADER_BYTES + 2 * dim, dim, vectors
    return _HEADER + rows.tobytes() + _TRAILER


class BinaryVector(NamedTuple):
    """A halfvec as a parameter of a statement."""

    data: bytes

    @classmethod
    def of(cls, vector: NDArray[np.float16]) -> "BinaryVector":
        """Of (dim,) numbers."""
        return cls(len(vector).to_bytes(2, "big") + bytes(2) + vector.astype(">f2").tobytes())


class BinaryVectorDumper(Dumper):
    """Has psycopg send a `BinaryVector` as it is; the server knows the type by the cast around it."""

    format = Format.BINARY

    def dump(self, obj: BinaryVector) -> bytes:
        """The bytes."""
        return obj.data


def unpacked(data: bytes, dim: int) -> Portion:
    """Ids and vectors of what COPY ... TO STDOUT gives."""
    rows = _read(data, _pair(dim))
    return rows["id"].astype(np.int64), rows["vector"].astype(np.float32)


def unpacked_ids(data: bytes) -> NDArray[np.int64]:
    """Ids of what COPY ... TO STDOUT gives of that column alone."""
    ids: NDArray[np.int64] = _read(data, np.dtype(_ID))["id"].astype(np.int64)
    return ids


def _pair(dim: int) -> np.dtype[np.void]:
    vector = [("vector_bytes", ">i4"), ("dim", ">i2"), ("zero", ">i2"), ("vector", ">f2", (dim,))]
    return np.dtype([*_ID, *vector])


def _read(data: bytes, row: DTypeLike) -> NDArray[np.void]:
    return np.frombuffer(data[len(_HEADER) : -len(_TRAILER)], dtype=row)
