"""Everything that a running service holds, put together from its settings."""

import logging
from dataclasses import dataclass

from facemargin.bundle import Bundle, load_bundle
from facemargin.embedder import Embedder
from facemargin.errors import ModelNotFoundError
from facemargin.preprocessing import Detector
from service.decisions import Decisions
from service.faces import FaceEngine
from service.gallery import Gallery
from service.settings import Settings
from service.store import Store
from service.writes import Writer

log = logging.getLogger("facemargin.service")


@dataclass(frozen=True)
class Service:
    """The parts of one service.

    Attributes:
        settings: as read.
        bundle: the model.
        engine: images to embeddings.
        decisions: similarities to decisions.
        store: the truth.
        gallery: the cache that is searched.
        writer: the way into both.
    """

    settings: Settings
    bundle: Bundle
    engine: FaceEngine
    decisions: Decisions
    store: Store
    gallery: Gallery
    writer: Writer

    def decisions_of(self, model: str) -> Decisions:
        """Decisions about embeddings of a model; nothing is known of one that is not loaded."""
        if model == self.bundle.model_id:
            return self.decisions
        return Decisions(None, extrapolate=self.settings.extrapolate)

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()


def build_service(settings: Settings) -> Service:
    """Load the model, open the store and rebuild the galleries.

    Raises:
        BundleError: a bundle that is missing or damaged.
        ModelNotFoundError: the detector that the settings name is missing or none.
        StoreError: a store that cannot be opened, or is served by another process.
    """
    bundle = load_bundle(settings.bundle)
    engine = FaceEngine(
        Embedder(bundle, threads=settings.onnx_threads),
        _detector(settings),
        limits=settings.image_limits,
        max_images=settings.max_images,
        max_faces=settings.max_faces,
        threads=settings.inference_threads,
    )
    decisions = Decisions(bundle.manifest.calibration, extrapolate=settings.extrapolate)
    store = Store(settings.store)
    try:
        store.claim()
        gallery = Gallery(index=settings.index, templates=settings.templates)
        gallery.load(store)
    except BaseException:
        store.close()
        raise
    writer = Writer(store, gallery, keep_hours=settings.idempotency_hours)
    return Service(settings, bundle, engine, decisions, store, gallery, writer)


def _detector(settings: Settings) -> Detector | None:
    """The detector of the settings, the one that was pulled, or none; one that is named must work."""
    try:
        return Detector(settings.detector, score_threshold=settings.detector_score)
    except ModelNotFoundError as error:
        if settings.detector is not None:
            raise
        log.warning("no face detector: only aligned crops and embeddings are taken (%s)", error)
        return None
