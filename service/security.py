"""API keys: what they are made of, what they allow, and who is asking.

A key has scopes (what it may do) and may be limited to collections: of all others it learns nothing, not even whether
they exist. Every scope is subject to that limit, `admin` too.

A key is ``fm_<id>_<secret>`` with 256 random bits of secret. The store holds the id and the SHA-256 of the secret. A
slow password hash would add nothing: it makes guesses of a *guessable* secret expensive, and nobody guesses 256 bits;
one fast hash per request keeps the service from being slowed down by wrong keys. Digests are compared in constant time.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from urllib.parse import urlsplit

from sqlalchemy.orm import Session

from facemargin.errors import ConfigError
from service.errors import ForbiddenError, NotFoundError, UnauthenticatedError
from service.store import ApiKeyRow
from service.store.key_ring import KeyRing
from service.store.keys import NO_LIMITS, KeyLimits, StoredKey, add_key, end_key, known_key
from service.store.tables import now

COLLECTION_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_NOBODY = hashlib.sha256(b"").digest()


class Scope(StrEnum):
    """What a key may do. `admin` includes all others; no other scope includes another.

    `metrics` is for monitoring, and opens nothing but the service's figures.
    """

    EMBED = "embed"
    VERIFY = "verify"
    READ = "read"
    WRITE = "write"
    ENROL_EMBEDDING = "enrol-embedding"
    ADMIN = "admin"
    METRICS = "metrics"


def parse_scope(name: str) -> Scope:
    """The scope of that name.

    Raises:
        ConfigError: there is none.
    """
    try:
        return Scope(name)
    except ValueError:
        raise ConfigError(f"scope is '{name}'; it must be one of {', '.join(Scope)}") from None


@dataclass(frozen=True)
class Principal:
    """Who is asking.

    Attributes:
        name: the id of the key, or ``loopback`` where the service has no keys.
        scopes: what the key allows.
        collections: names of those it may touch; None for all.
        requests_per_minute: its own limit, if it has one.
    """

    name: str
    scopes: frozenset[Scope]
    collections: frozenset[str] | None = None
    requests_per_minute: int | None = None

    def may(self, scope: Scope) -> bool:
        """Whether the scope, or `admin`, is among the key's."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def demand(self, *scopes: Scope) -> None:
        """Pass if one of the scopes is allowed.

        Raises:
            ForbiddenError: none of them is.
        """
        if not any(self.may(scope) for scope in scopes):
            wanted = " or ".join(f"'{scope.value}'" for scope in scopes)
            raise ForbiddenError(
                f"this key does not have the scope {wanted}", required_scopes=[scope.value for scope in scopes]
            )

    def sees(self, collection: str) -> bool:
        """Whether the key is not limited to other collections."""
        return self.collections is None or collection in self.collections

    def enter(self, collection: str) -> None:
        """Pass if the key may touch a collection.

        Raises:
            NotFoundError: it may not; the same as for a collection that does not exist.
        """
        if not self.sees(collection):
            raise NotFoundError(f"there is no collection '{collection}'", collection=collection)

    def make(self, collection: str) -> None:
        """Pass if the key may make a collection of that name.

        Raises:
            ForbiddenError: it may not; the same whether it exists or not.
        """
        if not self.sees(collection):
            raise ForbiddenError("this key is limited to other collections", collection=collection)


LOOPBACK = Principal("loopback", frozenset({Scope.ADMIN}))


def check_names(collections: Iterable[str]) -> tuple[str, ...]:
    """Collection names, each once; they need not exist yet.

    Raises:
        ConfigError: one could never be the name of a collection.
    """
    names = tuple(sorted(set(collections)))
    for name in names:
        if not re.fullmatch(COLLECTION_NAME, name):
            raise ConfigError(f"'{name}' cannot be a collection: letters, digits, '.', '_', '-', at most 63")
    return names


def create_key(session: Session, *, label: str, scopes: Iterable[Scope], limits: KeyLimits = NO_LIMITS) -> str:
    """Make a key and store its hash; the returned key is nowhere else and cannot be shown again."""
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    names = sorted({scope.value for scope in scopes})
    add_key(session, key_id=key_id, digest=_digest(secret), label=label, scopes=names, limits=limits)
    return f"fm_{key_id}_{secret}"


def rotate_key(session: Session, key_id: str, grace: timedelta) -> str:
    """Make a key that may what another one may, and let the other one end after a while.

    A key that was to end lives as long again from now.

    Raises:
        NotFoundError: there is no such key.
        ConfigError: it is not valid any more, so that nobody can be using it.
    """
    row = known_key(session, key_id)
    limits = limits_of(row)
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now()):
        raise ConfigError(f"key '{key_id}' is not valid any more; make a new one with `facemargin keys add`")
    if row.expires_at is not None:
        limits = replace(limits, expires_at=now() + (row.expires_at - row.created_at))
    made = create_key(session, label=row.label, scopes=[parse_scope(name) for name in row.scopes], limits=limits)
    end_key(row, grace)
    return made


def limits_of(row: ApiKeyRow) -> KeyLimits:
    """The limits of a key."""
    names = None if row.collections is None else tuple(row.collections)
    return KeyLimits(names, row.expires_at, row.requests_per_minute)


def authenticate(ring: KeyRing, token: str) -> Principal:
    """The principal of a key.

    A digest is compared whether the id exists or not, so the time taken does not tell.

    Raises:
        UnauthenticatedError: it is no key, unknown, revoked or expired; which of these is not told.
        StoreError: the store does not answer.
    """
    key_id, secret = _split(token)
    key = ring.find(key_id)
    right = hmac.compare_digest(key.digest if key is not None else _NOBODY, _digest(secret))
    if key is None or not right or not key.valid(now()):
        raise UnauthenticatedError("the API key is not valid")
    return _principal(key)


def identify(
    ring: KeyRing, token: str | None, *, client: str | None, host: str | None, origin: str | None
) -> Principal:
    """The principal of a request, with or without a key.

    Without a key the service serves its own machine only, and only as long as its store never held a key. The name that
    was asked for and the page that asks must be of this machine too: otherwise any web page that its user visits could
    reach the service through the browser (by DNS rebinding, or by a cross-site form).

    Raises:
        UnauthenticatedError: a key is needed or not valid.
        StoreError: the store does not answer.
    """
    if token is not None:
        return authenticate(ring, token)
    if not ring.empty():
        raise UnauthenticatedError("this service needs an API key: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
    if not (is_loopback(client) and names_this_machine(host) and (origin is None or names_this_machine(origin))):
        raise UnauthenticatedError(
            "this service has no API keys and answers its own machine only; make one with `facemargin keys add`"
        )
    return LOOPBACK


def is_loopback(host: str | None) -> bool:
    """Whether a name or address (no port) is one of this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def names_this_machine(host_or_origin: str | None) -> bool:
    """Whether a Host or Origin header names this machine, with any port."""
    if host_or_origin is None:
        return False
    try:
        return is_loopback(urlsplit(host_or_origin if "//" in host_or_origin else f"//{host_or_origin}").hostname)
    except ValueError:
        return False


def _principal(key: StoredKey) -> Principal:
    known = {scope.value for scope in Scope}
    names = key.limits.collections
    return Principal(
        key.id,
        frozenset(Scope(name) for name in key.scopes & known),
        None if names is None else frozenset(names),
        key.limits.requests_per_minute,
    )


def _split(token: str) -> tuple[str, str]:
    prefix, _, rest = token.partition("_")
    key_id, _, secret = rest.partition("_")
    return (key_id, secret) if prefix == "fm" else ("", "")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
