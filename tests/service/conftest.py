"""A service in this process, with a tiny model and no network."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from starlette.testclient import TestClient

from facemargin.bundle import Bundle
from facemargin.preprocessing import encode_png
from service.app import create_app
from service.settings import Settings
from service.store import Location

Problem = Callable[..., dict[str, Any]]


class Api(TestClient):
    """A client on this machine, as the service sees it, with the few calls that many tests begin with."""

    def __init__(self, app: FastAPI, **headers: str) -> None:
        super().__init__(
            app,
            base_url="http://127.0.0.1",
            client=("127.0.0.1", 50000),
            headers=headers,
            raise_server_exceptions=False,
        )
        self.service = app.state.service
        self.model = self.service.models.default.id

    def person(self, name: str = "Ada", collection: str = "staff") -> str:
        assert self.put(f"/v1/collections/{collection}").status_code in (200, 201)
        answer = self.post(f"/v1/collections/{collection}/people", json={"name": name})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def enrol(self, person: str, vector: NDArray[Any], collection: str = "staff", **more: Any) -> dict[str, Any]:
        body = {"embedding": np.asarray(vector).tolist(), "model": self.model, **more}
        answer = self.post(f"/v1/collections/{collection}/people/{person}/faces", json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def find(self, vector: NDArray[Any], collection: str = "staff", **more: Any) -> dict[str, Any]:
        body = {"embedding": np.asarray(vector).tolist(), "model": self.model, **more}
        answer = self.post(f"/v1/collections/{collection}/search", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


MakeApi = Callable[..., Api]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests marked `both_databases` on SQLite and on PostgreSQL, but for those marked `sqlite` beside it."""
    marks = metafunc.definition
    if marks.get_closest_marker("both_databases") is None or marks.get_closest_marker("sqlite") is not None:
        return
    if "database" in metafunc.fixturenames:
        metafunc.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    """The kind of database that stores are made in: ``sqlite``, or ``postgresql``."""
    return str(getattr(request, "param", "sqlite"))


class MakeLocation(Protocol):
    """Gives the location of a store by a name: a folder of the test, or a database without rows."""

    def __call__(self, name: str = "store") -> Location: ...


@pytest.fixture
def make_location(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> MakeLocation:
    """The same name is the same location, throughout a test."""
    known: dict[str, Location] = {}

    def make(name: str = "store") -> Location:
        if name not in known:
            known[name] = tmp_path / name if database == "sqlite" else request.getfixturevalue("make_postgres_store")()
        return known[name]

    return make


@pytest.fixture
def location(make_location: MakeLocation) -> Location:
    """Where `make_api` makes its store."""
    return make_location()


@pytest.fixture
def make_api(location: Location, tiny_bundle: Bundle) -> Iterator[MakeApi]:
    """Starts services; each stops when the test ends, or when its client is closed by `restart`."""
    with ExitStack() as running:

        def make(*, bundle: Bundle = tiny_bundle, **settings: Any) -> Api:
            values = {"bundle": bundle.path, "store": location, **settings}
            return running.enter_context(Api(create_app(Settings(**values))))

        yield make


@pytest.fixture
def api(make_api: MakeApi) -> Api:
    """A service without keys and without a detector that the machine might happen to have."""
    return make_api()


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Bundle) -> Iterator[Api]:
    """A service for the tests of a file that only send what is refused: it is not started anew for each."""
    settings = Settings(bundle=tiny_bundle.path, store=tmp_path_factory.mktemp("shared") / "store")
    with Api(create_app(settings)) as running:
        yield running


@pytest.fixture
def photo_api(make_api: MakeApi, shared_data: Path) -> Api:
    """A service with the face detector."""
    return make_api(detector=shared_data / "models" / "yunet_n_dynamic.onnx")


@pytest.fixture
def problem() -> Problem:
    """Checks that an answer is a problem of this slug, and gives its members."""

    def check(answer: Any, slug: str, status: int) -> dict[str, Any]:
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
        body: dict[str, Any] = answer.json()
        assert body["type"] == f"urn:facemargin:problem:{slug}", body
        assert body["status"] == status
        assert body["title"]
        assert body["detail"]
        assert body["request_id"] == answer.headers["x-request-id"]
        assert "Traceback" not in answer.text
        return body

    return check


@pytest.fixture(scope="session", autouse=True)
def _no_detector_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACEMARGIN_MODELS", str(tmp_path_factory.mktemp("no-models")))
        yield


def unit(seed: int, dim: int = 32) -> NDArray[np.float32]:
    vector = np.random.default_rng(seed).standard_normal(dim)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


@pytest.fixture
def vector() -> Callable[[int], NDArray[np.float32]]:
    """Unit vectors by number; two numbers are two strangers."""
    return unit


@pytest.fixture
def crop() -> Callable[..., bytes]:
    """PNG files of made-up aligned crops: a pattern of coarse blocks per identity, with noise per picture."""

    def make(identity: int, picture: int = 0, size: tuple[int, int] = (112, 112)) -> bytes:
        blocks = np.random.default_rng(identity).integers(30, 226, (7, 7, 3))
        noise = np.random.default_rng([identity, picture]).integers(-25, 26, (*size, 3))
        pattern = np.kron(blocks, np.ones((size[0] // 7, size[1] // 7, 1), dtype=int))
        return encode_png(np.clip(pattern + noise, 0, 255).astype(np.uint8))

    return make
