"""How long a killed service takes until it is ready again: ``python -m service.bench.restart --bundle BUNDLE``.

Builds a store of random unit vectors, one face a person, then kills the service with SIGKILL and starts it again, some
times each: in the clear and encrypted, with a snapshot of the index and without. The time is from the start of the
process to the first 200 of ``/health/ready``: interpreter, imports, model and gallery are all in it.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import numpy as np
import typer
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from facemargin.errors import FacemarginError
from service.bench.process import START_SECONDS
from service.snapshots import SNAPSHOTS
from service.store import CollectionRow, FaceRow, PersonRow, Store, TemplateRow
from service.store.faces import sealing_context
from service.store.people import add_collection
from service.store.tables import new_id
from service.store.vault import vault_of

MODEL = "restart-bench"
_MASTER = bytes(range(32))
_AT_A_TIME = 5000
_NEVER = 1_000_000_000
_LOOK_EVERY_S = 0.01
_MOST_SAID = 4096
_ADDRESS = re.compile(rb"http://\S+(?=\s)")


class Timing(NamedTuple):
    """Seconds until ready of one kind of store."""

    encrypted: bool
    snapshot: bool
    seconds: list[float]

    @property
    def line(self) -> str:
        """For people."""
        kind = ("encrypted" if self.encrypted else "clear") + (", snapshot" if self.snapshot else ", database alone")
        middle = statistics.median(self.seconds)
        return f"{kind:26} median {middle:.2f} s, {min(self.seconds):.2f} to {max(self.seconds):.2f} s"


def fill(folder: Path, master: bytes | None, *, faces: int, dim: int) -> None:
    """Make a store with one collection of that many people with a random face each."""
    rng = np.random.default_rng(0)
    with Store(folder) as store:
        store.unlock(master)
        with store.write() as session:
            gallery = add_collection(session, "staff", model=MODEL, dim=dim)
            for start in range(0, faces, _AT_A_TIME):
                vectors = rng.standard_normal((min(_AT_A_TIME, faces - start), dim), dtype=np.float32)
                _add(session, gallery, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _add(session: Session, gallery: CollectionRow, vectors: NDArray[np.float32]) -> None:
    ids, vault = [new_id("p") for _ in vectors], vault_of(session)
    people = [PersonRow(public_id=i, collection_id=gallery.id, name=i, wrapped_key=vault.new_key(i)) for i in ids]
    session.add_all(people)
    session.flush()
    faces = [FaceRow(person_id=person.id, public_id=new_id("f"), source="embedding") for person in people]
    session.add_all(faces)
    session.flush()
    for person, face, vector in zip(people, faces, vectors, strict=True):
        context = sealing_context(gallery.id, person.public_id, face.public_id, MODEL)
        sealed = vault.seal(person.public_id, person.wrapped_key, vector.astype("<f4").tobytes(), context)
        session.add(TemplateRow(face_id=face.id, model=MODEL, sealed=sealed))
    session.flush()
    session.expunge_all()
    session.add(gallery)


class Started:
    """A service as a process, ready when made; it is killed at the end of the block.

    Args:
        bundle: the model.
        store: folder.
        master: its master key, or None.
        snapshots: whether the service writes snapshots of the index.

    Attributes:
        seconds: from the start of the process until it was ready.

    Raises:
        FacemarginError: it ends, or is not ready within two minutes.
    """

    def __init__(self, bundle: Path, store: Path, master: bytes | None, *, snapshots: bool) -> None:
        environment = {**os.environ, "FACEMARGIN_SNAPSHOT_FACES": str(1 if snapshots else _NEVER)}
        environment |= {"FACEMARGIN_SNAPSHOT_SECONDS": "1", "FACEMARGIN_HOUSEKEEPING_SECONDS": "0.5"}
        if master is not None:
            environment["FACEMARGIN_MASTER_KEY"] = b64encode(master).decode()
        self._command = [sys.executable, "-m", "facemargin", "serve", "--bundle", str(bundle), "--store", str(store)]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (not a pipe, which would be waited for in silence)
        begun = time.perf_counter()
        self._process = subprocess.Popen(
            [*self._command, "--port", "0"], stdout=self._said, stderr=subprocess.DEVNULL, env=environment
        )
        try:
            self.wait_for(self._ready, "get ready")
        except BaseException:
            self.kill()
            raise
        self.seconds = time.perf_counter() - begun

    def wait_for(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds, as long as the service lives.

        Raises:
            FacemarginError: it ends before, or it takes more than two minutes.
        """
        until = time.monotonic() + START_SECONDS
        while not holds():
            if self._process.poll() is not None or time.monotonic() > until:
                raise FacemarginError(f"the service does not {what}; try: {' '.join(self._command)}")
            time.sleep(_LOOK_EVERY_S)

    def _ready(self) -> bool:
        found = _ADDRESS.search(os.pread(self._said.fileno(), _MOST_SAID, 0))
        if found is None:
            return False
        try:
            with urllib.request.urlopen(f"{found[0].decode()}/health/ready", timeout=START_SECONDS) as answer:
                return bool(answer.status == HTTPStatus.OK)
        except OSError:  # among them every answer but 200
            return False

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()
        self._said.close()

    def __enter__(self) -> Self:
        """The service itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it."""
        self.kill()


def measure(bundle: Path, store: Path, *, master: bytes | None, snapshot: bool, repeats: int) -> Timing:
    """Kill and start the service of a store again and again.

    Raises:
        FacemarginError: it does not start, or writes no snapshot.
    """
    with Started(bundle, store, master, snapshots=snapshot) as first:
        if snapshot:
            first.wait_for(lambda: any((store / SNAPSHOTS).glob("*.snapshot")), "write a snapshot")
    seconds = []
    for _ in range(repeats):
        with Started(bundle, store, master, snapshots=snapshot) as started:
            seconds.append(started.seconds)
    return Timing(master is not None, snapshot, seconds)


def main(
    bundle: Annotated[Path, typer.Option(help="Any exported model: the service loads it at each start.")],
    faces: Annotated[int, typer.Option(min=1, help="Faces enrolled.")] = 100_000,
    dim: Annotated[int, typer.Option(min=1, help="Length of a vector.")] = 512,
    repeats: Annotated[int, typer.Option(min=1, help="Starts of each kind.")] = 5,
    folder: Annotated[Path | None, typer.Option(help="Where the stores are made; a temporary folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Measure how long a killed service takes until it is ready again."""
    found = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for master in (None, _MASTER):
            store = Path(place) / ("clear" if master is None else "encrypted")
            fill(store, master, faces=faces, dim=dim)
            for snapshot in (False, True):
                found.append(measure(bundle, store, master=master, snapshot=snapshot, repeats=repeats))
                if not as_json:
                    typer.echo(found[-1].line)
    if as_json:
        typer.echo(json.dumps({"faces": faces, "dim": dim, "starts": [timing._asdict() for timing in found]}))


if __name__ == "__main__":
    typer.run(main)
