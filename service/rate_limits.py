"""How often somebody may ask: token buckets, in memory; `service.shared_limits` has them agree between processes.

A bucket holds at most ten seconds' worth of requests (the burst) and fills at the rate of the limit. So a limit of 600
a minute lets 100 requests through at once, then 10 a second, and never more than 700 in any minute.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from service.errors import RateLimitedError

_BURST_SECONDS = 10
_MINUTE = 60


def burst(per_minute: int) -> int:
    """How many requests may come at once: ten seconds' worth, at least one."""
    return max(1, math.ceil(per_minute * _BURST_SECONDS / _MINUTE))


class Allowance(NamedTuple):
    """What a bucket said.

    Attributes:
        name: of the limit, as the reply's header has it.
        per_minute: the limit.
        remaining: requests that may come at once now.
        full_after: seconds until the bucket is full again.
        wait: seconds until the next request is granted; 0 where this one was.
    """

    name: str
    per_minute: int
    remaining: int
    full_after: float
    wait: float

    def demand(self) -> None:
        """Pass if the request was granted.

        Raises:
            RateLimitedError: it was not.
        """
        if self.wait > 0:
            seconds = math.ceil(self.wait)
            raise RateLimitedError(
                f"more than {self.per_minute} requests a minute; try again in {seconds} s",
                limit=self.per_minute,
                retry_after=seconds,
            )

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """``RateLimit-Policy`` and ``RateLimit`` of the IETF draft (draft-ietf-httpapi-ratelimit-headers)."""
        return [
            (b"ratelimit-policy", f'"{self.name}";q={self.per_minute};w={_MINUTE}'.encode()),
            (b"ratelimit", f'"{self.name}";r={self.remaining};t={math.ceil(self.full_after)}'.encode()),
        ]


class RateLimits:
    """Buckets by who asks. The one that was asked longest ago is dropped when there are too many.

    Args:
        name: of the limit.
        most: buckets that are kept.
        clock: seconds that only grow.
    """

    def __init__(self, name: str, *, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._most = most
        self._clock = clock
        self._turn = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str, per_minute: int) -> Allowance:
        """Grant one request, or say how long to wait. A request that is not granted costs nothing."""
        size, rate = burst(per_minute), per_minute / _MINUTE
        with self._turn:
            moment = self._clock()
            tokens = self._tokens(who, size, rate, moment)
            granted = tokens >= 1
            if granted:
                tokens -= 1
                self._grant(who)
            self._buckets[who] = (tokens, moment)
            self._buckets.move_to_end(who)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        wait = 0.0 if granted else (1 - tokens) / rate
        return Allowance(self._name, per_minute, max(0, int(tokens)), (size - tokens) / rate, wait)

    def _tokens(self, who: str, size: int, rate: float, moment: float) -> float:
        """What is in a bucket now."""
        tokens, since = self._buckets.get(who, (float(size), moment))
        return min(size, tokens + (moment - since) * rate)

    def _grant(self, who: str) -> None:
        """Note that a request was granted, where somebody wants to know."""
