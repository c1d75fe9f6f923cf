"""The faces of a part as an Arrow table, and as the bytes of a Parquet file or a NumPy array."""

import importlib
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import ConfigError
from training.bulk.batches import FaceRow
from training.bulk.plan import Dtype, Plan

_QUALITY = ("eye_distance_px", "sharpness", "yaw_rad", "pitch_rad", "roll_rad")


def require_pyarrow() -> None:
    """Fail before anything is embedded where the tables could not be written.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    _arrow()


def face_table(faces: Sequence[FaceRow], plan: Plan, vectors: NDArray[np.float32] | None) -> Any:
    """A row a face.

    Args:
        faces: N faces.
        plan: its model and options go to the table's metadata.
        vectors: float32 (N, D) for the column ``embedding``; None leaves it out.

    Returns:
        A ``pyarrow.Table`` with the columns of docs/embed.md.
    """
    arrow = _arrow()
    columns: dict[str, Any] = {
        "source": arrow.array([face.source for face in faces], arrow.string()),
        "key": arrow.array([face.key for face in faces], arrow.string()),
        "person": arrow.array([face.person for face in faces], arrow.string()),
        "face": arrow.array([face.number for face in faces], arrow.int32()),
        "faces": arrow.array([face.of for face in faces], arrow.int32()),
    }
    detected = [face.face for face in faces]
    columns["box"] = _lists(arrow, [None if face is None else np.array(face.box) for face in detected], 4)
    columns["landmarks"] = _lists(arrow, [None if face is None else face.landmarks.ravel() for face in detected], 10)
    columns["score"] = arrow.array([None if face is None else face.score for face in detected], arrow.float32())
    measured = [_quality(face) for face in faces]
    for place, name in enumerate(_QUALITY):
        columns[name] = arrow.array([values[place] for values in measured], arrow.float32())
    if vectors is not None:
        columns["embedding"] = _vectors(arrow, stored(vectors, plan.options.dtype))
    return arrow.table(columns).replace_schema_metadata(_metadata(plan))


def parquet_bytes(table: Any) -> bytes:
    """A table as a Parquet file; equal tables give equal bytes."""
    parquet = importlib.import_module("pyarrow.parquet")
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, use_dictionary=["source", "person"])
    return buffer.getvalue()


def npy_bytes(vectors: NDArray[np.float32], dtype: Dtype) -> bytes:
    """Vectors (N, D) as a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, stored(vectors, dtype), allow_pickle=False)
    return buffer.getvalue()


def stored(vectors: NDArray[np.float32], dtype: Dtype) -> NDArray[Any]:
    """Vectors as they are stored."""
    return np.ascontiguousarray(vectors, dtype=np.dtype(dtype))


def _quality(face: FaceRow) -> tuple[float | None, ...]:
    quality = face.quality
    return (quality.eye_distance_px, quality.sharpness, *(quality.pose or (None, None, None)))


def _lists(arrow: Any, rows: Sequence[NDArray[Any] | None], length: int) -> Any:
    kind = arrow.list_(arrow.float32(), length)
    return arrow.array([None if row is None else row.astype(np.float32) for row in rows], kind)


def _vectors(arrow: Any, vectors: NDArray[Any]) -> Any:
    return arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.ravel()), vectors.shape[1])


def _metadata(plan: Plan) -> dict[str, str]:
    return {
        "facemargin.model_id": plan.model_id,
        "facemargin.embedding_dim": str(plan.embedding_dim),
        "facemargin.options": json.dumps(plan.options.model_dump()),
    }


def _arrow() -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "embed writes Parquet files, for which the package 'pyarrow' is missing: pip install 'facemargin[parquet]'"
        ) from error
