"""The corpus against a real service over HTTP: the right answer to each file, no 5xx, no hang, bounded memory."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest

from facemargin.embedder import Embedder
from facemargin.preprocessing import encode_png

from .conftest import Answer, Target
from .corpus import Sample
from .pictures import encoded, scene

CAP_MIB = 600.0
"""Memory of the service with the tiny model while the corpus comes."""

LARGE_CAP_MIB = 2048.0
"""The same with pictures of 40 million pixels from four clients; two at a time are decoded."""

GOOD = encode_png(scene())
KINDS = ("image/jpeg", "image/png", "text/html", "application/octet-stream", "image/svg+xml", "a/b; c=d")


@pytest.fixture(scope="module")
def person(target: Target) -> str:
    assert target.json("PUT", "/v1/collections/staff").status == 201
    return str(target.json("POST", "/v1/collections/staff/people", {"name": "Ada"}).body["id"])


@pytest.fixture(scope="module")
def embedder(target: Target) -> Embedder:
    return Embedder(target.bundle)


def embed(target: Target, data: bytes, **more: Any) -> Answer:
    return target.post_images("/v1/embeddings", [("images", data)], aligned="true", **more)


def verify(target: Target, data: bytes, **more: Any) -> Answer:
    images = [("image_a", GOOD), ("image_b", data)]
    return target.post_images("/v1/verify", images, aligned="true", **more)


def enrol(target: Target, data: bytes, person: str, **more: Any) -> Answer:
    path = f"/v1/collections/staff/people/{person}/faces"
    return target.post_images(path, [("image", data)], aligned="true", **more)


def everywhere(target: Target, data: bytes, person: str, *, only: int | None = None, **more: Any) -> list[Answer]:
    """A file to each route that takes images, or to one of the three."""
    routes = (embed, verify, partial(enrol, person=person))
    answers = [route(target, data, **more) for number, route in enumerate(routes) if only in (None, number)]
    for answer in answers:
        answer.check()
    return answers


def expected(sample: Sample, answer: Answer) -> bool:
    """Whether a reply is what must become of the file; a good picture that is not square is no aligned crop."""
    if sample.accepted is False:
        return answer.problem in sample.problems
    square = sample.pixels is None or sample.pixels.shape[0] == sample.pixels.shape[1]
    if sample.accepted:
        return answer.status in (200, 201) if square else answer.problem == "not-a-crop"
    return answer.status in (200, 201) or answer.problem in (*sample.problems, "not-a-crop")


def test_every_file_gets_the_answer_that_it_must(
    target: Target, person: str, embedder: Embedder, samples: list[Sample]
) -> None:
    """Each file to one of the three routes by turns, as a form (said to be of various kinds) or as JSON."""
    before = embed(target, GOOD, form=True).body
    faults, kinds, enrolled = [], itertools.cycle(KINDS), 0
    for number, sample in enumerate(samples):
        (answer,) = everywhere(target, sample.data, person, only=number % 3, form=bool(number % 2), kind=next(kinds))
        enrolled += answer.status == 201
        if not expected(sample, answer):
            faults.append(f"{sample.name}: {answer.problem}")
        elif "images" in answer.body and sample.pixels is not None:
            faults += wrong_embedding(sample, answer, embedder)
    assert not faults, "\n".join(faults)
    assert embed(target, GOOD, form=True).body == before
    assert target.json("GET", "/health/ready").status == 200
    (ada,) = target.json("GET", "/v1/collections/staff/people").body["people"]
    assert ada["faces"] == enrolled
    print(f"{len(samples)} files, peak {target.peak_mib:.0f} MiB")
    assert target.peak_mib < CAP_MIB


def wrong_embedding(sample: Sample, answer: Answer, embedder: Embedder) -> list[str]:
    """Complaints where the vector is not that of the known picture."""
    (image,) = answer.body["images"]
    pixels = sample.pixels
    assert pixels is not None
    if (image["height"], image["width"]) != pixels.shape[:2]:
        return [f"{sample.name}: said to be {image['width']}x{image['height']}"]
    if pixels.shape[:2] != scene().shape[:2]:
        return []  # resized by the service, and not here
    cosine = float(np.array(image["faces"][0]["embedding"]) @ embedder.embed(pixels[None])[0])
    return [f"{sample.name}: cosine {cosine:.5f}"] if cosine < (0.99 if sample.tolerance else 0.99999) else []


def test_the_service_says_nothing_of_the_files_in_its_log(target: Target) -> None:
    log = target.log.read_text()
    assert "Traceback" not in log
    assert "Warning" not in log
    assert "PIL" not in log


@pytest.mark.slow
def test_every_file_to_every_route_in_both_forms_from_four_clients(
    target: Target, person: str, embedder: Embedder, samples: list[Sample]
) -> None:
    def send(share: int) -> list[str]:
        faults = []
        with target.twin() as client:
            for sample, form in itertools.product(samples[share::4], (True, False)):
                answers = everywhere(client, sample.data, person, form=form)
                faults += [sample.name for answer in answers if not expected(sample, answer)]
                if answers[0].status == 200 and sample.pixels is not None:
                    faults += wrong_embedding(sample, answers[0], embedder)
        return faults

    with ThreadPoolExecutor(4) as pool:
        faults = list(itertools.chain.from_iterable(pool.map(send, range(4))))
    assert not faults
    assert target.json("GET", "/health/ready").status == 200
    print(f"4 clients, peak {target.peak_mib:.0f} MiB")
    assert target.peak_mib < CAP_MIB


@pytest.mark.slow
def test_the_largest_pictures_that_are_taken_stay_within_the_cap(target: Target) -> None:
    """40 million pixels in the forms that cost most, from four clients at once."""
    clear = np.zeros((6320, 6320, 4), np.uint8)
    clear[..., 3] = 100
    flat = clear[:, :, :3]
    files = {
        "png rgba": encoded(clear, "PNG", compress_level=1),
        "png 16 bit": encoded(flat[:, :, 0].astype(np.uint16), "PNG", compress_level=1),
        "webp with alpha": encoded(clear, "WEBP", lossless=True, quality=0, method=0),
        "progressive jpeg": encoded(flat, "JPEG", progressive=True, subsampling=0),
    }

    def send(data: bytes) -> int:
        with target.twin() as client:
            return embed(client, data, form=True).status

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(send, [*files.values()] * 3))
    assert found == [200] * 12
    print(f"largest pictures, peak {target.peak_mib:.0f} MiB")
    assert target.peak_mib < LARGE_CAP_MIB
    assert target.json("GET", "/health/ready").status == 200
