import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facemargin.errors import ConfigError
from tests.training.bulk.conftest import Asked, finished, run
from training.bulk.tables import face_table, npy_bytes, parquet_bytes, require_pyarrow


def test_the_columns_and_what_the_file_says_of_the_model(asked: Asked) -> None:
    job, _ = run(asked())
    table = pq.read_table(job.output.folder / "parts")
    assert table.column_names == [
        "source", "key", "person", "face", "faces", "box", "landmarks", "score",
        "eye_distance_px", "sharpness", "yaw_rad", "pitch_rad", "roll_rad", "embedding",
    ]  # fmt: skip
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    assert table.schema.field("box").type == pa.list_(pa.float32(), 4)
    assert table.schema.metadata[b"facemargin.model_id"].decode() == job.work.embedder.model_id
    row = table.drop_columns(["embedding"]).to_pylist()[3]
    assert row["face"] == 0
    assert row["sharpness"] > 0
    assert {name for name, value in row.items() if value is None} == {
        "faces", "box", "landmarks", "score", "eye_distance_px", "yaw_rad", "pitch_rad", "roll_rad",
    }  # fmt: skip


@pytest.mark.parametrize("to_format", ["parquet", "npy"])
def test_float16_is_the_rounded_float32(asked: Asked, to_format: str) -> None:
    whole = finished(asked())
    half = finished(asked(output=asked().output / ".." / "half", dtype="float16", to_format=to_format))
    assert half.vectors.dtype == np.float16
    np.testing.assert_array_equal(half.vectors, whole.vectors.astype(np.float16))
    assert half.rows == whole.rows


def test_an_array_and_its_rows_beside(asked: Asked) -> None:
    whole = finished(asked())
    apart = finished(asked(output=asked().output / ".." / "apart", to_format="npy"))
    assert apart.vectors.dtype == np.float32
    np.testing.assert_array_equal(apart.vectors, whole.vectors)
    assert apart.rows == whole.rows
    for part in apart.manifest.parts:
        assert [file.path for file in part.files] == [
            f"vectors/part-{part.number:06d}.npy",
            f"parts/part-{part.number:06d}.parquet",
        ]


def test_a_part_without_a_face_is_an_empty_table_of_the_same_columns(asked: Asked) -> None:
    job, _ = run(asked())
    empty = face_table([], job.output.plan, np.empty((0, 32), np.float32))
    assert empty.schema == pq.read_table(job.output.folder / "parts").schema
    assert parquet_bytes(empty) == parquet_bytes(empty)
    assert len(npy_bytes(np.empty((0, 32), np.float32), "float32")) == 128


def test_a_missing_pyarrow_is_said_before_anything_is_done(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"pip install 'facemargin\[parquet\]'"):
        require_pyarrow()
    with pytest.raises(ConfigError, match="pyarrow"):
        run(asked())
    assert not asked().output.exists()
