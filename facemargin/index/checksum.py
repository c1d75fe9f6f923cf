"""A digest of everything in an index, the same in every engine that holds the same."""

import hashlib
from dataclasses import dataclass

import numpy as np

from facemargin.index.base import Index
from facemargin.index.half import halved

_BYTES = 16
_MODULUS = 1 << (8 * _BYTES)


@dataclass(frozen=True)
class Checksum:
    """What `checksum` found.

    Attributes:
        count: number of vectors.
        digest: 32 hexadecimal digits.
    """

    count: int
    digest: str


def checksum(index: Index) -> Checksum:
    """Digest of all ids and vectors, whatever their order: Σ BLAKE2b(id, float16 vector) mod 2¹²⁸.

    It finds what was lost, doubled, mixed up or damaged on the way from one engine to another. It is no signature: who
    can choose vectors may find others with the same sum. Vectors are rounded to float16 first (`halved`), so engines
    that keep float32 and those that keep float16 agree. Reads in portions, and so needs a few MiB.

    Raises:
        IndexUnavailableError: the engine does not answer.
    """
    count, total = 0, 0
    for ids, vectors in index.export():
        rows = np.empty(len(ids), dtype=[("id", "<i8"), ("vector", "<f2", (index.dim,))])
        rows["id"], rows["vector"] = ids, halved(vectors)
        whole, step = rows.tobytes(), rows.itemsize
        digests = (
            hashlib.blake2b(whole[start : start + step], digest_size=_BYTES).digest()
            for start in range(0, len(whole), step)
        )
        total += sum(int.from_bytes(digest, "little") for digest in digests)
        count += len(ids)
    return Checksum(count, f"{total % _MODULUS:0{2 * _BYTES}x}")
