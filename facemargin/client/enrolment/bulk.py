"""Enrolling many pictures: threads, one journal, failures collected, a stop that loses nothing.

A picture is enrolled under an Idempotency-Key made of the collection, the person and the content of the file, so that
what was enrolled before a crash is not enrolled again, even if the journal is lost. The key is an HMAC under the API
key: the service seals a stored answer with the Idempotency-Key, so nobody may be able to guess it from a name.
"""

import hashlib
import hmac
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Literal

from facemargin.client.clients import Client
from facemargin.client.enrolment.journal import Journal
from facemargin.client.enrolment.registry import Registry
from facemargin.client.enrolment.sources import Entry
from facemargin.client.errors import (
    ClientError,
    DetectorMissing,
    Forbidden,
    IdempotencyMismatch,
    ModelMismatch,
    NotFound,
    ServiceProblem,
    ServiceUnreachable,
    TryLater,
    Unauthenticated,
)
from facemargin.client.operations.comparing import OneFace
from facemargin.client.replies import Collection
from facemargin.client.requests import MinQuality
from facemargin.errors import DataError

Outcome = Literal["enrolled", "already", "duplicate", "failed"]
_HOPELESS = (DetectorMissing, Forbidden, ModelMismatch, ServiceUnreachable, TryLater, Unauthenticated)
"""What would meet every other picture too."""


@dataclass(frozen=True)
class Manner:
    """How pictures are to be taken.

    Attributes:
        aligned: they are crops by the model's template.
        face: what to do with several faces in one.
        min_quality: refuse a face below it.
        workers: threads.
    """

    aligned: bool = False
    face: OneFace = "single"
    min_quality: MinQuality | None = None
    workers: int = 4


@dataclass(frozen=True)
class Failure:
    """A picture that was not enrolled.

    Attributes:
        entry: which.
        problem: its kind: the end of the problem's type, or ``file``, ``person``.
        reason: one sentence.
    """

    entry: Entry
    problem: str
    reason: str


@dataclass
class Summary:
    """What came of a run.

    Attributes:
        counts: pictures by outcome: ``enrolled`` now, ``already`` before (by the journal), ``duplicate`` of another one
            of the same person, ``failed``.
        failures: the failed ones.
        resemblances: per enrolled picture that also matches somebody else, its path and what the service said.
        stopped: why the run ended early, or None.
    """

    counts: Counter[Outcome] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    resemblances: list[tuple[str, str]] = field(default_factory=list)
    stopped: str | None = None


class Stopped(Exception):
    """The run is to end; nothing of the picture at hand was begun that the next run would not find."""


class Enrolment:
    """A run over a source.

    Args:
        client: to the service; its waits between tries must end by `pause`.
        collection: where to.
        journal: what was done before, and what is done now.
        manner: how pictures are to be taken.
        api_key: what the Idempotency-Keys are made under; None for a service without keys.
        stop: ends the run when it is set.
    """

    def __init__(
        self,
        client: Client,
        collection: Collection,
        journal: Journal,
        manner: Manner,
        *,
        api_key: str | None,
        stop: threading.Event,
    ) -> None:
        self._client = client
        self._collection = collection
        self._journal = journal
        self._manner = manner
        self._secret = (api_key or "").encode()
        self._stop = stop
        self._people = Registry(client, collection.name, self._key)
        self._lock = threading.Lock()
        self._faces: set[str] = set()
        self.summary = Summary()

    def run(self, entries: list[Entry], progress: Callable[[Summary], None]) -> Summary:
        """Enrol; Ctrl-C lets what is under way finish and then ends the run.

        Args:
            entries: the pictures.
            progress: called after each, by one thread at a time.
        """
        waiting = iter(entries)
        with ThreadPoolExecutor(self._manner.workers, thread_name_prefix="enrol") as pool:
            running: list[Future[None]] = []
            try:
                for _ in range(self._manner.workers):
                    running.append(pool.submit(self._work, waiting, progress))
                wait(running)
            except KeyboardInterrupt:
                self._end("interrupted")
        for worker in running:
            worker.result()
        return self.summary

    def _end(self, why: str) -> None:
        with self._lock:
            self.summary.stopped = self.summary.stopped or why
        self._stop.set()

    def _work(self, waiting: Iterator[Entry], progress: Callable[[Summary], None]) -> None:
        try:
            while not self._stop.is_set():
                with self._lock:
                    entry = next(waiting, None)
                if entry is None:
                    return
                result = self._tried(entry)
                with self._lock:
                    self._count(result)
                    progress(self.summary)
        except Stopped:
            return
        except _HOPELESS as error:
            self._end(str(error))
        except OSError as error:
            self._end(f"the journal {self._journal.path} cannot be written: {error.strerror or error}")
        except BaseException:  # a mistake of ours: end the others too, and let it be seen
            self._stop.set()
            raise

    def _count(self, result: Outcome | Failure) -> None:
        if isinstance(result, Failure):
            self.summary.failures.append(result)
        self.summary.counts["failed" if isinstance(result, Failure) else result] += 1

    def _tried(self, entry: Entry) -> Outcome | Failure:
        try:
            content = entry.image.read_bytes()
        except OSError as error:
            return Failure(entry, "file", f"the file cannot be read: {error.strerror or error}")
        try:
            return self._enrolled(entry, content)
        except _HOPELESS:
            raise
        except DataError as error:
            return Failure(entry, "person", str(error))
        except NotFound as error:
            if "person" not in error.members:
                self._end(str(error))  # the collection is gone
                raise Stopped from error
            return Failure(entry, error.slug, error.detail)
        except ServiceProblem as error:
            return Failure(entry, error.slug, error.detail)
        except ClientError as error:
            return Failure(entry, "reply", str(error))

    def _enrolled(self, entry: Entry, content: bytes) -> Outcome:
        who, sha256 = entry.person.identity, hashlib.sha256(content).hexdigest()
        if self._journal.done(who, sha256):
            return "already"
        person_id = self._people.id_of(entry.person)
        try:
            face = self._client.enrol(
                self._collection.name,
                person_id,
                content,
                aligned=self._manner.aligned,
                face=self._manner.face,
                min_quality=self._manner.min_quality,
                idempotency_key=self._key("face", person_id, sha256),
            )
        except IdempotencyMismatch:  # the key is of this picture and person: enrolled before, with other options
            self._journal.add(person=who, sha256=sha256, image=str(entry.image), person_id=person_id, face="")
            return "already"
        self._journal.add(person=who, sha256=sha256, image=str(entry.image), person_id=person_id, face=face.id)
        with self._lock:
            again = face.id in self._faces
            self._faces.add(face.id)
            if not again:
                self.summary.resemblances += [(str(entry.image), warning.detail) for warning in face.warnings]
        return "duplicate" if again else "enrolled"

    def _key(self, *words: str) -> str:
        """An Idempotency-Key: the same for the same words in the same collection, if it was not made anew."""
        content = "\0".join((self._collection.name, self._collection.created_at.isoformat(), *words))
        return "enrol-" + hmac.new(self._secret, content.encode(), hashlib.sha256).hexdigest()


def pause(stop: threading.Event) -> Callable[[float], None]:
    """A wait between tries that ends when the run is to stop."""

    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise Stopped

    return sleep
