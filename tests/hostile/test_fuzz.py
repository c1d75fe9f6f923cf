"""Bodies and requests that are broken on purpose, made from a seed: each reply is a success or a named problem."""

import json
import os
import socket

import numpy as np
import pytest

from facemargin.preprocessing import encode_png

from .conftest import Target, multipart
from .pictures import scene

ROUNDS = int(os.environ.get("FACEMARGIN_FUZZ_ROUNDS", "60"))
"""Mutations of each body in the normal suite; the slow test makes 20 times as many."""

TOKENS = (
    *(b"\r\n", b"--", b"\0", b"\xff", b'"', b"\\", b"{", b"[", b"]", b"}", b"null", b"true"),
    *(b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 400, b"[" * 500, b'{"a":' * 500, b"A" * 70_000),
    *(b"\xed\xa0\x80", b'"\\ud800"', "\u202eAda\0".encode(), b"../../etc/passwd", b"%00", b"'; DROP TABLE people; --"),
    *(b'name="', b"filename*=utf-8''%ff", b"Content-Transfer-Encoding: base64\r\n"),
    b"Content-Disposition: form-data; name=image\r\n\r\n",
)

IMAGE = encode_png(scene())


@pytest.fixture(scope="module")
def bodies(target: Target) -> list[tuple[str, bytes, str]]:
    """A good body of every form for every route that takes one: path, content and media type."""
    assert target.json("PUT", "/v1/collections/staff").status == 201
    person = target.json("POST", "/v1/collections/staff/people", {"name": "Ada"}).body["id"]
    faces = f"/v1/collections/staff/people/{person}/faces"
    vector = {"embedding": np.linspace(-1, 1, 32).tolist(), "model": target.model}
    forms = [
        ("/v1/embeddings", [("images", IMAGE), ("images", IMAGE)], {"aligned": "true", "face": "all"}),
        ("/v1/verify", [("image_a", IMAGE), ("image_b", IMAGE)], {"aligned": "true", "max_fmr": "0.01"}),
        ("/v1/collections/staff/search", [("image", IMAGE)], {"aligned": "true", "max_fpir": "0.1", "limit": "3"}),
        (faces, [("image", IMAGE)], {"aligned": "true", "min_quality": '{"sharpness": 0.1}'}),
    ]
    texts = [
        ("/v1/collections/staff/search", {**vector, "limit": 3}),
        (faces, vector),
        ("/v1/verify", {"image_a": "AAAA", "collection": "staff", "person": person, "aligned": True}),
        ("/v1/collections/staff/people", {"name": "Grace"}),
    ]
    found = [(path, *multipart(files, fields)) for path, files, fields in forms]
    return found + [(path, json.dumps(body).encode(), "application/json") for path, body in texts]


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """A few cuts, repeats, insertions and changed bytes, mostly outside the pixels."""
    data = bytearray(content)
    for _ in range(random.integers(1, 6)):
        at = int(random.integers(0, min(len(data), 600) + 1))
        match random.integers(5):
            case 0:
                del data[at : at + int(random.integers(1, 40))]
            case 1:
                data[at:at] = data[at : at + int(random.integers(1, 200))]
            case 2:
                data[at:at] = TOKENS[random.integers(len(TOKENS))]
            case 3 if at < len(data):
                data[at] = int(random.integers(256))
            case _:
                data = data[: int(random.integers(0, len(data) + 1))]
    return bytes(data)


def attack(target: Target, bodies: list[tuple[str, bytes, str]], *, rounds: int, seed: int) -> set[str | None]:
    random, seen = np.random.default_rng(seed), set()
    for _ in range(rounds):
        for path, content, media_type in bodies:
            answer = target.send("POST", path, mutated(content, random), media_type)
            answer.check()
            seen.add(answer.problem)
    assert target.json("GET", "/health/ready").status == 200
    assert "Traceback" not in target.log.read_text()
    return seen


def test_mutated_bodies_get_a_reply_that_is_named(target: Target, bodies: list[tuple[str, bytes, str]]) -> None:
    seen = attack(target, bodies, rounds=ROUNDS, seed=0)
    assert {None, "bad-body", "invalid-json", "invalid-request"} <= seen


@pytest.mark.slow
def test_many_mutated_bodies_get_a_reply_that_is_named(target: Target, bodies: list[tuple[str, bytes, str]]) -> None:
    before = target.memory_mib
    attack(target, bodies, rounds=20 * ROUNDS, seed=1)
    assert target.memory_mib < before + 100


def test_media_types_that_lie(target: Target, bodies: list[tuple[str, bytes, str]]) -> None:
    for path, content, media_type in bodies:
        for other in ("application/json", "multipart/form-data", "multipart/form-data; boundary=", "x", ""):
            target.send("POST", path, content, other).check()
        for charset in ("utf-16", "utf-7", "idna", "rot13", "undefined", "base64"):
            target.send("POST", path, content, f"{media_type}; charset={charset}").check()


@pytest.mark.parametrize(
    "raw",
    [
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /v1/verify HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/verify HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/collections/%00%ff%2e%2e%2f HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_what_is_no_http_harms_nobody(target: Target, raw: bytes) -> None:
    host, _, port = target.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        try:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            reply = connection.recv(65536)
        except (ConnectionError, BrokenPipeError):
            reply = b""
    assert not reply.startswith(b"HTTP/1.1 5")
    assert target.json("GET", "/health/live").status == 200
