"""When to try again, and how long to wait: what the service asks for, or a doubling wait with chance in it."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from facemargin.client.errors import ClientError, ServiceUnreachable, TryLater

_FURTHEST_DOUBLING = 30
_OURS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
"""Failures to send that come from the request itself: the next try would fail as well."""


@dataclass(frozen=True)
class Retries:
    """How calls are tried again. All are safe to repeat: reads change nothing, and writes carry an Idempotency-Key.

    Tried again are failures of the connection (also when the answer was lost on its way), 429 and 503, and
    what a proxy says of a service that it lost, 502 and 504; nothing else.
    The n-th wait is ``min(longest_wait, first_wait · 2ⁿ)`` times a number drawn from [0.5, 1), or the Retry-After of
    the answer where that is longer.

    Attributes:
        deadline: seconds from the first try after which none begins any more; no wait goes beyond it, and a network
            wait of a later try is cut to what is left.
        first_wait: seconds.
        longest_wait: seconds.

    Raises:
        ValueError: a number that is not finite or not positive.
    """

    deadline: float = 60.0
    first_wait: float = 0.2
    longest_wait: float = 10.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("deadline", "first_wait", "longest_wait"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number of seconds, got {value}")

    def wait(
        self, failure: ClientError, tries: int, left: float, *, chance: Callable[[], float] = random.random
    ) -> float | None:
        """Seconds to wait before the next try; None where there is none.

        Args:
            failure: how the last one failed.
            tries: how many there were before that one.
            left: seconds to the deadline.
            chance: draws from [0, 1).
        """
        if not may_help(failure):
            return None
        doubled = min(self.longest_wait, self.first_wait * 2 ** min(tries, _FURTHEST_DOUBLING))
        asked = (failure.retry_after or 0.0) if isinstance(failure, TryLater) else 0.0
        seconds = max(asked + self.first_wait * chance() if asked else 0.0, doubled * (0.5 + chance() / 2))
        return seconds if seconds < left else None


def may_help(failure: ClientError) -> bool:
    """Whether another try can end otherwise."""
    if isinstance(failure, ServiceUnreachable):
        return not isinstance(failure.__cause__, _OURS)
    return isinstance(failure, TryLater)


def retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks to wait (RFC 9110, section 10.2.3).

    Args:
        text: the header: seconds, or an HTTP date. None, and what is neither, asks for nothing.
        now: with a time zone.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:400])  # longer ones are infinite anyway
        return seconds if math.isfinite(seconds) else None
    try:
        when = parsedate_to_datetime(text)
        when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        return max(0.0, (when - now).total_seconds())
    except (ValueError, OverflowError):
        return None
