"""The commands, and the service as a process: started, killed, restarted, stopped."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np
import pytest

from facemargin.bundle import Bundle
from facemargin.cli import main

COMMAND = [sys.executable, "-m", "facemargin"]


class Process:
    """A running service."""

    def __init__(self, bundle: Path, store: Path, *options: str) -> None:
        arguments = ["serve", "--bundle", str(bundle), "--store", str(store), "--port", "0", *options]
        environment = {**os.environ, "FACEMARGIN_MODELS": str(store / "no-models"), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.fullmatch(r"facemargin: serving on (http://127\.0\.0\.1:\d+)\n", first)
        assert found, f"{first!r} {''.join(self.errors)}"
        self.said = [self.process.stdout.readline() for _ in range(6)]
        self.client = httpx2.Client(base_url=found[1], timeout=180)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def end(self, number: signal.Signals) -> int:
        self.client.close()
        self.process.send_signal(number)
        code = self.process.wait(180)
        self._reader.join(60)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return code


Serve = Callable[..., Process]


@pytest.fixture
def serve(tmp_path: Path, tiny_bundle: Bundle) -> Iterator[Serve]:
    with ExitStack() as running:

        def start(*options: str, bundle: Path = tiny_bundle.path) -> Process:
            started = Process(bundle, tmp_path / "store", *options)
            running.callback(lambda: started.process.poll() is None and started.end(signal.SIGKILL))
            return started

        yield start


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs the command line as `facemargin` does, without the cost of a new process."""

    def command(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["facemargin", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return command


def test_the_whole_path_over_http(serve: Serve, crop: Any, problem: Any) -> None:
    service = serve()
    client = service.client
    assert "keys: none, so only this machine is answered" in "".join(service.said)
    assert "liveness: there is none" in "".join(service.said)
    assert client.get("/health/ready").json()["status"] == "ready"
    assert client.put("/v1/collections/staff").status_code == 201
    person = client.post("/v1/collections/staff/people", json={"name": "Ada"}).json()["id"]
    faces = f"/v1/collections/staff/people/{person}/faces"
    aligned = {"aligned": "true"}
    assert client.post(faces, files={"image": crop(1)}, data=aligned).status_code == 201
    pair = {"image_a": crop(1), "image_b": crop(1, 1)}
    assert client.post("/v1/verify", files=pair, data=aligned).json()["match"] is True
    found = client.post("/v1/collections/staff/search", files={"image": crop(1, 2)}, data=aligned).json()
    assert [candidate["person"]["name"] for candidate in found["candidates"]] == ["Ada"]
    problem(client.post("/v1/embeddings", files={"images": b"text"}, data=aligned), "unsupported-image", 415)
    problem(client.post("/v1/embeddings", content=bytes(40_000_000)), "body-too-large", 413)
    assert client.get("/health/live").status_code == 200
    service.end(signal.SIGINT)
    assert "Traceback" not in "".join(service.errors)


def test_a_store_is_served_once_and_keys_work_while_it_is(
    serve: Serve, run: Any, tmp_path: Path, tiny_bundle: Bundle, problem: Any
) -> None:
    service = serve()
    store = str(tmp_path / "store")
    other = run("serve", "--bundle", str(tiny_bundle.path), "--store", store, "--port", "0")
    assert (other.returncode, other.stdout) == (2, "")
    assert "served by another process" in other.stderr
    made = run("keys", "add", "--store", store, "--scope", "read", "--scope", "embed", "--label", "door")
    assert made.returncode == 0
    key = made.stdout.strip()
    assert re.fullmatch(r"fm_[0-9a-f]{8}_[\w-]{43}", key)
    assert "cannot be shown again" in made.stderr
    problem(service.client.get("/v1/models"), "unauthenticated", 401)
    headers = {"Authorization": f"Bearer {key}"}
    assert service.client.get("/v1/collections", headers=headers).status_code == 200
    problem(service.client.put("/v1/collections/staff", headers=headers), "forbidden", 403)
    listed = json.loads(run("keys", "list", "--store", store, "--json").stdout)["keys"]
    assert [(item["scopes"], item["label"], item["revoked_at"]) for item in listed] == [
        (["embed", "read"], "door", None)
    ]
    assert key.split("_", 2)[2] not in json.dumps(listed)
    assert run("keys", "revoke", listed[0]["id"], "--store", store).returncode == 0
    problem(service.client.get("/v1/collections", headers=headers), "unauthenticated", 401)
    assert service.end(signal.SIGTERM) in (0, -signal.SIGTERM)


def test_acknowledged_writes_survive_sigkill(serve: Serve, tiny_bundle: Bundle, vector: Any) -> None:
    first = serve()
    first.client.put("/v1/collections/staff")
    person = first.client.post("/v1/collections/staff/people", json={"name": "Ada"}).json()["id"]
    url = f"/v1/collections/staff/people/{person}/faces"
    acknowledged: dict[str, int] = {}
    enough = threading.Event()

    def enrol() -> None:
        for number in range(100_000):
            body = {"embedding": vector(number).tolist(), "model": tiny_bundle.model_id}
            try:
                answer = first.client.post(url, json=body)
            except httpx2.TransportError:
                return
            acknowledged[answer.json()["id"]] = number
            if len(acknowledged) == 15:
                enough.set()

    writer = threading.Thread(target=enrol)
    writer.start()
    assert enough.wait(180)
    first.process.send_signal(signal.SIGKILL)
    writer.join(180)
    first.end(signal.SIGKILL)
    second = serve()
    stored = [face["id"] for face in second.client.get(url).json()["faces"]]
    assert stored[: len(acknowledged)] == list(acknowledged)
    assert len(stored) <= len(acknowledged) + 1  # one may have been committed and not answered
    for number in acknowledged.values():
        body = {"embedding": vector(number).tolist(), "model": tiny_bundle.model_id, "threshold": 0.99}
        found = second.client.post("/v1/collections/staff/search", json=body).json()
        assert [candidate["person"]["id"] for candidate in found["candidates"]] == [person]


def test_what_cannot_be_served_is_one_line(
    run: Any, tmp_path: Path, make_tiny_bundle: Any, tiny_bundle: Bundle
) -> None:
    store, good = str(tmp_path / "store"), str(tiny_bundle.path)
    empty, changed, unknown = (make_tiny_bundle(seed=number) for number in range(3))
    (empty.path / "model.onnx").write_bytes(b"")
    model = changed.path / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    manifest = unknown.path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"surprise": 1}))
    cases = {
        "empty (0 bytes)": ["--bundle", str(empty.path)],
        "SHA-256": ["--bundle", str(changed.path)],
        "surprise": ["--bundle", str(unknown.path)],
        "no such folder": ["--bundle", str(tmp_path / "nowhere")],
        "facemargin keys add": ["--bundle", good, "--host", "0.0.0.0"],
        "nowhere.onnx": ["--bundle", good, "--detector", str(tmp_path / "nowhere.onnx")],
    }
    for words, options in cases.items():
        done = run("serve", "--store", store, "--port", "0", *options)
        assert (done.returncode, done.stdout) == (2, ""), (words, done.stderr)
        assert words in done.stderr
        assert done.stderr.count("facemargin: error: ") == 1
        assert "Traceback" not in done.stderr
        assert Path(store).exists() == (words == "facemargin keys add")
        shutil.rmtree(store, ignore_errors=True)


def test_what_keys_refuses(tmp_path: Path, run: Any) -> None:
    for words, arguments in (
        ("admin", ["add", "--store", str(tmp_path), "--scope", "root"]),
        ("no store", ["list", "--store", str(tmp_path / "nowhere")]),
        ("no store", ["revoke", "abc", "--store", str(tmp_path / "nowhere")]),
    ):
        done = run("keys", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_option(run: Any) -> None:
    text = run("serve", "--help").stdout
    assert all(option in text for option in ("--bundle", "--store", "--host", "--port", "--detector"))
    text = run("keys", "--help").stdout
    assert all(command in text for command in ("add", "list", "revoke"))
    assert "enrol-embedding" in "".join(run("keys", "add", "--help").stdout.split())


def test_keys_that_are_all_over_are_not_said_to_be_revoked(serve: Serve, run: Any, tmp_path: Path) -> None:
    """One is revoked, the other has expired."""
    store = ("--store", str(tmp_path / "store"))
    revoked = json.loads(run("keys", "add", *store, "--scope", "read", "--json").stdout)["id"]
    assert run("keys", "revoke", revoked, *store).returncode == 0
    expiring = json.loads(run("keys", "add", *store, "--scope", "read", "--json").stdout)["id"]
    assert run("keys", "rotate", expiring, *store, "--grace", "0s").returncode == 0
    replacement = json.loads(run("keys", "list", *store, "--json").stdout)["keys"]
    (valid,) = (key["id"] for key in replacement if key["id"] not in (revoked, expiring))
    assert run("keys", "revoke", valid, *store).returncode == 0
    assert "keys: none is valid any more, so every request is refused" in "".join(serve().said)


def test_a_port_that_is_taken(run: Any, tmp_path: Path, tiny_bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--bundle", str(tiny_bundle.path), "--store", str(tmp_path / "other"), "--port", port)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr


def test_vectors_of_this_file_are_strangers(vector: Any) -> None:
    many = np.stack([vector(number) for number in range(100)])
    assert (many @ many.T - 2 * np.eye(100)).max() < 0.99
