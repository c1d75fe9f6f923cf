"""Which galleries a service has: the one place that knows where indexes can be.

An engine in this process's memory is filled at start, and follows writes itself, or with the log where several services
share the store; one in the store's database changes with the write; one elsewhere follows the log.
"""

from facemargin.errors import ConfigError
from facemargin.index import SearchEngine, open_engine
from facemargin.index.engines import shown
from facemargin.index.memory_engine import MemoryEngine
from service.durable_gallery import DurableGallery
from service.entries import Templates
from service.following_gallery import FollowingGallery
from service.gallery import Gallery
from service.memory_gallery import MemoryGallery
from service.settings import Settings
from service.shared_gallery import SharedGallery
from service.snapshots import SNAPSHOTS, Snapshots
from service.store import Store
from service.store.followed import serve_index
from service.store.snapshot_keys import collections_with_snapshot_key, drop_snapshot_key
from service.transactional_gallery import TransactionalGallery


def open_gallery(settings: Settings, store: Store) -> tuple[Gallery, Snapshots | None]:
    """The galleries of a service, loaded, and the snapshots that are written of them, if any are.

    Raises:
        ConfigError: an engine that there is not, that lacks something, that must not be used with this store, or that
            is far apart from it.
    """
    engine = open_engine_of(settings.index, store, allow_plaintext=settings.allow_plaintext_index)
    snapshots = Snapshots(store.folder / SNAPSHOTS) if store.folder is not None else None
    try:
        if isinstance(engine, MemoryEngine):
            gallery = _in_memory(engine.kind, settings.templates, store, snapshots)
            serve_index(store, engine.place)
        else:
            gallery = _durable(engine, settings, store)
            _do_without(snapshots, store)
            snapshots = None
        gallery.load(store)
    except BaseException:
        engine.close()
        raise
    return gallery, snapshots


def open_engine_of(url: str, store: Store, *, allow_plaintext: bool) -> SearchEngine:
    """The engine of a URL for an unlocked store; nothing is asked of it yet.

    Raises:
        ConfigError: there is none such, or it would hold in the clear what the store encrypts.
    """
    database = store.engine.execution_options(takes_turns=False) if store.shared else None
    engine = open_engine(url, database=database)
    if engine.plaintext and store.vault.encrypts and not allow_plaintext:
        engine.close()
        raise ConfigError(
            f"the store is encrypted, and the index {shown(url)} holds templates in the clear; allow it with "
            "--allow-plaintext-index (FACEMARGIN_ALLOW_PLAINTEXT_INDEX=true), or use the index faiss:"
        )
    return engine


def _in_memory(kind: str, templates: Templates, store: Store, snapshots: Snapshots | None) -> Gallery:
    if store.shared:
        return SharedGallery(index=kind, templates=templates)
    return MemoryGallery(index=kind, templates=templates, snapshots=snapshots)


def _durable(engine: SearchEngine, settings: Settings, store: Store) -> DurableGallery:
    kind = TransactionalGallery if engine.transactional else FollowingGallery
    return kind(store, engine, url=shown(settings.index), templates=settings.templates)


def _do_without(snapshots: Snapshots | None, store: Store) -> None:
    """Destroy snapshots of indexes in memory: nobody would withdraw them when somebody is erased."""
    if snapshots is None:
        return
    with store.read() as session:
        numbers = collections_with_snapshot_key(session)
    if numbers:
        with store.write() as session:
            for number in numbers:
                drop_snapshot_key(session, number)
    with store.read() as session:
        snapshots.sweep(session)
