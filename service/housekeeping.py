"""What the service does by itself, every few seconds: erase who has expired, empty the log, mend, write snapshots.

One thread. Each job is tried again in the next round whatever happens to it; a job that keeps failing makes the service
not ready, and the reason is named.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from sqlalchemy.orm import Session

from service.erasure import erase_person
from service.errors import StoreError
from service.gallery import Change, Gallery
from service.replica import trim
from service.snapshots import Snapshots
from service.store import Store
from service.store.people import expired_people, expired_person
from service.writes import Once, Reply, Writer

log = logging.getLogger("facemargin.service")

RETENTION = "retention"
"""Who erased somebody, in the audit log, when it was the end that was set."""

_ERASED_AT_A_TIME = 100
_MOST_FAILURES = 3
_UNFORGOTTEN_S = 30.0
_IDLE_FACTOR = 20.0
"""Times as long as the last snapshot took until the next one: at most a twentieth of the disk's time is theirs."""


class Housekeeping:
    """The jobs, and the thread that does them.

    Args:
        store: the truth.
        gallery: its indexes.
        writer: the way into both.
        snapshots: files beside the store; None where there are none.
        seconds: from the end of one round to the next.
        snapshot_faces: least entries of a collection that has snapshots.
        snapshot_seconds: least time between two snapshots.

    Attributes:
        failed: how often each job has failed since the start.
    """

    def __init__(
        self,
        store: Store,
        gallery: Gallery,
        writer: Writer,
        snapshots: Snapshots | None,
        *,
        seconds: float,
        snapshot_faces: int,
        snapshot_seconds: float,
    ) -> None:
        self._store, self._gallery, self._writer, self._snapshots = store, gallery, writer, snapshots
        self._seconds = seconds
        self._snapshot_faces, self._snapshot_seconds = snapshot_faces, snapshot_seconds
        self._jobs: dict[str, Callable[[], None]] = {
            "erasing who has expired": self._erase_expired,
            "dropping old replies": writer.drop_old_replies,
            "mending the store and the indexes": writer.settle,
            "tidying the indexes": gallery.tidy,
            "writing the erasure ledger": writer.write_ledger,
            "trimming what services tell each other": partial(trim, store),
            "deleting snapshots": self._sweep,
            "writing snapshots": self._save,
        }
        self._failures: Counter[str] = Counter()
        self.failed: dict[str, int] = dict.fromkeys(self._jobs, 0)
        self._ended_round = time.monotonic()
        self._unforgotten_since: float | None = None
        self._next_save = time.monotonic() + snapshot_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Begin with a round at once: a service before this one may have been killed after a deletion."""
        self._thread.start()

    def stop(self) -> None:
        """End after the job at hand; a snapshot that is being written is given up."""
        self._ended.set()
        if self._snapshots is not None:
            self._snapshots.close()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def age_seconds(self) -> float:
        """Since the end of the last round, or the start."""
        return time.monotonic() - self._ended_round

    def troubles(self) -> list[str]:
        """Why the housekeeping is not in order; empty where it is."""
        found = [] if self._thread.is_alive() else ["it is not running"]
        failing = {name: times for name, times in list(self._failures.items()) if times >= _MOST_FAILURES}
        found += [f"{name} has failed {times} times" for name, times in failing.items()]
        since = self._unforgotten_since
        if since is not None and time.monotonic() - since > _UNFORGOTTEN_S:
            found.append("a reader keeps the log from being emptied, so what was deleted is still in a file")
        return found

    def round(self) -> None:
        """Do every job once."""
        for name, job in self._jobs.items():
            if self._ended.is_set():
                return
            try:
                job()
                self._failures.pop(name, None)
            except Exception as error:  # the edge of the thread: it must not end while the service runs
                self._failures[name] += 1
                self.failed[name] += 1
                again = self._failures[name] > 1  # one traceback is enough
                log.error("%s failed and is tried again: %r", name, error, exc_info=not again)
        self._watch_log()
        self._ended_round = time.monotonic()

    def _work(self) -> None:
        while not self._ended.is_set():
            self.round()
            self._ended.wait(self._seconds)

    def _watch_log(self) -> None:
        if not self._writer.unforgotten:
            self._unforgotten_since = None
        elif self._unforgotten_since is None:
            self._unforgotten_since = time.monotonic()

    def _erase_expired(self) -> None:
        failures: list[Exception] = []
        for row in self._expired():
            try:
                self._writer.run(Once(RETENTION, None, b""), partial(self._erasing, row))
            except Exception as error:  # whatever it is about this one, the others are erased
                if self._store.outage is not None:
                    raise
                failures.append(error)
        if failures:
            raise StoreError(f"{len(failures)} people cannot be erased") from failures[0]

    def _expired(self) -> Iterator[int]:
        """Row numbers of people whose time is over."""
        last = 0
        while True:
            with self._store.read() as session:
                rows = expired_people(session, after=last, limit=_ERASED_AT_A_TIME)
            for last in rows:
                if self._ended.is_set():
                    return
                yield last
            if not rows:
                return

    def _erasing(self, row: int, session: Session, changes: list[Change]) -> Reply:
        if (found := expired_person(session, row)) is not None:  # somebody may have given more time meanwhile
            erase_person(session, changes, self._gallery, *found, actor=RETENTION)
        return Reply(204)

    def _sweep(self) -> None:
        if self._snapshots is not None:
            with self._store.read() as session:
                self._snapshots.sweep(session)

    def _save(self) -> None:
        if time.monotonic() < self._next_save or self._store.outage is not None:
            return
        for number in self._gallery.unsaved(self._snapshot_faces):
            if self._ended.is_set():
                return
            started = time.monotonic()
            try:
                written = self._gallery.save(self._store, number)
            finally:
                took = time.monotonic() - started
                self._next_save = time.monotonic() + max(self._snapshot_seconds, _IDLE_FACTOR * took)
            if written:
                log.info("collection %d: snapshot written in %.1f s", number, took)
