"""The corpus, and a real service process to send it to."""

import base64
import copy
import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from facemargin.bundle import Bundle
from service.problems import ALL_PROBLEMS, TYPE_PREFIX
from training.demo.service_process import ServiceProcess

from .corpus import corpus
from .pictures import Sample

DEADLINE_SECONDS = 20.0
"""A request that takes longer is a hang; the slowest of the corpus takes about 2 s when the machine is idle."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A reply: status, content type and JSON (None without a body)."""

    status: int
    media_type: str
    body: Any

    @property
    def problem(self) -> str | None:
        """The slug of the problem; None for a success."""
        return None if self.status < 400 else str(self.body["type"]).removeprefix(TYPE_PREFIX)

    def check(self) -> None:
        """Pass if this is a success, or a problem of the documented table that is no fault of the service."""
        expected = self.status < 500 or self.problem == "detector-missing"  # this service has none
        assert expected, f"{self.status}: {self.body}"
        if self.status >= 400:
            assert self.media_type == "application/problem+json"
            assert self.problem in ALL_PROBLEMS
            assert self.status == ALL_PROBLEMS[self.problem].status == self.body["status"]
            assert self.body["detail"]
            assert self.body["request_id"]
            assert "Traceback" not in json.dumps(self.body)


class Target:
    """A service in a process of its own, one connection to it, and its memory."""

    def __init__(self, process: ServiceProcess, bundle: Bundle) -> None:
        self.pid = process.process.pid
        self.log = process.log
        self.model = bundle.model_id
        self.bundle = bundle
        self._address = urlsplit(process.url)
        self.address = self._address.netloc
        self._connection = self._connect()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=DEADLINE_SECONDS)

    @contextmanager
    def twin(self) -> Iterator["Target"]:
        """The same service over another connection, for another thread."""
        other = copy.copy(self)
        other._connection = self._connect()
        try:
            yield other
        finally:
            other.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def send(self, method: str, path: str, content: bytes | None = None, media_type: str = "") -> Answer:
        """One request; a connection that the service closed before it is opened anew."""
        headers = {"Content-Type": media_type} if media_type else {}
        try:
            self._connection.request(method, path, content, headers)
            reply = self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self._connection.close()
            self._connection = self._connect()
            self._connection.request(method, path, content, headers)
            reply = self._connection.getresponse()
        text = reply.read()
        found = reply.headers.get_content_type()
        return Answer(reply.status, found, json.loads(text) if text and "json" in found else None)

    def json(self, method: str, path: str, body: Any = None) -> Answer:
        """A request with JSON."""
        content = None if body is None else json.dumps(body).encode()
        return self.send(method, path, content, "application/json" if content is not None else "")

    def post_images(
        self, path: str, images: list[tuple[str, bytes]], *, form: bool, kind: str = "image/jpeg", **fields: str
    ) -> Answer:
        """Files as a form, said to be of some kind, or as base64 in JSON; `images` of JSON is a list."""
        if form:
            return self.send("POST", path, *multipart(images, fields, kind=kind))
        texts = {name: base64.b64encode(data).decode() for name, data in images}
        body = {name: [text] if name == "images" else text for name, text in texts.items()}
        return self.json("POST", path, body | {name: json.loads(value) for name, value in fields.items()})

    @property
    def peak_mib(self) -> float:
        """The most memory that the process has had, in MiB."""
        return self._status("VmHWM")

    @property
    def memory_mib(self) -> float:
        """Memory that it has now, in MiB."""
        return self._status("VmRSS")

    def _status(self, field: str) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def multipart(
    files: list[tuple[str, bytes]], fields: dict[str, str], *, kind: str = "image/jpeg", name: str = "x.jpg"
) -> tuple[bytes, str]:
    """A form and its media type."""
    boundary = "5f1c9ab07de24e0d8a6b"
    parts = [(f'name="{field}"', value.encode()) for field, value in fields.items()]
    parts += [(f'name="{field}"; filename="{name}"\r\nContent-Type: {kind}', data) for field, data in files]
    content = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    return content + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """The corpus."""
    return corpus()


@pytest.fixture(scope="module")
def target(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A service with default settings and the tiny model."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to read the memory of a process")
    folder = tmp_path_factory.mktemp("target")
    with ServiceProcess(tiny_bundle.path, folder / "store", folder / "service.log") as process:
        running = Target(process, tiny_bundle)
        try:
            yield running
        finally:
            running.close()
