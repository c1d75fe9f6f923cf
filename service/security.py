"""API keys: what they are made of, what they allow, and who is asking.

A key is ``fm_<id>_<secret>`` with 256 random bits of secret. The store holds the id and the SHA-256 of the secret. A
slow password hash would add nothing: it makes guesses of a *guessable* secret expensive, and nobody guesses 256 bits;
one fast hash per request keeps the service from being slowed down by wrong keys. Digests are compared in constant time.
"""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from sqlalchemy.orm import Session

from facemargin.errors import ConfigError
from service.errors import ForbiddenError, UnauthenticatedError
from service.store import ApiKeyRow
from service.store.keys import add_key, any_key, find_key

_NOBODY = hashlib.sha256(b"").digest()


class Scope(StrEnum):
    """What a key may do. `admin` includes all others; no other scope includes another."""

    EMBED = "embed"
    VERIFY = "verify"
    READ = "read"
    WRITE = "write"
    ENROL_EMBEDDING = "enrol-embedding"
    ADMIN = "admin"


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
    """

    name: str
    scopes: frozenset[Scope]

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


LOOPBACK = Principal("loopback", frozenset({Scope.ADMIN}))


def create_key(session: Session, *, label: str, scopes: Iterable[Scope]) -> str:
    """Make a key and store its hash; the returned key is nowhere else and cannot be shown again."""
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    names = sorted({scope.value for scope in scopes})
    add_key(session, key_id=key_id, digest=_digest(secret), label=label, scopes=names)
    return f"fm_{key_id}_{secret}"


def authenticate(session: Session, token: str) -> Principal:
    """The principal of a key.

    Raises:
        UnauthenticatedError: it is no key, unknown, or revoked; which of these is not told.
    """
    key_id, secret = _split(token)
    row = find_key(session, key_id)
    stored = row.digest if row is not None else _NOBODY
    if not hmac.compare_digest(stored, _digest(secret)) or row is None or row.revoked_at is not None:
        raise UnauthenticatedError("the API key is not valid")
    return _principal(row)


def identify(
    session: Session, token: str | None, *, client: str | None, host: str | None, origin: str | None
) -> Principal:
    """The principal of a request, with or without a key.

    Without a key the service serves its own machine only, and only as long as its store never held a key. The name that
    was asked for and the page that asks must be of this machine too: otherwise any web page that its user visits could
    reach the service through the browser (by DNS rebinding, or by a cross-site form).

    Raises:
        UnauthenticatedError: a key is needed or not valid.
    """
    if token is not None:
        return authenticate(session, token)
    if any_key(session):
        raise UnauthenticatedError("this service needs an API key: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
    if not (is_loopback(client) and _names_this_machine(host) and (origin is None or _names_this_machine(origin))):
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


def _names_this_machine(host_or_origin: str | None) -> bool:
    """Whether a Host or Origin header names this machine, with any port."""
    if host_or_origin is None:
        return False
    try:
        return is_loopback(urlsplit(host_or_origin if "//" in host_or_origin else f"//{host_or_origin}").hostname)
    except ValueError:
        return False


def _principal(row: ApiKeyRow) -> Principal:
    known = {scope.value for scope in Scope}
    return Principal(row.id, frozenset(Scope(name) for name in row.scopes if name in known))


def _split(token: str) -> tuple[str, str]:
    prefix, _, rest = token.partition("_")
    key_id, _, secret = rest.partition("_")
    return (key_id, secret) if prefix == "fm" else ("", "")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
