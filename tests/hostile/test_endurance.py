"""A hundred thousand requests, good and bad, from four clients: the service's memory stays where it was.

`FACEMARGIN_ENDURANCE_REQUESTS` sets another number. A quarter of the requests embed one or two crops with MobileFaceNet
(random weights: only its cost matters); the rest search, list, or are wrong in one of many ways.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facemargin.bundle import Manifest, write_bundle
from facemargin.preprocessing import encode_jpeg, encode_png
from training.demo.service_process import ServiceProcess

from .conftest import Target, multipart
from .corpus import corpus
from .pictures import Sample, scene

REQUESTS = int(os.environ.get("FACEMARGIN_ENDURANCE_REQUESTS", "100000"))
CLIENTS = 4
WARM = 0.1
"""The share of the requests after which memory is first taken."""

MOST_GROWTH = 0.05
DIM = 128
LARGEST_FILE = 20_000
"""Bytes; the bad files come from the corpus, and sending its largest ones would be most of the time."""

Request = Callable[[Target], Any]


@pytest.fixture(scope="module")
def busy(synthetic_calibration: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A service with MobileFaceNet and a collection of 200 faces."""
    from facemargin.backbones import make_backbone
    from training.export import to_onnx

    folder = tmp_path_factory.mktemp("busy")
    model = make_backbone("mobilefacenet", embedding_dim=DIM).eval()
    manifest = Manifest(
        name="mobilefacenet", embedding_dim=DIM, opset=18, card="Random weights, for tests.", licence="", metrics=()
    ).model_copy(update={"calibration": synthetic_calibration})
    bundle = write_bundle(folder / "bundle", manifest, {"model.onnx": to_onnx(model, (112, 112))})
    with ServiceProcess(bundle.path, folder / "store", folder / "service.log") as process:
        target = Target(process, bundle)
        try:
            target.json("PUT", "/v1/collections/staff")
            for number in range(200):
                person = target.json("POST", "/v1/collections/staff/people", {"name": f"person {number}"}).body["id"]
                vector = np.random.default_rng(number).standard_normal(DIM).tolist()
                path = f"/v1/collections/staff/people/{person}/faces"
                assert target.json("POST", path, {"embedding": vector, "model": target.model}).status == 201
            yield target
        finally:
            target.close()


def good(target: Target) -> list[Request]:
    """Requests that embed, five in twenty."""
    crop, other = encode_png(scene()), encode_jpeg(scene()[::-1].copy())
    person = target.json("POST", "/v1/collections/staff/people", {"name": "visitor"}).body["id"]
    faces = f"/v1/collections/staff/people/{person}/faces"

    def enrol_and_delete(client: Target) -> None:
        face = client.post_images(faces, [("image", crop)], form=True, aligned="true")
        assert face.status == 201, face.body
        assert client.send("DELETE", f"{faces}/{face.body['id']}").status == 204

    def sent(path: str, *images: tuple[str, bytes], form: bool) -> Request:
        def send(client: Target) -> None:
            answer = client.post_images(path, list(images), form=form, aligned="true")
            assert answer.status == 200, answer.body

        return send

    return [
        sent("/v1/embeddings", ("images", crop), form=True),
        sent("/v1/embeddings", ("images", other), form=False),
        sent("/v1/verify", ("image_a", crop), ("image_b", other), form=True),
        sent("/v1/collections/staff/search", ("image", other), form=True),
        enrol_and_delete,
    ]


def bad(target: Target, samples: list[Sample]) -> list[Request]:
    """Requests that are refused, or cost no inference: fifteen in twenty, with ever other files and ids."""
    files = [sample.data for sample in samples if sample.accepted is not True and len(sample.data) < LARGEST_FILE]
    random = np.random.default_rng(0)

    def file(client: Target) -> None:
        data = files[random.integers(len(files))]
        client.send("POST", "/v1/embeddings", *multipart([("images", data)], {"aligned": "true"})).check()

    def body(client: Target) -> None:
        client.send("POST", "/v1/verify", random.bytes(200), "application/json").check()

    def unknown(client: Target) -> None:
        client.json("GET", f"/v1/collections/c{random.integers(2**40)}/people/{random.integers(2**40)}").check()

    def search(client: Target) -> None:
        vector = random.standard_normal(DIM).tolist()
        answer = client.json("POST", "/v1/collections/staff/search", {"embedding": vector, "model": client.model})
        assert answer.status == 200, answer.body

    def listing(client: Target) -> None:
        assert client.json("GET", "/v1/collections/staff/people?limit=10").status == 200

    return [file] * 6 + [body] * 2 + [unknown] * 2 + [search] * 3 + [listing] * 2


def reach_the_largest_batches(target: Target) -> None:
    """Many clients with many images each, at once: the runtime keeps the memory of its largest batch for good.

    By four clients that batch would come by chance, and as late as at the last request.
    """
    content, media_type = multipart([("images", encode_png(scene()))] * 16, {"aligned": "true"})

    def send(_: int) -> None:
        with target.twin() as client:
            for _ in range(5):
                client.send("POST", "/v1/embeddings", content, media_type)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(send, range(16)))


@pytest.mark.slow
def test_memory_does_not_grow_over_many_requests(busy: Target) -> None:
    mix = good(busy) + bad(busy, corpus())
    assert len(mix) == 20
    reach_the_largest_batches(busy)
    memory: list[tuple[int, float]] = []
    started, per_client = time.monotonic(), REQUESTS // CLIENTS

    def work(client_number: int) -> None:
        with busy.twin() as client:
            for number in range(per_client):
                mix[(number + 5 * client_number) % len(mix)](client)
                if client_number == 0 and number % max(1, per_client // 200) == 0:
                    memory.append((number * CLIENTS, client.memory_mib))

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))
    seconds = time.monotonic() - started
    early = statistics.median(mib for done, mib in memory if WARM <= done / REQUESTS < WARM + 0.05)
    late = statistics.median(mib for done, mib in memory if done / REQUESTS >= 0.95)
    growth = late / early - 1
    print(f"{REQUESTS:,} requests in {seconds:.0f} s; {early:.1f} MiB, then {late:.1f} MiB: {growth:+.2%}")
    print("MiB on the way:", *(f"{mib:.0f}" for _, mib in memory[::10]))
    assert Path(busy.log).read_text().count("Traceback") == 0
    assert busy.json("GET", "/health/ready").status == 200
    assert growth < MOST_GROWTH
