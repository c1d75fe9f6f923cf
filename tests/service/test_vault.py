"""Sealing: only the right key and place open a ciphertext, and without a master key nothing changes."""

import base64
import os
from pathlib import Path

import pytest

from facemargin.errors import ConfigError
from service.errors import StoreError
from service.store import Location, Store
from service.store.vault import Vault, parse_master_key, read_master_key

from .raw_store import execute

pytestmark = pytest.mark.both_databases

SECRET, MASTER = bytes(range(32)), bytes(range(32, 64))


def test_what_is_sealed_opens_at_its_place_only() -> None:
    vault = Vault(SECRET, MASTER)
    wrapped = vault.new_key("p_1")
    sealed = vault.seal("p_1", wrapped, b"template", "1/p_1/f_1/m")
    assert b"template" not in sealed
    assert vault.open("p_1", wrapped, sealed, "1/p_1/f_1/m") == b"template"
    for person, stored, context in (
        ("p_1", sealed, "1/p_1/f_2/m"),
        ("p_2", sealed, "1/p_1/f_1/m"),
        ("p_1", sealed[:-1] + bytes([sealed[-1] ^ 1]), "1/p_1/f_1/m"),
        ("p_1", sealed[:5], "1/p_1/f_1/m"),
    ):
        with pytest.raises(StoreError, match="cannot be decrypted"):
            vault.open(person, wrapped, stored, context)


def test_another_master_key_opens_nothing() -> None:
    wrapped = Vault(SECRET, MASTER).new_key("p_1")
    assert wrapped is not None
    with pytest.raises(StoreError, match="cannot be decrypted"):
        Vault(SECRET, SECRET).unwrap("p_1", wrapped)
    with pytest.raises(StoreError, match="no master key is set"):
        Vault(SECRET, None).unwrap("p_1", wrapped)


def test_every_sealing_has_its_own_nonce() -> None:
    vault = Vault(SECRET, MASTER)
    wrapped = vault.new_key("p_1")
    assert len({vault.seal("p_1", wrapped, b"same", "c")[:12] for _ in range(100)}) == 100


def test_without_a_master_key_the_bytes_pass_through() -> None:
    vault = Vault(SECRET, None)
    assert vault.new_key("p_1") is None
    assert vault.seal("p_1", None, b"template", "c") == b"template"
    assert vault.open("p_1", None, b"template", "c") == b"template"


def test_pseudonyms_depend_on_kind_value_and_secret() -> None:
    made = {
        vault.pseudonym(kind, value)
        for vault in (Vault(SECRET, None), Vault(MASTER, None))
        for kind in ("person", "face")
        for value in ("p_1", "p_2")
    }
    assert len(made) == 8
    assert Vault(SECRET, MASTER).pseudonym("person", "p_1") == Vault(SECRET, None).pseudonym("person", "p_1")


@pytest.mark.parametrize(
    "text", [MASTER.hex(), base64.b64encode(MASTER).decode(), base64.urlsafe_b64encode(MASTER).decode() + "\n"]
)
def test_a_master_key_is_base64_or_hexadecimal(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    assert read_master_key(tmp_path / "key") == MASTER


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "zz" * 32,
        base64.b64encode(bytes(31)).decode(),
        "ä",
        "**" + base64.b64encode(MASTER).decode(),
        base64.b64encode(MASTER).decode() + "!",
        base64.b64encode(MASTER).decode().replace("M", "M M", 1),
    ],
)
def test_what_is_no_master_key_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="32 random bytes") as caught:
        parse_master_key(text, "here")
    assert not text or text not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_master_key(tmp_path / "none")


def test_a_store_remembers_its_master_key(location: Location) -> None:
    with Store(location) as store:
        store.unlock(MASTER)
        pseudonym = store.vault.pseudonym("person", "p_1")
    assert not any(MASTER in value for (value,) in execute(location, "SELECT value FROM meta"))
    with Store(location) as store:
        for wrong, said in ((None, "is encrypted"), (os.urandom(32), "another master key")):
            with pytest.raises(StoreError, match=said):
                store.unlock(wrong)
        store.unlock(MASTER)
        assert store.vault.pseudonym("person", "p_1") == pseudonym


def test_a_store_in_the_clear_does_not_take_a_key_silently(location: Location) -> None:
    with Store(location) as store:
        store.unlock(None)
        with pytest.raises(StoreError, match="facemargin encryption enable"):
            store.unlock(MASTER)


def test_a_store_that_is_not_unlocked_holds_nobody(location: Location) -> None:
    from service.store.people import add_collection, add_person

    with Store(location) as store, pytest.raises(StoreError, match="not unlocked"), store.write() as session:
        add_person(session, add_collection(session, "staff", model="m", dim=4), "Ada")
