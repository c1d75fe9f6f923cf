"""One service of several on the same store: what it must have in common with the others, and how it follows them.

A thread takes over what the others write, five times a second: what their writes mean for the search indexes, the API
keys, and what their rate limits granted. Once a second it says that it is there and looks who else is. Nothing is kept
from one round to the next but how far it came, so a round that fails is simply done again.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from facemargin import __version__
from facemargin.errors import ConfigError
from service.errors import StoreError
from service.shared_limits import LimitExchange
from service.store import CollectionRow, Store
from service.store.aside import aside
from service.store.change_log import drop_old_changes, has_old_changes
from service.store.clock import elapsed
from service.store.clock import present as present_time
from service.store.replicas import LIVE_S, leave, newer_version, others, present
from service.store.tables import SCHEMA_VERSION, new_id
from service.store.taken import drop_idle

log = logging.getLogger("facemargin.service")

ROUND_S: Final = 0.2
_PRESENCE_S: Final = 1.0
_LONGEST_SILENCE_S: Final = 1.0
"""After which what other services wrote may be missing here, and the service is not ready."""

KEPT: Final = timedelta(minutes=10)
"""How long the log of changes reaches back."""
_IDLE: Final = timedelta(hours=1)
"""After which nobody needs to know any more what a limit granted to somebody."""

_MODELS = "models"


class Keys(Protocol):
    """What is read anew (`service.gate.Gate`)."""

    def refresh(self) -> None:
        """Read the API keys anew."""


class Follows(Protocol):
    """What follows the writes of others (`service.gallery.Gallery`)."""

    def catch_up(self, store: Store) -> None:
        """Take over what was committed."""


def description(models: Sequence[str], **alike: str) -> dict[str, Any]:
    """What must be alike in all services of a store.

    Args:
        models: ids, the default one first.
        alike: further settings by name.
    """
    series = ".".join(__version__.split(".")[:2])
    return {"facemargin": series, "schema": SCHEMA_VERSION, _MODELS: [*models], **alike}


def apart(mine: Mapping[str, Any], other: Mapping[str, Any], *, newcomer: bool) -> str | None:
    """How two services of a store differ that must not; None where they may both run.

    Args:
        mine: description of the one that asks.
        other: that of the other one.
        newcomer: whether ``mine`` is about to start: it may have further models, after all those of the other one. One
            that runs may find such a newcomer.
    """
    if newcomer:
        few, many = other.get(_MODELS, []), mine[_MODELS]
    else:
        few, many = sorted((mine[_MODELS], other.get(_MODELS, [])), key=len)
    found = [
        f"{name} {_shown(mine.get(name))}, there {_shown(other.get(name))}"
        for name in sorted(mine.keys() | other.keys())
        if (many[: len(few)] != few if name == _MODELS else mine.get(name) != other.get(name))
    ]
    return "; ".join(found) or None


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


class Replica:
    """The line of a service among those of its store.

    Args:
        store: which services share.
        described: what it is (`description`).

    Raises:
        ConfigError: another one runs that is something else, and the two would not give the same answers.
    """

    def __init__(self, store: Store, described: Mapping[str, Any]) -> None:
        self._store, self._described = store, described
        self._id = new_id("r")
        self._turn = threading.Lock()
        self._left = False
        with store.write() as session:  # in the turn of the writers, so that of two that start one sees the other
            for other in others(session, self._id):
                if (how := apart(described, other, newcomer=True)) is not None:
                    raise ConfigError(
                        f"another service of the store {store} is running and differs: here {how}; start this one "
                        "alike, or stop the other one first (one that was killed counts as running for "
                        f"{LIVE_S:.0f} s); a further model goes to the end of FACEMARGIN_MORE_BUNDLES"
                    )
            present(session, self._id, described)

    def look(self) -> list[str]:
        """Say that it is there; why it should not be asked.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        with self._turn, aside(self._store) as session:
            if self._left:  # a look that hung while the service ended
                return []
            present(session, self._id, self._described)
            running = others(session, self._id)
            newer = newer_version(session, self._store.name)
            missing = self._missing(session, running)
        differing = (apart(self._described, other, newcomer=False) for other in running)
        different = next((how for how in differing if how is not None), None)
        return [
            *([newer] if newer else []),
            *([f"another service of the store is running and differs: here {different}"] if different else []),
            *(f"a collection needs model {model}, which other services have; restart with it" for model in missing),
        ]

    def _missing(self, session: Session, running: Sequence[Mapping[str, Any]]) -> list[str]:
        """Models that collections are bound to or move to, that others have and this one lacks."""
        lacking = {model for other in running for model in other.get(_MODELS, [])} - {*self._described[_MODELS]}
        if not lacking:
            return []
        rows = session.execute(select(CollectionRow.model, CollectionRow.upgrade_model).distinct())
        return sorted(lacking & {model for row in rows for model in row})

    def leave(self) -> None:
        """Say that it is gone; where the database does not answer, the others see it in ten seconds."""
        if not self._turn.acquire(timeout=_LONGEST_SILENCE_S):  # the database hangs
            return
        self._left = True
        try:
            with aside(self._store) as session:
                leave(session, self._id)
        except (StoreError, SQLAlchemyError) as error:
            log.error("the other services could not be told that this one ends: %r", error)
        finally:
            self._turn.release()


def trim(store: Store) -> None:
    """Drop what every service has had the time to read; one that has not builds its indexes anew.

    Raises:
        SQLAlchemyError: the database does not answer.
    """
    with store.read() as session:
        before = present_time(session) - KEPT
        due = has_old_changes(session, before=before)
    if due:
        with store.write() as session:
            drop_old_changes(session, before=before)
    if store.shared:
        with aside(store) as session:
            drop_idle(session, after=_IDLE)


class Follower:
    """Keeps a service up to date with what other services of its store do.

    Args:
        store: which they share.
        gallery: the search indexes.
        keys: the API keys.
        limits: the rate limits; None where there are none.
        replica: its line.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        store: Store,
        gallery: Follows,
        keys: Keys,
        limits: LimitExchange | None,
        replica: Replica,
        *,
        clock: Callable[[], float] = elapsed,
    ) -> None:
        self._replica, self._clock = replica, clock
        self._jobs: dict[str, Callable[[], object]] = {
            "what other services wrote": lambda: gallery.catch_up(store),
            "the API keys": keys.refresh,
            "the rate limits": limits.exchange if limits is not None else lambda: None,
        }
        self._done_at = dict.fromkeys(self._jobs, clock())
        self._failing: set[str] = set()
        self._looked_at = -_PRESENCE_S
        self._troubles: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="follower", daemon=True)

    def start(self) -> None:
        """Begin; the first round is over when this returns."""
        self.round()
        self._thread.start()

    def stop(self) -> None:
        """End after the round at hand; one that waits for a database that hangs is left behind."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_LONGEST_SILENCE_S)

    @property
    def silent(self) -> bool:
        """Whether nothing at all could be read for too long."""
        return self._clock() - max(self._done_at.values()) > _LONGEST_SILENCE_S

    def troubles(self) -> list[str]:
        """Why the service may not know what the others do, or should not be asked; empty where all is well."""
        moment = self._clock()
        late = [(name, moment - at) for name, at in self._done_at.items() if moment - at > _LONGEST_SILENCE_S]
        return [f"{name} could not be read for {seconds:.0f} s" for name, seconds in late] + self._troubles

    def round(self) -> None:
        """Take everything over once."""
        for name, job in self._jobs.items():
            began = self._clock()
            if self._attempt(name, job):
                self._done_at[name] = began
        if self._clock() - self._looked_at >= _PRESENCE_S:
            self._looked_at = self._clock()
            self._attempt("the other services", self._look)

    def _look(self) -> None:
        self._troubles = self._replica.look()

    def _attempt(self, name: str, job: Callable[[], object]) -> bool:
        try:
            job()
        except Exception as error:  # the edge of the thread: it must not end while the service runs
            if name not in self._failing:  # once is enough until it works again
                log.error("%s: cannot be read, tried again: %r", name, error)
            self._failing.add(name)
            return False
        if name in self._failing:
            log.info("%s: can be read again", name)
        self._failing.discard(name)
        return True

    def _work(self) -> None:
        while not self._ended.wait(ROUND_S):
            self.round()
