"""The calls about one collection of Milvus."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from facemargin.index.hnsw import Hnsw
from facemargin.index.milvus.connection import BUILD_S, CALL_S, MilvusConnection, NotLoadedError

Answer = TypeVar("Answer")
PREFIX = "facemargin_"
MOST_FOUND = 16384
"""Milvus gives no more rows in one answer (``quotaAndLimits.limits.topK`` and ``maxQueryResultWindow``)."""
_BATCH_BYTES = 16 * 2**20
"""Of vectors in one call; Milvus takes messages of 64 MiB at most, and an answer needs more bytes than a question."""
_QUERIES = 64


class Collection:
    """A Milvus collection (id INT64, vector FLOAT_VECTOR) with HNSW by inner product, read with strong consistency.

    Args:
        connection: to its Milvus.
        name: as Milvus knows it.
        dim: length of the vectors.
        hnsw: how it is built and searched.
    """

    def __init__(self, connection: MilvusConnection, name: str, dim: int, hnsw: Hnsw) -> None:
        self._connection = connection
        self._name = name
        self.dim = dim
        self._hnsw = hnsw
        self.rows_at_a_time = max(1, min(8192, _BATCH_BYTES // (4 * dim)))

    def opened(self) -> int:
        """Make the collection where it is missing, and have it in the server's memory; the length of its vectors."""
        with self._connection.client() as client:
            if not client.has_collection(self._name, timeout=CALL_S):
                self._create(client)
            client.load_collection(self._name, timeout=BUILD_S)
            fields = client.describe_collection(self._name, timeout=CALL_S)["fields"]
            return next(int(field["params"]["dim"]) for field in fields if field["name"] == "vector")

    def count(self) -> int:
        """Number of vectors."""
        answer = self._asked(
            lambda client: client.query(self._name, filter="", output_fields=["count(*)"], timeout=CALL_S)
        )
        return int(answer[0]["count(*)"])

    def insert(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Insert one batch. By upsert: pymilvus may send it again, and an insert would be there twice then."""
        rows = [{"id": number, "vector": vector} for number, vector in zip(ids.tolist(), vectors, strict=True)]
        with self._connection.client() as client:
            client.upsert(self._name, rows, timeout=CALL_S)

    def delete(self, ids: NDArray[np.int64]) -> None:
        """Delete one batch; unknown ids are no error."""
        with self._connection.client() as client:
            client.delete(self._name, ids=ids.tolist(), timeout=CALL_S)

    def known(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of one batch of ids that are there, ascending."""
        found = self._rows(ids, ["id"])
        return np.array([row["id"] for row in found], dtype=np.int64)

    def vectors(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Those of one batch of ids that are there, ascending, and their vectors."""
        found = self._rows(ids, ["id", "vector"])
        vectors = np.array([row["vector"] for row in found], dtype=np.float32).reshape(len(found), self.dim)
        return np.array([row["id"] for row in found], dtype=np.int64), vectors

    def ids(self) -> NDArray[np.int64]:
        """Every id, ascending."""
        parts = self._asked(lambda client: list(self._pages(client)))
        return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *parts]))

    def nearest(self, queries: NDArray[np.float32], k: int) -> Iterator[list[tuple[int, float]]]:
        """Ids and similarities of the k nearest to each query, best first, k at most `MOST_FOUND`; maybe fewer."""
        for start in range(0, len(queries), _QUERIES):
            answers = self._asked(partial(self._search, data=list(queries[start : start + _QUERIES]), limit=k))
            yield from ([(hit["id"], hit["distance"]) for hit in hits] for hits in answers)

    def flush(self) -> None:
        """Have what was inserted sealed into segments and indexed."""
        with self._connection.client() as client:
            client.flush(self._name, timeout=BUILD_S)

    def compact(self) -> None:
        """Have segments written anew without what was deleted."""
        with self._connection.client() as client:
            client.compact(self._name, timeout=BUILD_S)

    def _asked(self, call: Callable[[Any], Answer]) -> Answer:
        """Ask about what must be in the server's memory; it is loaded again where the server was started without."""
        try:
            with self._connection.client() as client:
                return call(client)
        except NotLoadedError:
            with self._connection.client() as client:
                client.load_collection(self._name, timeout=CALL_S)
                return call(client)

    def _search(self, client: Any, *, data: list[NDArray[np.float32]], limit: int) -> Any:
        parameters = {"metric_type": "IP", "params": {"ef": max(limit, self._hnsw.ef_search)}}
        return client.search(
            self._name, data=data, limit=limit, search_params=parameters, output_fields=["id"], timeout=CALL_S
        )

    def _rows(self, ids: NDArray[np.int64], fields: list[str]) -> list[dict[str, Any]]:
        found = self._asked(
            lambda client: client.get(self._name, ids=ids.tolist(), output_fields=fields, timeout=CALL_S)
        )
        return sorted(found, key=lambda row: int(row["id"]))

    def _pages(self, client: Any) -> Iterator[NDArray[np.int64]]:
        pages = client.query_iterator(self._name, batch_size=MOST_FOUND, output_fields=["id"], timeout=CALL_S)
        try:
            while rows := pages.next():
                yield np.fromiter((row["id"] for row in rows), np.int64, len(rows))
        finally:
            pages.close()

    def _create(self, client: Any) -> None:
        kinds = self._connection.library.DataType
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("vector", kinds.FLOAT_VECTOR, dim=self.dim)
        graph = client.prepare_index_params()
        parameters = {"M": self._hnsw.m, "efConstruction": self._hnsw.ef_construction}
        graph.add_index("vector", index_type="HNSW", metric_type="IP", params=parameters)
        client.create_collection(
            self._name, schema=schema, index_params=graph, consistency_level="Strong", timeout=BUILD_S
        )
