"""The perceptual hash mirrors by a mask, and registration sees through crops, not across faces."""

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from training.doctor.fingerprint import (
    RADIUS,
    REGISTERED_CORRELATION,
    hashes,
    near_embeddings,
    proposed,
    registered_correlation,
)
from training.doctor.reading import FREQUENCIES, THUMBNAIL


def coefficients(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    found = [cv2.dct(one.astype(np.float32))[:FREQUENCIES, :FREQUENCIES] for one in thumbnails]
    return np.array(found, dtype=np.float32)


def random_thumbnails(count: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
    return np.array([cv2.resize(one, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_CUBIC) for one in coarse])


def test_the_hash_of_a_mirrored_picture_is_the_hash_with_the_masked_bits_flipped() -> None:
    thumbnails = random_thumbnails(40)
    both = np.concatenate([thumbnails, thumbnails[:, :, ::-1]])
    codes, mask = hashes(coefficients(both))
    differing = np.bitwise_count(codes[:40] ^ codes[40:] ^ mask)
    assert differing.max() <= 1  # rounding of a coefficient that lies on its threshold


def test_proposals_equal_a_plain_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.doctor.fingerprint._BLOCK", 7)
    thumbnails = random_thumbnails(30)
    noisy = np.clip(thumbnails[:10].astype(int) + np.random.default_rng(1).integers(-9, 10, (10, 32, 32)), 0, 255)
    every = np.concatenate([thumbnails, noisy.astype(np.uint8), thumbnails[5:8, :, ::-1]])
    found, crowded = proposed(coefficients(every), every)
    codes, mask = (np.atleast_1d(part) for part in hashes(coefficients(every)))
    plain = {
        (i, j, bool(flip))
        for i in range(len(every))
        for j in range(i + 1, len(every))
        for flip in (0, 1)
        if bin(int(codes[i]) ^ int(codes[j]) ^ (int(mask[0]) if flip else 0)).count("1") <= RADIUS
    }
    assert not crowded
    assert {(pair.i, pair.j, pair.mirrored) for pair in found} <= plain
    assert {(k, 30 + k, False) for k in range(10)} | {(5 + k, 40 + k, True) for k in range(3)} <= {
        (pair.i, pair.j, pair.mirrored) for pair in found
    }


def test_a_set_of_equal_pictures_is_cut_short_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.doctor.fingerprint.MOST_PROPOSED", 20)
    thumbnails = np.repeat(random_thumbnails(1), 30, axis=0)
    found, crowded = proposed(coefficients(thumbnails), thumbnails)
    assert crowded
    assert len(found) == 20


def test_blank_pictures_are_no_candidates() -> None:
    blank = np.zeros((3, THUMBNAIL, THUMBNAIL), dtype=np.uint8)
    assert proposed(coefficients(blank), blank) == ([], False)


def test_registration_sees_through_crops_and_light_but_not_across_faces(drawn_faces: Any) -> None:
    face = drawn_faces["person-0"][0]
    height, width = face.shape[:2]
    cropped = cv2.resize(face[5:-5, 5:-5], (width, height))
    lighter = np.clip(face.astype(float) * 1.2 + 10, 0, 255).astype(np.uint8)
    turned = cv2.warpAffine(face, cv2.getRotationMatrix2D((width / 2, height / 2), 3, 1), (width, height))
    for copy in (cropped, lighter, turned):
        assert registered_correlation(face, copy) >= REGISTERED_CORRELATION
    for person in range(1, 8):
        assert registered_correlation(face, drawn_faces[f"person-{person}"][0]) < REGISTERED_CORRELATION
    assert registered_correlation(face, np.zeros_like(face)) == 0.0


def test_pairs_of_near_embeddings_equal_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.doctor.fingerprint._BLOCK", 7)
    rows = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    plain = {(i, j) for i in range(30) for j in range(i + 1, 30) if float(rows[i] @ rows[j]) >= 0.8}
    assert {(pair.i, pair.j) for pair in near_embeddings(rows, 0.8)} == plain
    assert plain
