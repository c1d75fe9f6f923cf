"""The audit log: chained, append-only, without names; receipts prove deletions, and every forgery is found."""

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL
from sqlalchemy.exc import IntegrityError

from service.errors import StoreError
from service.store import Location, Store
from service.store.audit import Event, Receipt, check_chain, check_log, records, records_of

from .raw_store import execute

pytestmark = pytest.mark.both_databases

PEOPLE = "/v1/collections/staff/people"
RECEIPT = "facemargin-receipt"


def log_of(api: Any) -> list[Any]:
    with api.service.store.read() as session:
        return list(records(session))


def test_every_deletion_has_a_receipt_that_the_log_holds(api: Any, vector: Any) -> None:
    person = api.person("Ada")
    face = api.enrol(person, vector(1))["id"]
    others = [api.person(f"other {number}") for number in range(3)]
    api.enrol(others[0], vector(2))
    deletions = [f"{PEOPLE}/{person}/faces/{face}", f"{PEOPLE}/{person}", "/v1/collections/staff"]
    receipts = [api.delete(url).headers[RECEIPT] for url in deletions]
    assert all(re.fullmatch(r"\d+-[0-9a-f]{64}", receipt) for receipt in receipts)
    assert [receipt.split("-")[0] for receipt in receipts] == ["1", "2", "6"]
    log = log_of(api)
    assert [record.event for record in log] == [
        Event.FACE,
        Event.PERSON,
        Event.PERSON,
        Event.PERSON,
        Event.PERSON,
        Event.COLLECTION,
    ]
    assert [record.faces for record in log] == [1, 0, 1, 0, 0, 1]
    assert {record.actor for record in log} == {"loopback"}
    with api.service.store.read() as session:
        verdict = check_log(session, [Receipt.parse(receipt) for receipt in receipts])
    assert (verdict.count, verdict.faults) == (6, ())
    assert verdict.head.receipt == receipts[-1]


def test_a_record_can_be_recomputed_by_hand_from_what_is_documented(api: Any) -> None:
    api.delete(f"{PEOPLE}/{api.person()}")
    (row,) = execute(
        api.service.settings.store,
        "SELECT seq, at, event, collection, person, face, faces, actor, previous, digest FROM audit",
    )
    seq, at, event, collection, person, face, faces, actor, previous, digest = row
    assert previous == bytes(32)
    written = at if isinstance(at, str) else at.isoformat(" ", "microseconds")
    moment = written.replace(" ", "T")[:23] + "Z"
    line = json.dumps([seq, moment, event, collection, person, face, faces, actor]).replace(", ", ",")
    assert hashlib.sha256(previous + line.encode()).digest() == digest


def test_the_log_names_nobody_and_finds_who_is_asked_for(api: Any, vector: Any) -> None:
    person = api.person("Ada Lovelace")
    face = api.enrol(person, vector(1))["id"]
    api.delete(f"{PEOPLE}/{person}/faces/{face}")
    api.delete(f"{PEOPLE}/{person}")
    api.delete(f"{PEOPLE}/{api.person('Bob')}")
    text = json.dumps([record.as_json() for record in log_of(api)])
    assert not any(name in text for name in ("Ada", "staff", person, face))
    with api.service.store.read() as session:
        assert [record.seq for record in records_of(session, person)] == [1, 2]
        assert [record.seq for record in records_of(session, face)] == [1]
        assert records_of(session, "p_nobody") == []


def test_a_deletion_that_fails_leaves_no_record(api: Any) -> None:
    api.person()
    assert api.delete(f"{PEOPLE}/p_nobody").status_code == 404
    assert RECEIPT not in api.delete(f"{PEOPLE}/p_nobody").headers
    assert log_of(api) == []


def test_a_repeated_deletion_gets_the_same_receipt_and_no_second_record(api: Any) -> None:
    url = f"{PEOPLE}/{api.person()}"
    first, second = (api.delete(url, headers={"Idempotency-Key": "once"}) for _ in range(2))
    assert first.headers[RECEIPT] == second.headers[RECEIPT]
    assert second.headers["idempotency-replayed"] == "true"
    assert len(log_of(api)) == 1


REFUSED = (
    "UPDATE audit SET faces = 7",
    "UPDATE audit SET person = NULL WHERE seq = 2",
    "DELETE FROM audit",
    "DELETE FROM audit WHERE seq = 3",
    "INSERT INTO audit SELECT seq, at, 'x', collection, person, face, faces, actor, previous, digest FROM audit "
    "WHERE seq = 2 ON CONFLICT (seq) DO UPDATE SET event = 'x'",
    "INSERT INTO audit SELECT 0, at, 'x', collection, person, face, faces, actor, previous, digest FROM audit "
    "WHERE seq = 2",
)


def test_the_database_itself_refuses_to_change_the_log(log: Location) -> None:
    for statement in REFUSED:
        with pytest.raises(IntegrityError, match="append-only"):
            execute(log, statement)


def test_no_statement_of_one_database_alone_changes_the_log(log: Location) -> None:
    (statement,) = (
        ["TRUNCATE audit"]
        if isinstance(log, URL)
        else [
            "INSERT OR REPLACE INTO audit SELECT seq, at, 'x', collection, person, face, faces, actor, previous, "
            "digest FROM audit WHERE seq = 2"
        ]
    )
    with pytest.raises(IntegrityError, match="append-only"):
        execute(log, statement)


@pytest.fixture
def log(api: Any) -> Location:
    """A store whose log has five records."""
    for number in range(5):
        api.delete(f"{PEOPLE}/{api.person(str(number))}")
    location: Location = api.service.settings.store
    return location


def forge(location: Location, *statements: str) -> None:
    """What somebody with the database and an editor can do."""
    table = " ON audit" if isinstance(location, URL) else ""
    triggers = ("audit_keeps", "audit_holds", "audit_grows")
    execute(location, *(f"DROP TRIGGER {trigger}{table}" for trigger in triggers), *statements)


def count_of(location: Location, number: int) -> str:
    """The statement that lets the database itself believe that it gave this number last."""
    if isinstance(location, URL):
        return f"UPDATE meta SET value = convert_to('{number}', 'UTF8') WHERE name = 'audit given'"
    return f"UPDATE sqlite_sequence SET seq = {number} WHERE name = 'audit'"


def checked(location: Location, *receipts: str) -> tuple[str, ...]:
    with Store(location, create=False) as store, store.read() as session:
        return check_log(session, [Receipt.parse(receipt) for receipt in receipts]).faults


CUT_OFF = "the end of the log is missing: 5 records were written, 3 are there"
FORGERIES = {
    "record 3 was changed": ["UPDATE audit SET actor = 'nobody' WHERE seq = 3"],
    "record 2 was changed": ["UPDATE audit SET at = '2020-01-01 00:00:00.000000' WHERE seq = 2"],
    "record 3 is missing: after 2 comes 4": ["DELETE FROM audit WHERE seq = 3"],
    "record 1 is missing": ["DELETE FROM audit WHERE seq = 1"],
    "record 4 does not continue": [
        "UPDATE audit SET previous = (SELECT previous FROM audit WHERE seq = 1) WHERE seq = 4"
    ],
    "record 2 does not continue": [
        "UPDATE audit SET seq = 20 WHERE seq = 2",
        "UPDATE audit SET seq = 2 WHERE seq = 3",
        "UPDATE audit SET seq = 3 WHERE seq = 20",
    ],
    CUT_OFF: ["DELETE FROM audit WHERE seq > 3"],
}


@pytest.mark.sqlite
@pytest.mark.parametrize("said", FORGERIES)
def test_what_was_forged_is_found(log: Location, said: str) -> None:
    assert checked(log) == ()
    forge(log, *FORGERIES[said])
    assert said in checked(log)[0]


def test_an_end_that_was_cut_off_is_found_in_either_database(log: Location) -> None:
    forge(log, *FORGERIES[CUT_OFF])
    assert CUT_OFF in checked(log)[0]


def test_a_log_cut_off_and_made_to_look_whole_is_found_by_a_receipt(api: Any, log: Location) -> None:
    receipts = [record.receipt for record in log_of(api)]
    forge(log, "DELETE FROM audit WHERE seq > 3", count_of(log, 3))
    assert checked(log) == ()
    assert checked(log, receipts[2]) == ()
    assert "cut off" in checked(log, receipts[4])[0]


def test_a_log_written_anew_is_found_by_a_receipt(api: Any, log: Location) -> None:
    receipt = log_of(api)[4].receipt
    forge(log, "DELETE FROM audit WHERE seq = 5", count_of(log, 4))
    api.delete(f"{PEOPLE}/{api.person('another')}")
    assert checked(log) == ()
    assert "it was rewritten" in checked(log, receipt)[0]


@pytest.mark.parametrize("text", ["", "1", "1-", "0-" + 64 * "a", "1-" + 62 * "a", "x-" + 64 * "a", "1-" + 64 * "g"])
def test_what_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match="is no receipt"):
        Receipt.parse(text)


@given(st.data())
def test_any_change_of_any_member_of_any_record_is_found(data: st.DataObject) -> None:
    from dataclasses import replace
    from datetime import timedelta

    from service.store.audit import BEFORE_THE_FIRST, Record
    from service.store.tables import now

    chain: list[Record] = []
    for seq in range(1, data.draw(st.integers(2, 5)) + 1):
        previous = chain[-1].digest if chain else BEFORE_THE_FIRST
        record = Record(seq, now(), Event.PERSON, "c", f"p{seq}", None, seq, "key", previous)
        chain.append(replace(record, digest=record.computed()))
    assert check_chain(chain).faults == ()
    place = data.draw(st.integers(0, len(chain) - 1))
    changes: dict[str, Callable[[Record], Any]] = {
        "at": lambda r: r.at + timedelta(milliseconds=1),
        "event": lambda r: Event.FACE,
        "collection": lambda r: "d",
        "person": lambda r: None,
        "face": lambda r: "f",
        "faces": lambda r: r.faces + 1,
        "actor": lambda r: "other",
        "previous": lambda r: bytes(31) + b"\1",
        "digest": lambda r: bytes(32),
        "seq": lambda r: r.seq + 1,
    }
    name = data.draw(st.sampled_from(sorted(changes)))
    chain[place] = replace(chain[place], **{name: changes[name](chain[place])})
    if data.draw(st.booleans()) and name not in ("digest", "previous", "seq"):  # with a digest of the new content
        chain[place] = replace(chain[place], digest=chain[place].computed())
        if place == len(chain) - 1:
            return  # the last record alone needs a receipt
    assert check_chain(chain).faults
    moved = [*chain[1:], chain[0]]
    assert check_chain(moved).faults
