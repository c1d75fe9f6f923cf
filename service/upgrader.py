"""What moves collections to another model: vectors in the background, and the switch without a pause."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from facemargin.errors import FacemarginError
from facemargin.preprocessing import TEMPLATES, ImageLimits, decode
from service.errors import CropShapeError, UpgradeStateError
from service.gallery import Change, Drafted, Gallery
from service.models import Model, Models
from service.store import CollectionRow, FaceRow, PersonRow, Store
from service.store.faces import stored_crop
from service.store.people import collection, find_collection
from service.store.upgrades import has_template, moving_collections, waiting_faces
from service.upgrades import Target, Vector, add_vector, bind, models_of
from service.writes import Once, Reply, Writer

log = logging.getLogger("facemargin.service")

_JOB = "embedding again for upgrades"
_AT_A_TIME = 16
_PAUSE_SECONDS = 5.0
_MOST_FAILURES = 3
_BACKGROUND = Once("upgrade", None, b"")


class _Work(NamedTuple):
    """Crops of faces, PNG, by row number, or why they cannot be opened; and what shall embed them."""

    collection: int
    model: Model
    crops: dict[int, bytes | FacemarginError]


class Upgrader:
    """Makes the missing vectors of moving collections from stored crops, a few at a time, in a thread of its own.

    Args:
        store: where faces and crops are.
        models: what embeds.
        gallery: the indexes.
        writer: the way into the store.

    Attributes:
        failed: how often its job has failed since the start.
        unreadable: row numbers of faces whose crop is damaged; after a restart they are tried again.
    """

    def __init__(self, store: Store, models: Models, gallery: Gallery, writer: Writer) -> None:
        self._store, self._models, self._gallery, self._writer = store, models, gallery, writer
        self._wanted, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="upgrader", daemon=True)
        self._failures = 0
        self.failed = {_JOB: 0}
        self.unreadable: frozenset[int] = frozenset()

    def start(self) -> None:
        """Begin, and go on with what an earlier process left."""
        self._thread.start()

    def stop(self) -> None:
        """End after the faces at hand."""
        self._ended.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Look at once whether there is something to do."""
        self._wanted.set()

    def troubles(self) -> list[str]:
        """Why upgrades do not go on; empty where they do."""
        found = [] if self._thread.is_alive() else ["the thread of upgrades is not running"]
        if (times := self._failures) >= _MOST_FAILURES:
            found.append(f"{_JOB} has failed {times} times")
        return found

    def move(self, once: Once, name: str, target: Target, answer: Callable[[Session, CollectionRow], Reply]) -> Reply:
        """Bind a collection to another model, in one transaction; searches go on, and so do other writes.

        Its index is built before the write has its turn, where only what was written meanwhile is done again.

        Args:
            once: the request.
            name: of the collection.
            target: which model.
            answer: what to reply, by the collection as it is then.

        Raises:
            NotFoundError: there is no such collection.
            UpgradeStateError: by the target, or another request is moving it there.
            ModelMismatchError: the model is not loaded any more.
        """
        with self._drafted(name, target) as drafted:

            def work(session: Session, changes: list[Change]) -> Reply:
                gallery = collection(session, name)
                model = self._models.named(target(session, gallery))
                bind(session, changes, gallery, model=model, moved=partial(self._gallery.moved, drafted=drafted))
                return answer(session, gallery)

            return self._writer.run(once, work)

    @contextmanager
    def _drafted(self, name: str, target: Target) -> Iterator[Drafted | None]:
        drafted = self._gallery.draft(self._store, partial(self._after, name, target))
        try:
            yield drafted
        finally:
            if drafted is not None:
                self._gallery.discard(drafted)

    def _after(self, name: str, target: Target, session: Session) -> CollectionRow | None:
        """A collection as it will be; None where it will not, which the write itself explains."""
        row = find_collection(session, name)
        try:
            model = None if row is None else self._models.get(target(session, row))
        except UpgradeStateError:
            return None
        if row is None or model is None:
            return None
        return CollectionRow(
            id=row.id, public_id=row.public_id, name=row.name, model=model.id, dim=model.dim, sequence=row.sequence
        )

    def _work(self) -> None:
        while not self._ended.is_set():
            try:
                while not self._ended.is_set() and self.step():
                    self._failures = 0
                self._failures = 0
            except Exception as error:  # the edge of the thread: it must not end while the service runs
                self._failures += 1
                self.failed[_JOB] += 1
                again = self._failures > 1  # one traceback is enough
                log.error("%s failed and is tried again: %r", _JOB, error, exc_info=not again)
            self._wanted.wait(_PAUSE_SECONDS)
            self._wanted.clear()  # now, so that whoever wakes it from here on is heard

    def step(self) -> bool:
        """Embed a few faces that lack a vector; whether there were any."""
        with self._store.read() as session:
            found = self._next(session)
        if found is None:
            return False
        if crops := self._readable(found):
            vectors = found.model.embedder.embed(np.stack(list(crops.values())))
            work = self._adding(found.collection, found.model.id, dict(zip(crops, vectors, strict=True)))
            self._writer.run(_BACKGROUND, work)
        return True

    def _next(self, session: Session) -> _Work | None:
        """Some faces; their crops are read here and the rest is done outside, since a reader holds up erasures."""
        for gallery in moving_collections(session):
            for number in models_of(gallery):
                if (model := self._models.get(number)) and (crops := self._crops(session, gallery, model)):
                    return _Work(gallery.id, model, crops)
        return None

    def _crops(self, session: Session, gallery: CollectionRow, model: Model) -> dict[int, bytes | FacemarginError]:
        rows = waiting_faces(session, gallery, model.id, model.template, unreadable=self.unreadable, limit=_AT_A_TIME)
        return {face.id: _opened(session, gallery, face, person) for face, person in rows}

    def _readable(self, found: _Work) -> dict[int, NDArray[np.uint8]]:
        """Decoded crops; one that is damaged is named once, and keeps no other waiting."""
        crops = {}
        for number, data in found.crops.items():
            try:
                crops[number] = _decoded(data, found.model.template)
            except FacemarginError as error:
                self.unreadable |= {number}
                log.error("face %d cannot be embedded again: %s", number, error)
        return crops

    def _adding(
        self, collection: int, model: str, vectors: dict[int, Vector]
    ) -> Callable[[Session, list[Change]], Reply]:
        def work(session: Session, changes: list[Change]) -> Reply:
            gallery = session.get(CollectionRow, collection)
            if gallery is None or model not in models_of(gallery):
                return Reply(200)  # it was deleted or cancelled meanwhile
            for number, vector in vectors.items():
                face = session.get(FaceRow, number)
                if face is not None and not has_template(session, face, model):
                    person = session.get_one(PersonRow, face.person_id)
                    add_vector(session, changes, self._gallery, (gallery, person, face), model, vector)
            return Reply(200)

        return work


def _opened(session: Session, gallery: CollectionRow, face: FaceRow, person: PersonRow) -> bytes | FacemarginError:
    try:
        return stored_crop(session, gallery, person, face) or b""
    except FacemarginError as error:
        return error


def _decoded(data: bytes | FacemarginError, template: str) -> NDArray[np.uint8]:
    if isinstance(data, FacemarginError):
        raise data
    crop = decode(data, ImageLimits())
    if crop.shape[:2] != (size := TEMPLATES[template].size):
        found = f"{crop.shape[1]}x{crop.shape[0]}"
        raise CropShapeError(
            f"its crop has {found} pixels; those of {template} have {size[1]}x{size[0]}", template=template
        )
    return crop
