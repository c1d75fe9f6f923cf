"""Writes with an Idempotency-Key happen once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.event import listen

from service.store.replies import drop_old_replies, forget_mentions
from service.store.tables import MentionRow

pytestmark = pytest.mark.both_databases

KEY = {"Idempotency-Key": "key-1"}


def test_a_repeated_write_is_done_once(api: Any) -> None:
    api.put("/v1/collections/staff")
    url, body = "/v1/collections/staff/people", {"name": "Ada"}
    first, second = (api.post(url, json=body, headers=KEY) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert api.get("/v1/collections/staff").json()["people"] == 1
    assert api.post(url, json=body, headers={"Idempotency-Key": "key-2"}).json()["id"] != first.json()["id"]


def test_a_repeated_upload_counts_as_the_same_in_another_form(api: Any, crop: Any, problem: Any) -> None:
    url = f"/v1/collections/staff/people/{api.person()}/faces"

    def enrol(image: bytes, boundary: str) -> Any:
        headers = KEY | {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return api.post(url, files={"image": image}, data={"aligned": "true"}, headers=headers)

    first, second = enrol(crop(1), "one"), enrol(crop(1), "two")
    assert first.status_code == 201
    assert first.json() == second.json()
    problem(enrol(crop(2), "three"), "idempotency-mismatch", 422)
    assert len(api.get(url).json()["faces"]) == 1


def test_a_key_for_another_request_is_refused(api: Any, problem: Any) -> None:
    api.put("/v1/collections/staff")
    people = "/v1/collections/staff/people"
    person = api.post(people, json={"name": "Ada"}, headers=KEY).json()["id"]
    problem(api.post(people, json={"name": "Bob"}, headers=KEY), "idempotency-mismatch", 422)
    problem(api.patch(f"{people}/{person}", json={"name": "Ada"}, headers=KEY), "idempotency-mismatch", 422)
    problem(api.delete(f"{people}/{person}", headers=KEY), "idempotency-mismatch", 422)
    assert api.get(f"{people}/{person}").json()["name"] == "Ada"


def test_a_repeated_delete(api: Any, problem: Any) -> None:
    url = f"/v1/collections/staff/people/{api.person()}"
    first, second = api.delete(url, headers=KEY), api.delete(url, headers=KEY)
    assert (first.status_code, second.status_code, second.content) == (204, 204, b"")
    problem(api.delete(url), "not-found", 404)


def test_a_failure_may_be_tried_again(api: Any, problem: Any) -> None:
    url = "/v1/collections/staff/people"
    problem(api.post(url, json={"name": "Ada"}, headers=KEY), "not-found", 404)
    api.put("/v1/collections/staff")
    assert api.post(url, json={"name": "Ada"}, headers=KEY).status_code == 201


def test_at_the_same_time(api: Any) -> None:
    api.put("/v1/collections/staff")

    def add(_: int) -> Any:
        return api.post("/v1/collections/staff/people", json={"name": "Ada"}, headers=KEY)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(add, range(6)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert api.get("/v1/collections/staff").json()["people"] == 1


def test_what_was_deleted_is_not_in_the_stored_replies(api: Any, problem: Any, vector: Any) -> None:
    from sqlalchemy import select

    from service.store import ReplyRow

    api.put("/v1/collections/staff")
    people = "/v1/collections/staff/people"
    ada = api.post(people, json={"name": "Ada Lovelace"}, headers=KEY).json()["id"]
    api.enrol(ada, vector(1))
    bob = api.person("Bob")
    enrol = {"json": {"embedding": vector(1).tolist(), "model": api.model}, "headers": {"Idempotency-Key": "key-2"}}
    warned = api.post(f"{people}/{bob}/faces", **enrol)
    assert "Ada Lovelace" in warned.text
    api.delete(f"{people}/{ada}")
    with api.service.store.read() as session:
        assert {row.sealed for row in session.scalars(select(ReplyRow))} == {None}
    problem(api.post(people, json={"name": "Ada Lovelace"}, headers=KEY), "idempotency-gone", 410)
    problem(api.post(f"{people}/{bob}/faces", **enrol), "idempotency-gone", 410)
    assert len(api.get(f"{people}/{bob}/faces").json()["faces"]) == 1


def test_the_reply_about_a_deleted_face_is_gone(api: Any, problem: Any, vector: Any) -> None:
    url = f"/v1/collections/staff/people/{api.person()}/faces"
    enrol = {"json": {"embedding": vector(1).tolist(), "model": api.model}, "headers": KEY}
    face = api.post(url, **enrol).json()["id"]
    kept = enrol | {"headers": {"Idempotency-Key": "key-2"}}
    other = api.post(url, **kept).json()
    delete = {"Idempotency-Key": "key-3"}
    assert [api.delete(f"{url}/{face}", headers=delete).status_code for _ in range(2)] == [204, 204]
    problem(api.post(url, **enrol), "idempotency-gone", 410)
    assert api.post(url, **kept).json() == other
    assert len(api.get(url).json()["faces"]) == 1


def test_replies_are_kept_over_a_restart_and_not_for_ever(make_api: Any) -> None:
    url, body = "/v1/collections/staff/people", {"name": "Ada"}
    api = make_api()
    api.put("/v1/collections/staff")
    first = api.post(url, json=body, headers=KEY).json()
    api.close()
    api.service.close()
    api = make_api()
    assert api.post(url, json=body, headers=KEY).json() == first
    api.close()
    api.service.close()
    api = make_api(idempotency_hours=1e-9)
    assert api.post(url, json=body, headers=KEY).json() != first


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ä"])
def test_keys_are_checked(shared_api: Any, problem: Any, key: str) -> None:
    headers = {"Idempotency-Key": key.encode()}
    problem(shared_api.put("/v1/collections/staff", headers=headers), "invalid-request", 422)


def test_what_speaks_of_somebody_is_found_by_an_index(api: Any) -> None:
    """Looking through all replies would hold up every other write for as long as there are replies."""
    statements = list[str]()
    with api.service.store.write() as session:
        listen(session.connection(), "before_cursor_execute", lambda *_: statements.append(_[2]))
        forget_mentions(session, "p_somebody")
    (statement,) = statements
    if api.service.store.folder is None:
        explain = ("SET LOCAL enable_seqscan = off", f"EXPLAIN {statement}", {"sealed": None, "pseudonym_1": ""})
    else:
        explain = ("SELECT 1", f"EXPLAIN QUERY PLAN {statement}", (None, ""))
    with api.service.store.read() as session:
        session.connection().exec_driver_sql(explain[0])
        plan = session.connection().exec_driver_sql(explain[1], explain[2]).all()
    assert plan
    assert not [row for row in plan if "SCAN" in row[-1] or "Seq Scan" in row[-1]]


def test_mentions_go_with_their_reply(api: Any, vector: Any) -> None:
    api.put("/v1/collections/staff")
    assert api.post("/v1/collections/staff/people", json={"name": "Ada"}, headers=KEY).status_code == 201
    with api.service.store.read() as session:
        assert session.query(MentionRow).count() == 1
    with api.service.store.write() as session:
        assert drop_old_replies(session, before=datetime.now(UTC) + timedelta(days=1)) == 1
        assert drop_old_replies(session, before=datetime.now(UTC) + timedelta(days=1)) == 0
    with api.service.store.read() as session:
        assert session.query(MentionRow).count() == 0
