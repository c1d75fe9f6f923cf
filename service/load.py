"""How long a request with images would wait, and the refusal where that is too long.

By Little's law n requests, of which one is worked off every t seconds, are worked off in n·t; t is measured while there
is work. A request takes its place when its images come to be worked on (`service.faces`), and leaves it with them.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import OverloadedError

_MEMORY_SECONDS = 2.0
"""Of work, after which a departure counts 1/e."""

_FIRST_GUESS = 100
"""Departures that the first guess counts for."""


class Load:
    """The requests that are being worked on, and how fast.

    The time from one departure to the next is the time with work over the departures in it, both with weights that
    fall as exp(-age / `_MEMORY_SECONDS`). A mean of single intervals would be wrong: batches end many requests at once,
    and a run of intervals near 0 would count as much as the long one before it.

    Args:
        max_wait_ms: longest wait in milliseconds.
        free: requests that are let in whatever the estimate says, since as many are worked on at a time.
        interval_seconds: first guess of the time from one reply to the next under load.
        clock: seconds.

    Attributes:
        inside: requests whose images are accepted and not embedded yet.
        refused: requests refused since the start.
    """

    def __init__(
        self,
        *,
        max_wait_ms: int,
        free: int,
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.inside = 0
        self.refused = 0
        self._max_wait = max_wait_ms / 1000
        self._free = free
        self._interval = interval_seconds
        self._left: float = _FIRST_GUESS
        self._busy = _FIRST_GUESS * interval_seconds
        self._clock = clock
        self._since = clock()

    @property
    def wait_seconds(self) -> float:
        """How long a request that came now would wait before somebody works on it."""
        return max(0, self.inside + 1 - self._free) * self._interval

    def demand(self) -> None:
        """Pass if a request may come in.

        Raises:
            OverloadedError: it would wait too long.
        """
        wait = self.wait_seconds
        if wait > self._max_wait:
            self.refused += 1
            raise OverloadedError(
                f"the service is busy: a request would wait {wait:.1f} s, at most {self._max_wait:g} s are allowed",
                retry_after=max(1, math.ceil(wait - self._max_wait)),
            )

    def enter(self) -> None:
        """Let a request in.

        Raises:
            OverloadedError: it would wait too long.
        """
        self.demand()
        if not self.inside:
            self._since = self._clock()
        self.inside += 1

    def leave(self) -> None:
        """It was worked off."""
        self.inside -= 1
        now = self._clock()
        took, self._since = now - self._since, now
        kept = math.exp(-took / _MEMORY_SECONDS)
        self._left, self._busy = kept * self._left + 1, kept * self._busy + took
        self._interval = self._busy / self._left

    @contextmanager
    def place(self) -> Iterator[None]:
        """Be inside for the length of a block.

        Raises:
            OverloadedError: the wait would be too long.
        """
        self.enter()
        try:
            yield
        finally:
            self.leave()
