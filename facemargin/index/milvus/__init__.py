"""Indexes as collections of Milvus. Needs pymilvus, so only `ENGINES` imports it."""

from facemargin.index.milvus.address import MilvusAddress
from facemargin.index.milvus.engine import MilvusEngine
from facemargin.index.milvus.index import MilvusIndex

__all__ = ["MilvusAddress", "MilvusEngine", "MilvusIndex"]
