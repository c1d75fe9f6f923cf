"""What the service states holds on real faces: strangers match, and get candidates, as rarely as it says.

The people are LFW's, whose folds share nobody. Calibration is on one fold, observation on others that neither the model
nor the calibration saw. The quick form fits a Fisherface to LFW's training people and cuts the same window from every
(deep-funnelled) photograph; the slow form sends whole photographs through the detector, with the bundle in
`$FACEMARGIN_TEST_BUNDLE` (trained on nobody of folds 5-10) or else a Fisherface.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import coo_array

from facemargin.bundle import Bundle, load_bundle, update_manifest
from facemargin.embedder import Embedder
from facemargin.metrics import Interval, calibrate
from facemargin.metrics.intervals import draw_people, percentile_interval
from facemargin.preprocessing import Detector, align, central_face, encode_png, read_image
from service.decisions import Decisions
from training.data.lfw_open import LfwOpen, lfw_open, person_images

from .fisherface import Floats, blocks, fit_fisherface, write_fisherface

CALIBRATION_FOLD = 5
TEST_FOLDS = (6, 7, 8, 9, 10)
RATES = (1e-2, 1e-3)
WINDOW = slice(69, 181)  # of 250: where deep funnelling puts the face
HELD = (0.5, 2.0)  # observed over stated
Crop = Callable[[Path], Any]


@dataclass(frozen=True, eq=False)
class Faces:
    """Embeddings (N, D) with the person and the file of each."""

    vectors: Floats
    people: list[str]
    files: list[Path]

    def __add__(self, other: "Faces") -> "Faces":
        vectors = np.concatenate([self.vectors, other.vectors])
        return Faces(vectors, self.people + other.people, self.files + other.files)

    def one_each(self) -> "Faces":
        """The first photograph of each person."""
        first = np.unique(self.people, return_index=True)[1]
        return Faces(self.vectors[first], [self.people[k] for k in first], [self.files[k] for k in first])


@dataclass(frozen=True, eq=False)
class Observation:
    """How often pairs of strangers reached a threshold."""

    stated: float
    interval: Interval
    errors: int
    pairs: int
    people: int

    @property
    def ratio(self) -> float:
        return self.interval.value / self.stated

    def row(self, *head: object) -> str:
        low, high = self.interval.low, self.interval.high
        cells = [*head, f"{self.stated:g}", f"{self.interval.value:.3g}", f"{low:.3g} to {high:.3g}"]
        cells += [f"{self.ratio:.2f}", f"{self.errors:,}", f"{self.pairs:,}", f"{self.people:,}"]
        return "| " + " | ".join(map(str, cells)) + " |"


@dataclass(frozen=True, eq=False)
class Bench:
    """A model with the embeddings of folds 5-10."""

    bundle: Bundle
    folds: dict[int, Faces]
    crop: Crop

    @property
    def tested(self) -> Faces:
        return sum((self.folds[fold] for fold in TEST_FOLDS[1:]), start=self.folds[TEST_FOLDS[0]])

    def decisions(self, fold: int = CALIBRATION_FOLD) -> Decisions:
        """Decisions of the service when calibrated on one fold."""
        known = self.folds[fold]
        return Decisions(calibrate(known.vectors, known.people, source=f"fold {fold}"), extrapolate=True)


def observe(faces: Faces, threshold: float, stated: float, *, resamples: int = 1000) -> Observation:
    """False matches among all pairs of different people, with an interval over people at the threshold as it is.

    Person p is drawn m_p times, so a pair of p and q weighs m_p m_q: FMR = mᵀ H m / mᵀ N m, H the false matches and
    N the pairs of each two people.
    """
    names, owner = np.unique(faces.people, return_inverse=True)
    first, second = np.nonzero(np.triu(faces.vectors @ faces.vectors.T >= threshold, k=1))
    apart = owner[first] != owner[second]
    first, second = owner[first[apart]], owner[second[apart]]
    matches = coo_array((np.ones(first.size), (first, second)), shape=(names.size, names.size)).tocsr()
    images = np.bincount(owner).astype(float)

    def rate(drawn: Any) -> Any:
        mine = drawn * images
        pairs = (mine.sum(axis=1) ** 2 - (mine**2).sum(axis=1)) / 2
        return ((matches @ drawn.T).T * drawn).sum(axis=1) / pairs

    drawn = draw_people(names.size, resamples=resamples, seed=0).astype(float)
    value = float(rate(np.ones((1, names.size)))[0])
    pairs = int(images.sum() ** 2 - (images**2).sum()) // 2
    return Observation(stated, percentile_interval(value, rate(drawn), level=0.95), first.size, pairs, names.size)


def strangers_with_candidates(faces: Faces, threshold: float, gallery: int, *, draws: int) -> Floats:
    """Share of the people outside a gallery of random people who reach it, in each of several draws of the gallery."""
    faces, random = faces.one_each(), np.random.default_rng(0)
    cosines = faces.vectors @ faces.vectors.T
    shares = []
    for _ in range(draws):
        order = random.permutation(len(faces.people))
        shares.append((cosines[np.ix_(order[gallery:], order[:gallery])].max(axis=1) >= threshold).mean())
    return np.array(shares)


def window(path: Path) -> Any:
    """The part of a deep-funnelled photograph with the face, as a crop."""
    return np.ascontiguousarray(read_image(path)[WINDOW, WINDOW])


def embed(embedder: Embedder, images: list[tuple[Path, str]], crop: Crop) -> Faces:
    found = [(item, crop(item[0])) for item in images]
    kept = [(item, pixels) for item, pixels in found if pixels is not None]
    batches = (np.stack([pixels for _, pixels in kept[k : k + 64]]) for k in range(0, len(kept), 64))
    vectors = np.concatenate([embedder.embed(batch) for batch in batches])
    return Faces(vectors, [person for (_, person), _ in kept], [path for (path, _), _ in kept])


def some(images: list[tuple[Path, str]], most: int | None) -> list[tuple[Path, str]]:
    """At most so many photographs of each person."""
    return [item for _, group in groupby(images, key=lambda item: item[1]) for item in islice(group, most)]


def bench_of(bundle: Bundle, split: LfwOpen, root: Path, crop: Crop, most: int | None) -> Bench:
    embedder = Embedder(bundle)
    folds = {
        fold: embed(embedder, some(person_images(root, split.pairs.people((fold,))), most), crop)
        for fold in (CALIBRATION_FOLD, *TEST_FOLDS)
    }
    known = folds[CALIBRATION_FOLD]
    calibration = calibrate(known.vectors, known.people, source="fold 5")
    return Bench(update_manifest(bundle, bundle.manifest.model_copy(update={"calibration": calibration})), folds, crop)


def fitted(folder: Path, split: LfwOpen, root: Path, crop: Crop) -> Bundle:
    """A Fisherface of the training people who have several photographs."""
    images = [person_images(root, [person])[:3] for person in split.train]
    chosen = [(item, crop(item[0])) for group in images if len(group) > 1 for item in group]
    kept = [(item, pixels) for item, pixels in chosen if pixels is not None]
    features = blocks(np.stack([pixels for _, pixels in kept]))
    return write_fisherface(folder, *fit_fisherface(features, [person for (_, person), _ in kept]))


@pytest.fixture(scope="module")
def split(shared_data: Path) -> LfwOpen:
    return lfw_open(shared_data / "lfw" / "images", shared_data / "lfw" / "pairs.txt")


@pytest.fixture(scope="module")
def quick(shared_data: Path, split: LfwOpen, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = shared_data / "lfw" / "images"
    bundle = fitted(tmp_path_factory.mktemp("fisherface") / "bundle", split, root, window)
    return bench_of(bundle, split, root, window, most=2)


@pytest.fixture(scope="module")
def detector(shared_data: Path) -> Path:
    return shared_data / "models" / "yunet_n_dynamic.onnx"


@pytest.fixture(scope="module")
def whole(shared_data: Path, split: LfwOpen, detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Every photograph of folds 5-10, detected and aligned as `facemargin calibrate` does it."""
    root, folder = shared_data / "lfw" / "images", tmp_path_factory.mktemp("whole") / "bundle"
    finder = Detector(detector)

    def crop(path: Path) -> Any:
        image = read_image(path)
        faces = finder.detect(image)
        return align(image, central_face(faces, image.shape[:2]).landmarks, "arcface-112") if faces else None

    given = os.environ.get("FACEMARGIN_TEST_BUNDLE")
    if given:
        shutil.copytree(given, folder)
    bundle = load_bundle(folder) if given else fitted(folder, split, root, crop)
    return bench_of(bundle, split, root, crop, most=None)


def test_strangers_match_as_rarely_as_is_stated_on_six_calibrations(quick: Bench) -> None:
    """Each fold calibrates once and the other five observe: no single lucky draw of people decides."""
    for row in recalibrated(quick, resamples=200):
        found, low, high = row.ratio, row.interval.low / row.stated, row.interval.high / row.stated
        assert row.errors >= 30
        assert HELD[0] <= found <= HELD[1], row
        assert low <= found <= high, row
        assert HELD[0] <= low, row
        assert high <= HELD[1], row


def test_a_wrong_calibration_would_be_seen(quick: Bench) -> None:
    """The bound can be broken: at the threshold of one rate, a rate four times as strict is not what is observed."""
    threshold = quick.decisions().criterion(1e-2).threshold
    assert not HELD[0] <= observe(quick.tested, threshold, 1e-2 / 4, resamples=2).ratio <= HELD[1]


@pytest.mark.parametrize("max_fpir", [0.1, 0.01])
@pytest.mark.parametrize("gallery", [10, 100, 500])
def test_strangers_get_candidates_as_rarely_as_is_stated(quick: Bench, gallery: int, max_fpir: float) -> None:
    threshold = quick.decisions().search_criterion(max_fpir, gallery).threshold
    shares = strangers_with_candidates(quick.tested, threshold, gallery, draws=20)
    assert HELD[0] <= shares.mean() / max_fpir <= HELD[1], shares


def test_verify_says_over_http_what_the_embeddings_say(quick: Bench, make_api: Any) -> None:
    api = make_api(bundle=quick.bundle)
    images = {path: encode_png(quick.crop(path)) for path in quick.tested.one_each().files[:200]}

    def verify(first: Path, second: Path, rate: float) -> dict[str, Any]:
        files = {"image_a": images[first], "image_b": images[second]}
        answer = api.post("/v1/verify", files=files, data={"aligned": "true", "max_fmr": str(rate)})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    same_as_direct(quick, quick.tested.one_each(), verify, pairs=200)


def test_search_over_http_gives_strangers_the_list_that_the_embeddings_say(quick: Bench, make_api: Any) -> None:
    api, faces = make_api(bundle=quick.bundle), quick.tested.one_each()
    gallery, strangers = faces.vectors[:40], faces.vectors[40:240]
    for name, vector in zip(faces.people, gallery, strict=False):
        api.enrol(api.person(name), vector)
    best = (strangers @ gallery.T).max(axis=1)
    threshold = quick.decisions().search_criterion(0.1, len(gallery)).threshold
    replies = [api.find(vector, max_fpir=0.1) for vector in strangers]
    answered = np.array([bool(reply["candidates"]) for reply in replies])
    clear = np.abs(best - threshold) > 1e-6
    np.testing.assert_array_equal(answered[clear], (best >= threshold)[clear])
    assert replies[0]["threshold"] == pytest.approx(threshold)
    assert answered.mean() < 0.2
    for reply in replies:
        for candidate in reply["candidates"]:
            assert candidate["fpir"] <= 0.1 * (1 + 1e-6)
            assert candidate["similarity"] >= reply["threshold"]


@pytest.mark.slow
def test_rates_of_whole_photographs(whole: Bench, detector: Path, make_api: Any) -> None:
    """As above with every photograph of folds 5-10, and it prints the tables of docs/error-rates.md."""
    own = [observe(whole.tested, whole.decisions().criterion(rate).threshold, rate) for rate in (1e-1, *RATES, 1e-4)]
    print("\n" + "\n".join(row.row("5", "6-10") for row in own))
    draws = recalibrated(whole, resamples=1000)
    print(
        "\n".join(row.row(fold, "the others") for fold, row in zip(np.repeat(list(whole.folds), 2), draws, strict=True))
    )
    for row in (*own[1:3], *draws):
        assert HELD[0] <= row.ratio <= HELD[1], row
    for gallery in (1, 10, 100, 1000):
        for max_fpir in (0.1, 0.01):
            threshold = whole.decisions().search_criterion(max_fpir, gallery).threshold
            shares = strangers_with_candidates(whole.tested, threshold, gallery, draws=50)
            print(f"| {gallery} | {max_fpir} | {threshold:.3f} | {shares.mean():.4f} | {shares.std():.4f} |")
            assert HELD[0] <= shares.mean() / max_fpir <= HELD[1], shares

    api, finder = make_api(bundle=whole.bundle, detector=detector), Detector(detector)
    faces = whole.tested.one_each()
    alone = [k for k in range(300) if len(finder.detect(read_image(faces.files[k]))) == 1]

    def verify(first: Path, second: Path, rate: float) -> dict[str, Any]:
        files = {"image_a": first.read_bytes(), "image_b": second.read_bytes()}
        answer = api.post("/v1/verify", files=files, data={"max_fmr": str(rate)})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    portraits = Faces(faces.vectors[alone], [faces.people[k] for k in alone], [faces.files[k] for k in alone])
    same_as_direct(whole, portraits, verify, pairs=300)


def recalibrated(bench: Bench, *, resamples: int) -> list[Observation]:
    """Each fold calibrates, the others observe, at each of the rates."""
    found = []
    for fold in bench.folds:
        others = [bench.folds[other] for other in bench.folds if other != fold]
        seen, decisions = sum(others[1:], start=others[0]), bench.decisions(fold)
        found += [observe(seen, decisions.criterion(rate).threshold, rate, resamples=resamples) for rate in RATES]
    return found


def same_as_direct(bench: Bench, faces: Faces, verify: Callable[..., dict[str, Any]], *, pairs: int) -> None:
    """Replies of /v1/verify to pairs of neighbours carry the cosine of the embeddings and decide by the threshold."""
    random, decisions = np.random.default_rng(0), bench.decisions()
    matched = 0
    for _ in range(pairs):
        first, second = random.choice(min(len(faces.files), 200), size=2, replace=False)
        rate = float(random.choice([0.1, *RATES]))
        cosine = float(faces.vectors[first] @ faces.vectors[second])
        reply, wanted = verify(faces.files[first], faces.files[second], rate), decisions.criterion(rate)
        assert reply["similarity"] == pytest.approx(cosine, abs=1e-4)
        assert reply["threshold"] == pytest.approx(wanted.threshold)
        assert reply["threshold_fmr"] == pytest.approx(wanted.fmr)
        assert reply["match"] is (reply["similarity"] >= reply["threshold"])
        assert reply["fmr"] == pytest.approx(decisions.evidence(reply["similarity"]).fmr)
        assert reply["probability"] == pytest.approx(decisions.evidence(reply["similarity"]).probability)
        if abs(cosine - wanted.threshold) > 1e-4:
            assert reply["match"] is (cosine >= wanted.threshold)
        matched += reply["match"]
    assert matched < pairs * 0.15
