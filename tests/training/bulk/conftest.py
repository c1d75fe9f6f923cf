"""Small folders of crops, a tiny model, and what lies in an output folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from facemargin.bundle import Bundle
from facemargin.preprocessing import encode_png
from training.bulk.job import Job, Request, prepare
from training.bulk.output import Manifest
from training.bulk.run import Run

PEOPLE = {"": 2, "Ann": 7, "Bob": 9, "archive/1999/Cleo": 6}
"""Pictures a folder; 24 in all."""


class Embedded(NamedTuple):
    """What a run left: its rows in the order of the parts, and its vectors (N, D)."""

    rows: list[dict[str, Any]]
    vectors: NDArray[np.float32]
    errors: list[dict[str, Any]]
    manifest: Manifest


def crop(seed: int) -> bytes:
    """A crop that no other seed gives, as PNG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (14, 14, 3), dtype=np.uint8)
    return encode_png(coarse.repeat(8, axis=0).repeat(8, axis=1))


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 crops in nested folders, hidden and other files among them: read it, never change it."""
    root = tmp_path_factory.mktemp("bulk") / "crops"
    for number, (folder, count) in enumerate(PEOPLE.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for place in range(count):
            (root / folder / f"{place}.png").write_bytes(crop(100 * number + place))
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden.png").write_text("no picture")
    return root


Asked = Callable[..., Request]


@pytest.fixture
def asked(crops: Path, tiny_bundle: Bundle, tmp_path: Path) -> Asked:
    """A request for aligned crops in parts of five, batches of two, by two threads; keywords replace its values."""

    def make(**changes: Any) -> Request:
        values: dict[str, Any] = {
            "sources": (crops,), "bundle": tiny_bundle.path, "output": tmp_path / "out", "aligned": True,
            "part_pictures": 5, "batch": 2, "threads": 2,
        }  # fmt: skip
        return Request(**{**values, **changes})

    return make


def run(request: Request) -> tuple[Job, Run]:
    """Run it as one process."""
    job = prepare(request, {})
    return job, job.run(lambda done: None)


def finished(request: Request) -> Embedded:
    """Run it as one process, to the end."""
    job, _ = run(request)
    assert job.output.finish() is not None
    return contents(request.output)


def contents(output: Path) -> Embedded:
    """Read an output folder."""
    manifest = Manifest.model_validate_json((output / "embeddings.json").read_bytes())
    rows: list[dict[str, Any]] = []
    vectors = []
    for part in manifest.parts:
        files = {file.path.rpartition(".")[2]: output / file.path for file in part.files}
        table = pq.read_table(files["parquet"])
        if "npy" in files:
            vectors.append(np.load(files["npy"], allow_pickle=False))
        else:
            column = table["embedding"].combine_chunks()
            vectors.append(column.flatten().to_numpy().reshape(table.num_rows, -1))
            table = table.drop_columns(["embedding"])
        rows += table.to_pylist()
    errors = [json.loads(line) for line in (output / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
    return Embedded(rows, np.concatenate(vectors), errors, manifest)


def files_of(output: Path) -> dict[str, bytes]:
    """Every file of an output folder, hidden ones too."""
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*")) if path.is_file()}
