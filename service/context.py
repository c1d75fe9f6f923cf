"""Everything that a running service holds, put together from its settings."""

import logging
from dataclasses import dataclass

from facemargin.errors import ModelNotFoundError
from facemargin.preprocessing import Detector
from service.faces import FaceEngine
from service.gallery import Gallery
from service.models import Models, load_models
from service.settings import Settings
from service.store import Store
from service.store.vault import parse_master_key, read_master_key
from service.writes import Writer

log = logging.getLogger("facemargin.service")


@dataclass(frozen=True)
class Service:
    """The parts of one service.

    Attributes:
        settings: as read.
        models: what embeds and decides.
        engine: images to embeddings.
        store: the truth.
        gallery: the cache that is searched.
        writer: the way into both.
    """

    settings: Settings
    models: Models
    engine: FaceEngine
    store: Store
    gallery: Gallery
    writer: Writer

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()


def build_service(settings: Settings) -> Service:
    """Load the models, open the store and rebuild the galleries.

    Raises:
        BundleError: a bundle that is missing or damaged.
        ModelNotFoundError: the detector that the settings name is missing or none.
        ConfigError: a master key that is none.
        StoreError: a store that cannot be opened or unlocked, or is served by another process.
    """
    models = load_models(settings)
    engine = FaceEngine(
        _detector(settings),
        limits=settings.image_limits,
        max_images=settings.max_images,
        max_faces=settings.max_faces,
        threads=settings.inference_threads,
    )
    store = Store(settings.store)
    try:
        store.claim()
        store.unlock(master_key_of(settings))
        gallery = Gallery(index=settings.index, templates=settings.templates)
        gallery.load(store)
    except BaseException:
        store.close()
        raise
    writer = Writer(store, gallery, keep_hours=settings.idempotency_hours)
    return Service(settings, models, engine, store, gallery, writer)


def master_key_of(settings: Settings) -> bytes | None:
    """The master key of the settings, or None.

    Raises:
        ConfigError: it is no key, or its file cannot be read.
    """
    if settings.master_key is not None:
        return parse_master_key(settings.master_key.get_secret_value(), "setting master_key")
    return read_master_key(settings.master_key_file) if settings.master_key_file is not None else None


def _detector(settings: Settings) -> Detector | None:
    """The detector of the settings, the one that was pulled, or none; one that is named must work."""
    try:
        return Detector(settings.detector, score_threshold=settings.detector_score)
    except ModelNotFoundError as error:
        if settings.detector is not None:
            raise
        log.warning("no face detector: only aligned crops and embeddings are taken (%s)", error)
        return None
