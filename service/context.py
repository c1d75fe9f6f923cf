"""Everything that a running service holds, put together from its settings."""

import logging
from contextlib import ExitStack
from dataclasses import dataclass

from facemargin.errors import ModelNotFoundError
from facemargin.index.engines import shown
from facemargin.onnx_model import available_cores
from facemargin.preprocessing import Detector
from service.faces import FaceEngine
from service.galleries import open_gallery
from service.gallery import Gallery
from service.gate import Gate
from service.gauges import Gauges
from service.housekeeping import Housekeeping
from service.ledger import Ledger
from service.load import Load
from service.metrics import Metrics
from service.models import Models, load_models
from service.readiness import Readiness
from service.replica import Follower, Replica, description
from service.settings import Settings
from service.shared_limits import LimitExchange
from service.snapshots import Snapshots
from service.store import Store
from service.store.encryption import finish_change
from service.store.key_ring import key_ring
from service.store.vault import parse_master_key, read_master_key
from service.tracing import Tracing, tracing_of_environment
from service.upgrader import Upgrader
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
        housekeeping: what it does by itself.
        upgrader: makes vectors of further models in the background.
        gate: who is let in.
        follower: takes over what other services of the store do, where there can be any.
        load: how long requests with images wait.
        snapshots: files of the indexes, where there are any.
        readiness: whether all of it works.
        metrics: figures about it.
        tracing: its traces, if there are any.
        parts: how they are ended, the last one first.
    """

    settings: Settings
    models: Models
    engine: FaceEngine
    store: Store
    gallery: Gallery
    writer: Writer
    housekeeping: Housekeeping
    upgrader: Upgrader
    gate: Gate
    follower: Follower | None
    load: Load
    snapshots: Snapshots | None
    readiness: Readiness
    metrics: Metrics
    tracing: Tracing | None
    parts: ExitStack

    def start(self) -> None:
        """Begin the work in the background."""
        if self.follower is not None:
            self.follower.start()
        self.housekeeping.start()
        self.upgrader.start()

    def close(self) -> None:
        """End the work in the background and let go of the store; each part is ended, also if another cannot be."""
        self.parts.close()


def build_service(settings: Settings) -> Service:
    """Load the models, open the store and rebuild the galleries; where that fails, nothing is left open.

    Raises:
        BundleError: a bundle that is missing or damaged.
        ModelNotFoundError: the detector that the settings name is missing or none.
        ConfigError: a master key that is none.
        StoreError: a store that cannot be opened or unlocked, or is served by another process; an erasure ledger that
            cannot be written or is of another store.
    """
    parts = ExitStack()
    try:
        service = _built(settings, parts)
        service.engine.batchers.on_batch.append(service.metrics.batch)
        service.metrics.registry.register(Gauges(service))
    except BaseException:
        parts.close()
        raise
    return service


def _built(settings: Settings, parts: ExitStack) -> Service:
    models = load_models(settings)
    tracing = tracing_of_environment()
    if tracing is not None:
        parts.callback(tracing.close)
    engine = FaceEngine(
        _detector(settings),
        limits=settings.image_limits,
        max_images=settings.max_images,
        max_faces=settings.max_faces,
        threads=settings.inference_threads,
        workers=_workers(settings),
        max_batch=settings.max_batch,
    )
    parts.callback(engine.close)
    store = parts.enter_context(Store(settings.store))
    store.claim()
    store.unlock(master_key_of(settings))
    finish_change(store)
    replica = _replica(settings, models, store)
    if replica is not None:
        parts.callback(replica.leave)
    gallery, snapshots = open_gallery(settings, store)
    parts.callback(gallery.close)
    ledger = _ledger(settings, store)
    writer = Writer(store, gallery, keep_hours=settings.idempotency_hours, ledger=ledger)
    housekeeping = Housekeeping(
        store,
        gallery,
        writer,
        snapshots,
        seconds=settings.housekeeping_seconds,
        snapshot_faces=settings.snapshot_faces,
        snapshot_seconds=settings.snapshot_seconds,
    )
    upgrader = Upgrader(store, models, gallery, writer)
    gate = Gate(
        key_ring(store),
        requests_per_minute=settings.requests_per_minute,
        refusals_per_minute=settings.refusals_per_minute,
        pseudonym=store.vault.pseudonym if store.shared else None,
    )
    follower = Follower(store, gallery, gate, LimitExchange(store, gate.shared_limits), replica) if replica else None
    for end in (gate.close, housekeeping.stop, upgrader.stop):
        parts.callback(end)
    if follower is not None:
        parts.callback(follower.stop)
    return Service(
        settings,
        models,
        engine,
        store,
        gallery,
        writer,
        housekeeping,
        upgrader,
        gate,
        follower,
        _load(settings, models, engine),
        snapshots,
        Readiness(
            store,
            gallery,
            housekeeping,
            models,
            engine.detector,
            upgrader=upgrader,
            min_free_bytes=settings.min_free_bytes,
            follower=follower,
        ),
        Metrics(),
        tracing,
        parts,
    )


def _replica(settings: Settings, models: Models, store: Store) -> Replica | None:
    """The line of this service among those of its store; None where it is the only one."""
    if not store.shared:
        return None
    alike = {"index": shown(settings.index), "templates": settings.templates}
    return Replica(store, description([model.id for model in models.values()], **alike))


def _workers(settings: Settings) -> int:
    """Batches at a time: on a CPU one for every `onnx_threads` cores, on a GPU one."""
    if settings.onnx_provider == "cuda":
        return 1
    return max(1, available_cores() // (settings.onnx_threads or available_cores()))


def _load(settings: Settings, models: Models, engine: FaceEngine) -> Load:
    """Who may wait for the engine; the first guess is the default model's time. Each model's batches are measured."""
    seconds = [engine.batchers.seconds(model.embedder) for model in (models.default, *models.values())]
    free = max(engine.batchers.workers, available_cores())
    engine.load = Load(max_wait_ms=settings.max_wait_ms, free=free, interval_seconds=seconds[0])
    return engine.load


def master_key_of(settings: Settings) -> bytes | None:
    """The master key of the settings, or None.

    Raises:
        ConfigError: it is no key, or its file cannot be read.
    """
    if settings.master_key is not None:
        return parse_master_key(settings.master_key.get_secret_value(), "setting master_key")
    return read_master_key(settings.master_key_file) if settings.master_key_file is not None else None


def _ledger(settings: Settings, store: Store) -> Ledger | None:
    """The erasure ledger of the settings, brought up to date, or None."""
    if settings.erasure_ledger is None:
        return None
    ledger = Ledger(settings.erasure_ledger)
    ledger.follow(store)
    return ledger


def _detector(settings: Settings) -> Detector | None:
    """The detector of the settings, the one that was pulled, or none; one that is named must work."""
    try:
        return Detector(settings.detector, score_threshold=settings.detector_score)
    except ModelNotFoundError as error:
        if settings.detector is not None:
            raise
        log.warning("no face detector: only aligned crops and embeddings are taken (%s)", error)
        return None
