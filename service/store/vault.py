"""What is encrypted at rest, with which key, and the pseudonyms in records that outlive a person.

Each person has a data key of 256 random bits, wrapped by the master key; templates and stored crops are AES-256-GCM
ciphertexts (nonce, ciphertext, tag) under the person's key, bound to their collection, person, face and model as
associated data, so that a row moved elsewhere does not open. Destroying the wrapped key and the rows erases the person.
Without a master key nothing is encrypted, and the same calls pass the bytes through.

Subkeys come from the master key, or from the store's own random secret, by HKDF-SHA256 (RFC 5869), one per purpose.
"""

import base64
import binascii
import hashlib
import hmac
import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy.orm import Session

from facemargin.errors import ConfigError
from service.errors import StoreError

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


def parse_master_key(text: str, where: str) -> bytes:
    """The 32 bytes of a master key from base64 (either alphabet) or 64 hexadecimal digits.

    Raises:
        ConfigError: it is neither, or of another length; the message never shows it.
    """
    text = text.strip()
    try:
        key = bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else base64.b64decode(_standard(text), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"{where}: a master key is {KEY_BYTES} random bytes as base64 or hexadecimal; "
            "make one with `facemargin encryption new-key FILE`"
        )
    return key


def read_master_key(path: Path) -> bytes:
    """The master key in a file.

    Raises:
        ConfigError: the file cannot be read or holds no key.
    """
    try:
        return parse_master_key(path.read_text(encoding="ascii"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the master key file {path} cannot be read: {error}") from error


def seal(key: bytes, data: bytes, context: str) -> bytes:
    """Nonce, AES-256-GCM ciphertext and tag of data under a key, bound to a context."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, data, context.encode())


def unseal(key: bytes, sealed: bytes, context: str) -> bytes:
    """The data of `seal`.

    Raises:
        StoreError: another key or context, or a byte that was changed.
    """
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context.encode())
    except (InvalidTag, ValueError) as error:
        raise StoreError(
            f"{context}: what is stored cannot be decrypted; it was changed, or the key is wrong"
        ) from error


class Vault:
    """The keys of one open store.

    Args:
        secret: the store's own 32 random bytes; behind pseudonyms and stored replies.
        master: the master key, or None where the store is not encrypted.
    """

    def __init__(self, secret: bytes, master: bytes | None) -> None:
        self._secret = secret
        self._wrapping = subkey(master, "wrapping") if master is not None else None
        self._derived: dict[str, bytes] = {}

    @property
    def secret(self) -> bytes:
        """The store's own 32 random bytes."""
        return self._secret

    def under(self, master: bytes | None) -> "Vault":
        """The vault of the same store under another master key, or none."""
        return Vault(self._secret, master)

    @property
    def encrypts(self) -> bool:
        """Whether there is a master key."""
        return self._wrapping is not None

    def new_key(self, person: str) -> bytes | None:
        """A new data key for a person, wrapped; None where nothing is encrypted."""
        return self.wrap(person, os.urandom(KEY_BYTES)) if self._wrapping is not None else None

    def wrap(self, person: str, key: bytes) -> bytes:
        """A data key under the master key, bound to the person's public id."""
        return seal(self._needed(), key, f"key of {person}")

    def unwrap(self, person: str, wrapped: bytes) -> bytes:
        """The data key of a person.

        Raises:
            StoreError: there is no master key, another one, or the wrapped key was changed.
        """
        return unseal(self._needed(), wrapped, f"key of {person}")

    def seal(self, person: str, wrapped: bytes | None, data: bytes, context: str) -> bytes:
        """Data of a person as it is stored: a ciphertext, or itself where the person has no key."""
        return data if wrapped is None else seal(self.unwrap(person, wrapped), data, context)

    def open(self, person: str, wrapped: bytes | None, stored: bytes, context: str) -> bytes:
        """What `seal` was given.

        Raises:
            StoreError: another key or context, or a byte that was changed.
        """
        return stored if wrapped is None else unseal(self.unwrap(person, wrapped), stored, context)

    def pseudonym(self, kind: str, value: str) -> str:
        """A name for something that only this store's secret can tell: 32 hexadecimal digits of HMAC-SHA256."""
        return self.mac(kind, value.encode()).hex()[:32]

    def mac(self, kind: str, data: bytes) -> bytes:
        """HMAC-SHA256 of data under a key for this kind."""
        return hmac.digest(self.derive(f"mac {kind}"), data, "sha256")

    def derive(self, purpose: str) -> bytes:
        """A key of its own for a purpose, from the store's secret."""
        if purpose not in self._derived:  # a derivation costs ten times a pseudonym
            self._derived[purpose] = subkey(self._secret, purpose)
        return self._derived[purpose]

    def _needed(self) -> bytes:
        if self._wrapping is None:
            raise StoreError("the store is encrypted and no master key is set (FACEMARGIN_MASTER_KEY_FILE)")
        return self._wrapping


def subkey(key: bytes, purpose: str) -> bytes:
    """HKDF-SHA256 of a key for one purpose, 32 bytes."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=f"facemargin {purpose}".encode()).derive(key)


def master_key_id(master: bytes) -> bytes:
    """Eight bytes that tell whether a master key is the one of a store, and nothing else of it."""
    return hashlib.sha256(subkey(master, "id")).digest()[:8]


def vault_of(session: Session) -> Vault:
    """The keys of the store that a session is on.

    Raises:
        StoreError: the store was opened without unlocking it.
    """
    vault = session.info.get("vault")
    if not isinstance(vault, Vault):
        raise StoreError("the store is not unlocked; this command needs its master key")
    return vault


def _standard(text: str) -> str:
    """Base64 of either alphabet in the standard one."""
    return text.replace("-", "+").replace("_", "/")
