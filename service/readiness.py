"""Can the service do its work? Seen by doing some: each model embeds a made-up crop, the detector looks at a drawing.

Anybody may ask, so asking must cost little: what runs a network is answered from memory for a few seconds, by one
thread at a time, and the rest is one trivial query and one look at the file system. Nothing is written: whether writes
succeed is known from the writes themselves, and where the last one failed the housekeeping tries again.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.exc import SQLAlchemyError

from facemargin.preprocessing import TEMPLATES, Detector, Face
from service.errors import StoreError
from service.gallery import Gallery
from service.housekeeping import Housekeeping
from service.models import Model, Models
from service.replica import Follower
from service.store import Store
from service.upgrader import Upgrader

log = logging.getLogger("facemargin.service")

_TOLERANCE: Final = 0.001
"""By which the cosine with the first embedding may differ from 1: a length that is not 1 shows too."""
_SILENT: Final = "the database does not answer in time"  # so it is not asked here, where it would be waited for
_REMEMBERED_S: Final = 5.0
_LONGEST_RUN_S: Final = 10.0
_PICTURE: Final = (240, 320)
_SAME_BOX: Final = 2.0
"""Pixels by which a box may move."""


class Check(NamedTuple):
    """What was looked at, whether it is in order, and if not, why."""

    name: str
    ok: bool
    detail: str | None = None


class _Network(Protocol):
    """Something that runs a network on a picture that never changes."""

    name: str

    def trouble(self) -> str | None:
        """Run it; what is wrong, or None."""


class ModelCheck:
    """A model embeds the same crop as at the start, and must give the same embedding.

    The crop does not wait behind those of clients: a service that is busy is ready.
    """

    def __init__(self, model: Model) -> None:
        self.name = f"model {model.id}"
        self._embedder = model.embedder
        self._crop = pattern(TEMPLATES[model.template].size)[None]
        self._first = self._embedder.embed(self._crop)[0]

    def trouble(self) -> str | None:
        """Embed, and compare."""
        cosine = float(self._embedder.embed(self._crop)[0] @ self._first)
        return (
            None
            if abs(cosine - 1) < _TOLERANCE
            else f"its embedding is another than at the start (cosine {cosine:.4f})"
        )


class DetectorCheck:
    """The detector finds the same in a drawing as at the start."""

    name = "detector"

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._picture = drawing(_PICTURE)
        self._first = detector.detect(self._picture)

    def trouble(self) -> str | None:
        """Detect, and compare."""
        return (
            None
            if _same(self._detector.detect(self._picture), self._first)
            else "it finds other faces than at the start"
        )


class Readiness:
    """The checks of one service.

    Args:
        store: must answer, and take writes.
        gallery: must agree with it.
        housekeeping: must be at work.
        models: all must embed.
        detector: must detect, where there is one.
        upgrader: must be at work; told of with the housekeeping.
        min_free_bytes: what the disk of the store must have left.
        follower: must know what other services of the store do, where there can be any.
        clock: seconds.
    """

    def __init__(
        self,
        store: Store,
        gallery: Gallery,
        housekeeping: Housekeeping,
        models: Models,
        detector: Detector | None,
        *,
        upgrader: Upgrader,
        min_free_bytes: int,
        follower: Follower | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._gallery, self._housekeeping, self._upgrader = store, gallery, housekeeping, upgrader
        self._min_free_bytes, self._follower = min_free_bytes, follower
        self._networks: list[_Network] = [ModelCheck(model) for model in models.values()]
        self._networks += [DetectorCheck(detector)] if detector is not None else []
        self._clock = clock
        self._turn = threading.Lock()
        self._found = [Check(network.name, True) for network in self._networks]
        self._since = self._until = clock()

    def checks(self) -> list[Check]:
        """Everything, each with its outcome."""
        return [*self._cheap(), *self._of_networks()]

    def _cheap(self) -> Iterator[Check]:
        silent = self._follower is not None and self._follower.silent
        troubles = {
            "store": _SILENT if silent else _trouble_of_store(self._store),
            "index": self._gallery.trouble(),
            "disk": _trouble_of_disk(self._store.folder, self._min_free_bytes),
            "housekeeping": "; ".join([*self._housekeeping.troubles(), *self._upgrader.troubles()]) or None,
        }
        if self._follower is not None:
            troubles["replica"] = "; ".join(self._follower.troubles()) or None
        return (Check(name, trouble is None, trouble) for name, trouble in troubles.items())

    def _of_networks(self) -> list[Check]:
        """As found at most some seconds ago; who comes while they run gets what was found before."""
        if self._turn.acquire(blocking=False):
            try:
                if self._clock() >= self._until:
                    self._since = self._clock()
                    self._found = [_checked(network) for network in self._networks]
                    self._until = self._clock() + _REMEMBERED_S
                return self._found
            finally:
                self._turn.release()
        if (running := self._clock() - self._since) > _LONGEST_RUN_S:
            return [Check(check.name, False, f"the check has not ended for {running:.0f} s") for check in self._found]
        return self._found


def _checked(network: _Network) -> Check:
    try:
        trouble = network.trouble()
    except Exception:  # whatever a broken runtime raises
        log.exception("the check of the %s failed", network.name)
        return Check(network.name, False, "it fails; the log says how")
    return Check(network.name, trouble is None, trouble)


def _trouble_of_store(store: Store) -> str | None:
    try:
        store.check()
    except SQLAlchemyError:  # its own words show statements and files
        return "the database is locked, full or gone"
    except StoreError as error:  # a command has or had the store alone
        return str(error)
    return None if store.outage is None else f"the database takes no writes: {store.outage}"


def _trouble_of_disk(folder: Path | None, min_free_bytes: int) -> str | None:
    if folder is None:
        return None
    free = free_bytes(folder)
    if free is None:
        return "the store's folder is gone"
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return "the store's disk cannot be written to"
    if free < min_free_bytes:
        return f"the store's disk has less than {min_free_bytes:,} bytes left"
    return None


def free_bytes(folder: Path) -> int | None:
    """Bytes that are left on the disk of a folder; None where the folder is gone."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def _same(found: list[Face], first: list[Face]) -> bool:
    pairs = zip(found, first, strict=False)
    return len(found) == len(first) and all(np.allclose(a.box, b.box, atol=_SAME_BOX) for a, b in pairs)


def pattern(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Waves of three frequencies, one a colour: uint8 (h, w, 3). Nobody's face."""
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(x / (3 + 4 * colour) + y / (11 - 3 * colour)) for colour in range(3)]
    return np.asarray(127.5 + 120 * np.stack(waves, axis=-1), dtype=np.uint8)


def drawing(size: tuple[int, int]) -> NDArray[np.uint8]:
    """A face as children draw it, a little blurred, uint8 (h, w, 3): YuNet scores it 0.9 and it is nobody's."""
    height, width = size
    y, x = np.mgrid[:height, :width] / min(size)
    picture = np.full((height, width, 3), (90, 120, 150), dtype=np.float64)

    def oval(at: tuple[float, float], radii: tuple[float, float], colour: tuple[int, int, int]) -> None:
        dx, dy = (x - width / min(size) / 2 - at[0]) / radii[0], (y - 0.5 - at[1]) / radii[1]
        picture[dx**2 + dy**2 < 1] = colour

    oval((0, 0), (0.3, 0.4), (224, 172, 140))
    oval((0, -0.3), (0.29, 0.14), (60, 40, 30))
    for side in (-1, 1):
        oval((side * 0.12, -0.07), (0.055, 0.03), (250, 250, 250))
        oval((side * 0.12, -0.07), (0.025, 0.028), (40, 30, 20))
        oval((side * 0.12, -0.13), (0.07, 0.012), (70, 50, 40))
    oval((0, 0.06), (0.035, 0.07), (200, 140, 110))
    oval((0, 0.2), (0.11, 0.03), (170, 70, 70))
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), min(size) / 70), dtype=np.uint8)
