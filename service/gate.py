"""Who is let in: the key first, then how often its holder, or a stranger, has asked."""

import ipaddress
import time
from collections.abc import Callable
from functools import partial

import anyio

from service.errors import UnauthenticatedError
from service.rate_limits import Allowance, RateLimits
from service.security import LOOPBACK, Principal, identify
from service.shared_limits import SharedRateLimits
from service.store.key_ring import KeyRing

_MOST_KEYS = 100_000
_MOST_ADDRESSES = 10_000
_IPV6_SITE = 64
_LONGEST_WAIT_S = 1.0
_LOOK_S = 0.02

Pseudonym = Callable[[str, str], str]
"""Gives the name under which the store knows something of a kind."""


class Gate:
    """The one place where a request becomes a principal, or is refused.

    Args:
        ring: the keys; closed with the gate.
        requests_per_minute: limit of a key that has none of its own; 0 for none.
        refusals_per_minute: requests without a valid key that are answered per client address; beyond, 429 instead of
            401. A request with a valid key always passes: an address may be a proxy with many people behind it.
        pseudonym: of who asks, where other services of the store count them too; None where there are none.

    Attributes:
        shared_limits: those that count what other services let in; empty without ``pseudonym``.
    """

    def __init__(
        self,
        ring: KeyRing,
        *,
        requests_per_minute: int,
        refusals_per_minute: int,
        pseudonym: Pseudonym | None = None,
    ) -> None:
        self._ring = ring
        self._requests_per_minute = requests_per_minute
        self._refusals_per_minute = refusals_per_minute
        self._keys = _limits("key", _MOST_KEYS, pseudonym)
        self._strangers = _limits("address", _MOST_ADDRESSES, pseudonym)
        self.shared_limits = [limit for limit in (self._keys, self._strangers) if isinstance(limit, SharedRateLimits)]

    def identify(self, token: str | None, *, client: str | None, host: str | None, origin: str | None) -> Principal:
        """The principal of a request; see `service.security.identify`.

        Raises:
            UnauthenticatedError: a key is needed or not valid.
            RateLimitedError: the same, and this address has failed too often.
            StoreError: the store does not answer.
        """
        try:
            return identify(self._ring, token, client=client, host=host, origin=origin)
        except UnauthenticatedError:
            if self._refusals_per_minute:
                self._strangers.take(site_of(client), self._refusals_per_minute).demand()
            raise

    def charge(self, principal: Principal) -> Allowance | None:
        """Count a request; None where nothing limits it (no limit is set, or this machine without keys)."""
        limit = principal.requests_per_minute or self._requests_per_minute
        return self._keys.take(principal.name, limit) if limit and principal is not LOOPBACK else None

    def refresh(self) -> None:
        """Read the keys anew, where not every request does.

        Raises:
            StoreError: the store does not answer.
        """
        self._ring.refresh()

    async def wait_for_keys(self) -> None:
        """Wait a moment for keys that are new enough; if none come, `identify` says so."""
        until = time.monotonic() + _LONGEST_WAIT_S
        while self._ring.behind and time.monotonic() < until:
            await anyio.sleep(_LOOK_S)

    def close(self) -> None:
        """Let go of the keys."""
        self._ring.close()


def _limits(name: str, most: int, pseudonym: Pseudonym | None) -> RateLimits:
    if pseudonym is None:
        return RateLimits(name, most=most)
    return SharedRateLimits(name, most=most, called=partial(pseudonym, f"{name} limit"))


def site_of(client: str | None) -> str:
    """What an address is counted as: itself, or the /64 of an IPv6 address, which is one customer's."""
    try:
        address = ipaddress.ip_address((client or "").partition("%")[0])
    except ValueError:
        return client or "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_SITE), strict=False))
    return str(address)
