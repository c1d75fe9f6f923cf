"""A service that is killed between store and index, again and again: the next one's index is as the store says.

SIGKILL ends a process, not a machine: this says nothing about a power failure.
"""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from facemargin.bundle import Bundle
from service.alignment import apart
from service.entries import Entries
from service.galleries import open_engine_of
from service.index_names import IndexNames
from service.store import CollectionRow, Store
from tests.milvus import MilvusServer

PEOPLE = "/v1/collections/staff/people"
KILLS = 8

pytestmark = pytest.mark.slow


class Served:
    """A service as a process, ready when made."""

    def __init__(self, bundle: Path, store: str, index: str, templates: str, log: Path) -> None:
        environment = {
            **os.environ,
            "FACEMARGIN_MODELS": str(log.parent / "none"),
            "FACEMARGIN_REQUESTS_PER_MINUTE": "0",
            "FACEMARGIN_TEMPLATES": templates,
            "PYTHONUNBUFFERED": "1",
        }
        words = ["serve", "--bundle", str(bundle), "--store", store, "--index", index, "--port", "0"]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "facemargin", *words],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        assert self._process.stdout is not None
        found = re.search(r"http://\S+", self._process.stdout.readline())
        assert found, log.read_text()[-3000:]
        self.client = httpx2.Client(base_url=found[0], timeout=60)
        assert self.client.get("/health/ready").status_code == 200

    def end(self, how: signal.Signals) -> None:
        self._process.send_signal(how)
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self.client.close()


class Writer:
    """Somebody who enrols and erases, and sends again, with its Idempotency-Key, what was not answered."""

    def __init__(self, bundle: Bundle, vector: Any, seed: int) -> None:
        self._bundle, self._vector, self._random = bundle, vector, random.Random(seed)
        self.faces: dict[str, dict[str, int]] = {}
        self._pending: tuple[str, str, str, Any, int] | None = None
        self.written = 0

    def work(self, client: httpx2.Client) -> None:
        """Write until the service dies."""
        try:
            while True:
                if self._pending is None:
                    self._choose()
                self._send(client)
        except httpx2.TransportError:
            return

    def settle(self, client: httpx2.Client) -> None:
        """Send what was not answered again."""
        if self._pending is not None:
            self._send(client)

    def _choose(self) -> None:
        self.written += 1
        key, number, choice = f"k-{self.written}", 1000 + self.written, self._random.random()
        people = list(self.faces)
        if not people or choice < 0.2:
            self._pending = (key, "POST", PEOPLE, {"name": key}, 0)
            return
        person = self._random.choice(people)
        if choice < 0.7:
            body = {"embedding": self._vector(number).tolist(), "model": self._bundle.model_id}
            self._pending = (key, "POST", f"{PEOPLE}/{person}/faces", body, number)
        elif choice < 0.9 and self.faces[person]:
            face = self._random.choice(list(self.faces[person]))
            self._pending = (key, "DELETE", f"{PEOPLE}/{person}/faces/{face}", None, 0)
        else:
            self._pending = (key, "DELETE", f"{PEOPLE}/{person}", None, 0)

    def _send(self, client: httpx2.Client) -> None:
        assert self._pending is not None
        key, method, url, body, number = self._pending
        answer = client.request(method, url, json=body, headers={"Idempotency-Key": key})
        assert answer.status_code in (201, 204), answer.text
        person, *face = url.removeprefix(PEOPLE).strip("/").split("/faces")
        if not person:
            self.faces[answer.json()["id"]] = {}
        elif method == "POST":
            self.faces[person][answer.json()["id"]] = number
        elif face:
            del self.faces[person][face[0].strip("/")]
        else:
            del self.faces[person]
        self._pending = None


@pytest.mark.parametrize(
    ("database", "engine", "templates"),
    [
        ("postgresql", "pgvector", "best"),
        ("postgresql", "pgvector", "mean"),
        ("sqlite", "milvus", "mean"),
        ("postgresql", "milvus", "mean"),
    ],
    indirect=["database"],
)
def test_a_service_that_is_killed_again_and_again_leaves_an_index_like_the_store(
    location: Any, engine: str, templates: Any, tiny_bundle: Bundle, vector: Any, tmp_path: Path
) -> None:
    milvus = MilvusServer(tmp_path / "milvus", start=engine == "milvus")
    index = milvus.url if engine == "milvus" else "pgvector:"
    store = str(location) if isinstance(location, Path) else location.render_as_string(hide_password=False)
    writer, log = Writer(tiny_bundle, vector, seed=7), tmp_path / "stderr.txt"
    try:
        for kill in range(KILLS):
            served = Served(tiny_bundle.path, store, index, templates, log)
            if kill == 0:
                assert served.client.put("/v1/collections/staff").status_code == 201
            thread = threading.Thread(target=writer.work, args=(served.client,))
            thread.start()
            time.sleep(random.Random(kill).uniform(0.2, 1.2))
            served.end(signal.SIGKILL)
            thread.join(60)
        served = Served(tiny_bundle.path, store, index, templates, log)
        writer.settle(served.client)
        for faces in writer.faces.values():
            if len(faces) == 1:
                (number,) = faces.values()
                body = {"embedding": vector(number).tolist(), "model": tiny_bundle.model_id, "threshold": 0.99}
                assert served.client.post("/v1/collections/staff/search", json=body).json()["candidates"]
        served.end(signal.SIGTERM)
        assert writer.written > 3 * KILLS
        check_alike(location, index, templates)
    finally:
        milvus.kill()


def check_alike(location: Any, index: str, templates: Any) -> None:
    with Store(location) as store:
        store.unlock(None)
        engine = open_engine_of(index, store, allow_plaintext=False)
        names = IndexNames(store.vault, templates)
        with store.read() as session:
            row = session.scalars(select(CollectionRow)).one()
            held: Any = engine.index(names.of_row(row), row.dim)
            assert len(held) > 3
            assert not len(apart(session, Entries(templates), row, held, vectors=True).ids)
        assert engine.names() == {names.of_row(row)}
        engine.close()
