"""The proxy that is delivered, run by the real haproxy before stand-ins for replicas."""

import hashlib
import json
import os
import re
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.server import GRACE_SECONDS
from service.settings import Settings

from .programs import program
from .replicas import Replica, free_port

CHECK_MS = 100
SOON_S = 5.0
LIMIT = 2 * 1024 * 1024
PROBLEM = "application/problem+json"


class Proxy:
    """A running haproxy, and a client of it."""

    def __init__(self, config: Path, replicas: list[Replica], folder: Path, **settings: str) -> None:
        self.replicas = replicas
        self.port, status = free_port(), free_port()
        self.environment = {
            **{f"FACEMARGIN_REPLICA_{n}": f"127.0.0.1:{replica.port}" for n, replica in enumerate(replicas, 1)},
            "FACEMARGIN_PROXY_BIND": f"127.0.0.1:{self.port}",
            "FACEMARGIN_PROXY_STATUS_BIND": f"127.0.0.1:{status}",
            "FACEMARGIN_PROXY_CHECK_MS": str(CHECK_MS),
            "FACEMARGIN_MAX_BODY_BYTES": str(LIMIT),
            **settings,
        }
        self.log = folder / "proxy.log"
        command = [program("haproxy", why="Debian's package"), "-db", "-f", str(config)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, env=os.environ | self.environment, stdout=log, stderr=log)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20, trust_env=False)
        self._status = httpx.Client(base_url=f"http://127.0.0.1:{status}", timeout=5, trust_env=False)
        self.wait(lambda: self.status() is not None)

    def status(self) -> int | None:
        """What /health says; None before it answers."""
        try:
            return self._status.get("/health").status_code
        except httpx.TransportError:
            return None

    def figures(self) -> str:
        return self._status.get("/metrics").text

    def in_use(self) -> int:
        """Replicas that get requests."""
        return len(re.findall(r'^haproxy_server_status\{.*state="UP"\} 1$', self.figures(), re.MULTILINE))

    def wait(self, until: Callable[[], bool]) -> None:
        end = time.monotonic() + SOON_S
        while not until():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def wait_for(self, replicas: int) -> None:
        self.wait(lambda: self.in_use() == replicas)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def stop(self) -> None:
        self.client.close()
        self._status.close()
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def start(deploy: Path, tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    running: list[Proxy] = []

    def make(count: int = 3, **settings: str) -> Proxy:
        replicas = [Replica(f"replica{n}") for n in range(1, count + 1)]
        for replica in replicas:
            replica.start()
        running.append(Proxy(deploy / "haproxy.cfg", replicas, tmp_path, **settings))
        return running[-1]

    yield make
    for proxy in running:
        proxy.stop()
        for replica in proxy.replicas:
            replica.kill()


@pytest.fixture
def proxy(start: Callable[..., Proxy]) -> Proxy:
    return start()


def asked(proxy: Proxy, path: str) -> Counter[str]:
    """How often each replica was asked for a path."""
    return Counter(replica.name for replica in proxy.replicas for request in replica.asked if request.path == path)


def test_the_file_is_valid_and_says_what_it_lacks(deploy: Path) -> None:
    command = [program("haproxy", why="Debian's package"), "-c", "-f", str(deploy / "haproxy.cfg")]
    places = {f"FACEMARGIN_REPLICA_{n}": f"127.0.0.1:{n}" for n in range(1, 7)}
    bare = {name: value for name, value in os.environ.items() if not name.startswith("FACEMARGIN_")}
    complete = subprocess.run(command, env=bare | places, capture_output=True, text=True, check=False)
    assert (complete.returncode, "WARNING" in complete.stderr) == (0, False), complete.stderr
    for missing in ("FACEMARGIN_REPLICA_1", "FACEMARGIN_REPLICA_2"):
        fewer = {name: place for name, place in places.items() if name != missing}
        lacking = subprocess.run(command, env=bare | fewer, capture_output=True, text=True, check=False)
        assert lacking.returncode == 1
        assert f"set {missing} to host:port" in lacking.stderr


def test_its_limits_are_those_of_the_service(deploy: Path) -> None:
    text = (deploy / "haproxy.cfg").read_text()
    limits = {name: int(value) for name, value in re.findall(r"^ +(?:timeout )?([a-z-]+) (\d+)s\b", text, re.MULTILINE)}
    settings = {name: field.default for name, field in Settings.model_fields.items()}
    assert f"presetenv FACEMARGIN_MAX_BODY_BYTES {settings['max_body_bytes']}\n" in text
    assert limits["http-request"] == settings["head_seconds"]
    assert limits["hard-stop-after"] > GRACE_SECONDS
    per_replica = re.search(r"default-server .* maxconn (\d+)", text)
    assert per_replica is not None
    assert int(per_replica[1]) < settings["max_connections"]


def test_requests_are_spread_and_arrive_as_they_were_sent(proxy: Proxy) -> None:
    for _ in range(30):
        answer = proxy.client.get(
            "/v1/models?page=2", headers={"Host": "faces.example", "X-Forwarded-For": "192.0.2.9"}
        )
        assert answer.status_code == 200
    assert asked(proxy, "/v1/models?page=2") == {"replica1": 10, "replica2": 10, "replica3": 10}
    seen = proxy.replicas[0].asked[0].headers
    assert seen["host"] == "faces.example"
    assert "x-forwarded-for" not in seen


def test_no_read_fails_while_one_replica_after_the_other_is_killed(proxy: Proxy) -> None:
    statuses: Counter[int] = Counter()
    over = threading.Event()

    def read() -> None:
        with httpx.Client(base_url=proxy.client.base_url, timeout=20, trust_env=False) as client:
            while not over.is_set():
                statuses[client.get("/v1/models").status_code] += 1
                time.sleep(0.002)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for replica in proxy.replicas:
        replica.kill()
        proxy.wait_for(2)
        time.sleep(0.1)
        replica.start()
        proxy.wait_for(3)
    over.set()
    for reader in readers:
        reader.join()
    assert set(statuses) == {200}
    assert statuses[200] > 50
    assert len(asked(proxy, "/v1/models")) == 3


def test_a_replica_that_is_not_ready_gets_nothing_until_it_is(proxy: Proxy) -> None:
    proxy.replicas[1].ready = False
    proxy.wait_for(2)
    for _ in range(9):
        assert proxy.client.get("/v1/models").status_code == 200
    assert asked(proxy, "/v1/models")["replica2"] == 0
    proxy.replicas[1].ready = True
    proxy.wait_for(3)
    for _ in range(9):
        proxy.client.get("/v1/models")
    assert asked(proxy, "/v1/models")["replica2"] == 3


REPEATABLE = [
    ("GET", "/v1/collections", {}),
    ("POST", "/v1/collections/staff/search", {}),
    ("POST", "/v1/embeddings", {}),
    ("POST", "/v1/verify", {}),
    ("POST", "/v1/collections/staff/people", {"Idempotency-Key": "a1"}),
    ("DELETE", "/v1/collections/staff/people/p_1", {"Idempotency-Key": "a2"}),
]


@pytest.mark.parametrize("manner", ["busy", "cut"])
@pytest.mark.parametrize(("method", "path", "headers"), REPEATABLE)
def test_what_may_be_repeated_is_taken_to_another_replica(
    start: Callable[..., Proxy], method: str, path: str, headers: dict[str, str], manner: Any
) -> None:
    proxy = start(2)
    proxy.replicas[0].manner = manner
    body = b"x" * 20_000 if method == "POST" else None
    for _ in range(2):  # one of them comes to the first replica first
        answer = proxy.client.request(method, path, headers=headers, content=body)
        assert (answer.status_code, answer.json()["replica"]) == (200, "replica2")
    assert asked(proxy, path)["replica1"] >= 1
    assert {request.body for request in proxy.replicas[1].asked} == {body or b""}


@pytest.mark.parametrize(("manner", "status"), [("busy", 503), ("cut", 502)])
@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/v1/collections/staff/people", {}),
        ("DELETE", "/v1/collections/staff", {}),
        ("PUT", "/v1/collections/search", {}),
        ("POST", "/api/v1/recognition/faces", {"Idempotency-Key": "a1"}),  # that API knows no such keys
    ],
)
def test_a_write_that_is_not_done_once_only_is_never_sent_twice(
    start: Callable[..., Proxy], method: str, path: str, headers: dict[str, str], manner: Any, status: int
) -> None:
    proxy = start(2)
    for replica in proxy.replicas:
        replica.manner = manner
    answer = proxy.client.request(method, path, headers=headers | {"X-Request-ID": "mine"})
    assert answer.status_code == status
    assert asked(proxy, path).total() == 1
    if manner == "cut":
        assert answer.headers["Content-Type"] == PROBLEM
        assert (answer.json()["status"], answer.json()["request_id"], answer.headers["X-Request-ID"]) == (
            502,
            "mine",
            "mine",
        )


def test_a_large_write_finds_another_replica_when_the_first_is_gone(start: Callable[..., Proxy]) -> None:
    proxy = start(2, FACEMARGIN_PROXY_CHECK_MS="60000")  # the checks will not notice
    photo = os.urandom(LIMIT)
    proxy.replicas[0].kill()
    for _ in range(2):
        answer = proxy.client.post("/v1/collections/staff/people/p_1/faces", content=photo)
        assert answer.json() == {"replica": "replica2", "bytes": LIMIT}
    assert {hashlib.sha256(request.body).digest() for request in proxy.replicas[1].asked} == {
        hashlib.sha256(photo).digest()
    }


def test_without_a_replica_the_answer_says_so_and_the_next_one_works(start: Callable[..., Proxy]) -> None:
    proxy = start(2)
    for replica in proxy.replicas:
        replica.kill()
    proxy.wait(lambda: proxy.status() == 503)
    answer = proxy.client.get("/v1/models")
    assert (answer.status_code, answer.headers["Content-Type"], answer.headers["Retry-After"]) == (503, PROBLEM, "1")
    assert answer.json()["type"] == "urn:facemargin:problem:not-ready"
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] != ""
    proxy.replicas[1].start()
    proxy.wait(lambda: proxy.status() == 200)
    assert proxy.client.get("/v1/models").json()["replica"] == "replica2"


def test_a_body_above_the_services_limit_goes_no_further(proxy: Proxy) -> None:
    answer = proxy.client.post("/v1/embeddings", content=b"x" * (LIMIT + 1), headers={"X-Request-ID": "big"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, PROBLEM)
    assert answer.json()["type"] == "urn:facemargin:problem:body-too-large"
    assert (answer.json()["limit"], answer.json()["request_id"]) == (LIMIT, "big")
    assert asked(proxy, "/v1/embeddings").total() == 0
    assert proxy.client.post("/v1/embeddings", content=b"x" * LIMIT).json()["bytes"] == LIMIT


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("9f2c41d07ab3e658", True), ("a.B_c-1", True), ('"quoted"', False), ("x" * 65, False), (None, False)],
)
def test_a_request_has_an_id_that_the_replica_gets(proxy: Proxy, sent: str | None, kept: bool) -> None:
    answer = proxy.client.get("/v1/models", headers={} if sent is None else {"X-Request-ID": sent})
    seen = [request.headers["x-request-id"] for replica in proxy.replicas for request in replica.asked]
    assert seen == [answer.headers["X-Request-ID"]]
    assert (seen[0] == sent) is kept
    assert 8 <= len(seen[0]) <= 64 or kept


def test_the_log_tells_of_requests_and_not_of_people(proxy: Proxy) -> None:
    proxy.client.get(
        "/v1/collections/staff/people/p_4fz1k8?name=Ada", headers={"X-Request-ID": "r1", "User-Agent": "Ada"}
    )
    proxy.wait(lambda: bool(proxy.lines()))
    (line,) = proxy.lines()
    assert (line["request_id"], line["method"], line["status"], line["replica"]) == ("r1", "GET", 200, "replica1")
    assert datetime.fromisoformat(line["time"]).tzinfo is not None
    text = proxy.log.read_text()
    assert not any(secret in text for secret in ("p_4fz1k8", "Ada", "staff", "127.0.0.1"))


def test_with_a_certificate_clients_come_in_by_tls_only(start: Callable[..., Proxy], tmp_path: Path) -> None:
    proxy = start(2, FACEMARGIN_PROXY_CERTIFICATE=str(_certificate(tmp_path / "proxy.pem")))
    trusted = ssl.create_default_context(cafile=tmp_path / "proxy.pem")
    with httpx.Client(verify=trusted, trust_env=False) as client:
        assert client.get(f"https://localhost:{proxy.port}/v1/models").status_code == 200
    with pytest.raises(httpx.TransportError):
        proxy.client.get("/v1/models")


def _certificate(file: Path) -> Path:
    """Certificate and key of `localhost`, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    moment = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - timedelta(hours=1))
        .not_valid_after(moment + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(certificate.public_bytes(pem) + private)
    return file
