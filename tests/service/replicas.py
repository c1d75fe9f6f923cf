"""Service processes on one PostgreSQL behind the proxy that is delivered, and clients who know what they were told."""

import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from sqlalchemy import URL

from facemargin.bundle import Bundle
from facemargin.client import Client, Retries

CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
PROMISED_S = 1.0
_SOON_S = 60.0


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Replica:
    """A service process on a port of its own, which it has again after it was killed."""

    def __init__(self, bundle: Path, store: URL, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"replica-{self.port}.log"
        named = {"REQUESTS_PER_MINUTE": "0", "LOG_LEVEL": "warning", "MODELS": str(folder / "none")} | settings
        self._environment = os.environ | {f"FACEMARGIN_{name}": value for name, value in named.items()}
        place = store.render_as_string(hide_password=False)
        self._command = [sys.executable, "-m", "facemargin", "serve", "--bundle", str(bundle), "--store", place]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin; `wait` waits until it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "--port", str(self.port)],
                stdout=log,
                stderr=log,
                env=self._environment | {"PYTHONUNBUFFERED": "1"},
            )

    def wait(self) -> None:
        until = time.monotonic() + _SOON_S
        while not self.ready():
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < until, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/health/ready", timeout=5).status_code == 200
        except httpx2.TransportError:
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)


@contextmanager
def running(count: int, bundle: Path, store: URL, folder: Path, **settings: str) -> Iterator[list[Replica]]:
    """Replicas, all ready."""
    replicas = [Replica(bundle, store, folder, **settings) for _ in range(count)]
    try:
        for each in replicas:
            each.start()
        for each in replicas:
            each.wait()
        yield replicas
    finally:
        for each in replicas:
            each.kill()


@contextmanager
def proxied(replicas: list[Replica], haproxy: str, folder: Path) -> Iterator[str]:
    """The URL of the proxy before replicas."""
    port, status = free_port(), free_port()
    environment = {
        **{f"FACEMARGIN_REPLICA_{n}": f"127.0.0.1:{replica.port}" for n, replica in enumerate(replicas, 1)},
        "FACEMARGIN_PROXY_BIND": f"127.0.0.1:{port}",
        "FACEMARGIN_PROXY_STATUS_BIND": f"127.0.0.1:{status}",
        "FACEMARGIN_PROXY_CHECK_MS": "100",
    }
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen([haproxy, "-db", "-f", CONFIG], env=os.environ | environment, stdout=log, stderr=log)
    try:
        until = time.monotonic() + _SOON_S
        while not _in_use(status, len(replicas)):
            assert process.poll() is None, (folder / "proxy.log").read_text()
            assert time.monotonic() < until, (folder / "proxy.log").read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def _in_use(port: int, replicas: int) -> bool:
    try:
        figures = httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
    except httpx2.TransportError:
        return False
    return len(re.findall(r'^haproxy_server_status\{.*state="UP"\} 1$', figures, re.MULTILINE)) == replicas


@dataclass(eq=False)
class Face:
    """A face that somebody enrolled.

    Attributes:
        person: id.
        number: of its vector.
        id: None until it was acknowledged.
        enrolled_at: when that was.
        leaving: whether its deletion, or the person's, was sent.
        gone_at: when that was acknowledged.
        with_person: whether the person went.
    """

    person: str
    number: int
    id: str | None = None
    enrolled_at: float | None = None
    leaving: bool = False
    gone_at: float | None = None
    with_person: bool = False


@dataclass(eq=False)
class Writer:
    """Somebody who enrols and deletes through the proxy, with `facemargin.client`, and sees no error."""

    number: int
    url: str
    key: str
    bundle: Bundle
    vector: Any
    pause_s: float = 0.0
    faces: list[Face] = field(default_factory=list)
    people: list[str] = field(default_factory=list)
    written: int = 0

    def work(self, until: threading.Event) -> None:
        chance = random.Random(self.number)
        with Client(self.url, self.key, retries=Retries(deadline=120.0)) as client:
            while not until.wait(self.pause_s):
                self.write(client, chance)

    def write(self, client: Client, chance: random.Random) -> None:
        choice, here = chance.random(), [face for face in self.faces if not face.leaving]
        self.written += 1
        if not self.people or choice < 0.15:
            self.people.append(client.add_person("staff", f"somebody of {self.number}").id)
        elif choice < 0.65 or not here:
            face = Face(chance.choice(self.people), 1_000_000 * (self.number + 1) + self.written)
            self.faces.append(face)
            vector = self.vector(face.number)
            face.id = client.enrol_embedding("staff", face.person, vector, self.bundle.model_id).id
            face.enrolled_at = time.monotonic()
        elif choice < 0.9:
            face = chance.choice(here)
            face.leaving = True
            assert face.id is not None
            client.delete_face("staff", face.person, face.id)
            face.gone_at = time.monotonic()
        else:
            self.leave(client, chance.choice(here).person)

    def leave(self, client: Client, person: str) -> None:
        self.people.remove(person)
        faces = [face for face in self.faces if face.person == person and not face.leaving]
        for face in faces:
            face.leaving = True
        client.delete_person("staff", person)
        for face in faces:
            face.gone_at, face.with_person = time.monotonic(), True


@dataclass(eq=False)
class Watcher:
    """Somebody who searches through one replica for what was just written through any, while it answers.

    Attributes:
        seen: searches that were answered.
        refused: those that were not.
    """

    replica: Replica
    key: str
    bundle: Bundle
    vector: Any
    writers: list[Writer]
    pause_s: float = 0.02
    seen: int = 0
    refused: int = 0

    def work(self, until: threading.Event) -> None:
        chance = random.Random(self.replica.port)
        headers = {"Authorization": f"Bearer {self.key}"}
        with httpx2.Client(base_url=self.replica.url, headers=headers, timeout=20) as client:
            while not until.wait(self.pause_s):
                faces = [face for writer in self.writers for face in writer.faces[-20:] if face.id is not None]
                if faces:
                    self.look(client, chance.choice(faces))

    def look(self, client: httpx2.Client, face: Face) -> bool:
        """Search for a face; whether there was an answer, which is as promised then."""
        began = time.monotonic()
        gone_for = began - face.gone_at if face.gone_at is not None else None
        here_for = began - face.enrolled_at if face.enrolled_at is not None else 0.0
        gone_with_person = face.with_person
        body = {"embedding": self.vector(face.number).tolist(), "model": self.bundle.model_id, "threshold": 0.999}
        try:
            answer = client.post("/v1/collections/staff/search", json=body)
        except httpx2.TransportError:
            self.refused += 1
            return False
        if answer.status_code == 503:
            self.refused += 1
            return False
        assert answer.status_code == 200, answer.text
        self.seen += 1
        found = [candidate["person"]["id"] for candidate in answer.json()["candidates"]]
        if gone_for is not None and (gone_with_person or gone_for > PROMISED_S):
            assert found == [], f"served {gone_for:.2f} s after its deletion was acknowledged"
        if here_for > PROMISED_S and not face.leaving:
            assert found == [face.person], f"not found {here_for:.2f} s after it was enrolled"
        return True


def together(workers: list[Any], until: threading.Event) -> tuple[list[threading.Thread], list[BaseException]]:
    """Have all work in threads; what they raise is collected, and ends the others."""
    failed: list[BaseException] = []

    def work(each: Any) -> None:
        try:
            each.work(until)
        except BaseException as error:
            failed.append(error)
            until.set()

    threads = [threading.Thread(target=work, args=(each,)) for each in workers]
    for thread in threads:
        thread.start()
    return threads, failed
