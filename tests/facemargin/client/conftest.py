"""A service in this process or in another, and clients of it."""

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from facemargin.bundle import Bundle
from facemargin.client import Client, Retries
from facemargin.preprocessing import encode_png
from service.app import create_app
from service.settings import Settings

URL = "http://127.0.0.1"


class InProcess(httpx.BaseTransport):
    """Carries the requests of a blocking client to an app in this process; remembers them."""

    def __init__(self, server: TestClient) -> None:
        self.server = server
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.server.request(
            request.method, str(request.url), content=request.read(), headers=dict(request.headers)
        )
        return httpx.Response(answer.status_code, headers=dict(answer.headers), content=answer.content)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Bundle) -> Iterator[TestClient]:
    """A service without keys, running in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACEMARGIN_MODELS", str(tmp_path_factory.mktemp("no-models")))
        app = create_app(Settings(bundle=tiny_bundle.path, store=tmp_path_factory.mktemp("client") / "store"))
    with TestClient(app, base_url=URL, client=("127.0.0.1", 50000), raise_server_exceptions=False) as running:
        yield running


@pytest.fixture(scope="module")
def app(server: TestClient) -> FastAPI:
    """The app of that service."""
    assert isinstance(server.app, FastAPI)
    return server.app


@pytest.fixture
def transport(server: TestClient) -> InProcess:
    return InProcess(server)


@pytest.fixture
def client(transport: InProcess) -> Iterator[Client]:
    """A blocking client of the service in this process, with an empty collection ``staff``."""
    with Client(URL, transport=transport, retries=Retries(deadline=5, first_wait=0.001)) as made:
        if "staff" in {found.name for found in made.collections().collections}:
            made.delete_collection("staff")
        made.create_collection("staff")
        transport.requests.clear()
        yield made


@functools.cache
def png(identity: int, picture: int = 0) -> bytes:
    """A made-up aligned crop: a pattern of coarse blocks per identity, with noise per picture."""
    blocks = np.random.default_rng(identity).integers(30, 226, (7, 7, 3))
    noise = np.random.default_rng([identity, picture]).integers(-25, 26, (112, 112, 3))
    pattern = np.kron(blocks, np.ones((16, 16, 1), dtype=int))
    return encode_png(np.clip(pattern + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def crop() -> Callable[..., bytes]:
    return png


@pytest.fixture
def people_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with one folder a person."""

    def make(people: int, pictures: int) -> Path:
        root = tmp_path / "photos"
        for person in range(people):
            (root / f"Person {person}").mkdir(parents=True)
            for picture in range(pictures):
                (root / f"Person {person}" / f"{picture}.png").write_bytes(png(person, picture))
        return root

    return make


class Process:
    """A service in a process of its own."""

    def __init__(self, bundle: Path, store: Path, port: int = 0) -> None:
        arguments = ["serve", "--bundle", str(bundle), "--store", str(store), "--port", str(port)]
        environment = {**os.environ, "FACEMARGIN_MODELS": str(store / "no-models"), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "facemargin", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.fullmatch(r"facemargin: serving on (http://127\.0\.0\.1:(\d+))\n", first)
        assert found, first
        self.url, self.port = found[1], int(found[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def start_process(tiny_bundle: Bundle) -> Iterator[Callable[..., Process]]:
    """Starts services in processes of their own; they end with the tests of the file."""
    running: list[Process] = []

    def start(store: Path, port: int = 0) -> Process:
        running.append(Process(tiny_bundle.path, store, port))
        return running[-1]

    yield start
    for each in running:
        each.kill()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, start_process: Callable[..., Process]) -> Process:
    return start_process(tmp_path_factory.mktemp("process") / "store")


@pytest.fixture
def everybody() -> Callable[[Client, str], dict[str, list[str]]]:
    """Names to ids of faces; fails if two people have one name, or a face is listed twice."""

    def look(client: Client, collection: str) -> dict[str, list[str]]:
        people = list(client.people(collection))
        found = {who.name: [face.id for face in client.faces(collection, who.id).faces] for who in people}
        assert len(found) == len(people)
        faces = [face for ids in found.values() for face in ids]
        assert len(set(faces)) == len(faces)
        return found

    return look


def answers(*said: Any) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A transport that gives these answers one after the other (an exception is raised), and what it was sent."""
    left, sent = list(said), list[httpx.Request]()

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, httpx.Response)
        return answer

    return httpx.MockTransport(handle), sent


@pytest.fixture
def script() -> Callable[..., tuple[httpx.MockTransport, list[httpx.Request]]]:
    return answers
