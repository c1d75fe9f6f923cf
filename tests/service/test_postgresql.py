"""What only a store on PostgreSQL can meet: a server that stops, dies or refuses, other services, passwords."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from facemargin.errors import ConfigError
from service.backup import back_up
from service.cli import _description
from service.errors import StoreError
from service.store import Store, parse_location, watched_connection
from service.store import postgres_server as server_module
from service.store.location import described
from service.store.people import add_collection, add_person, collections
from service.store.tables import Table

from ..postgres import OwnServer, execute

PEOPLE = "/v1/collections/staff/people"
PASSWORD = "s3cret/with @:?%"


@pytest.fixture
def database() -> str:
    return "postgresql"


@pytest.fixture
def url(location: URL) -> URL:
    """Where `make_api` makes its store."""
    return location


@pytest.fixture
def own_url(own_server: OwnServer) -> Iterator[URL]:
    """A database of a server that this test may stop."""
    yield own_server.database("own")
    own_server.start()
    execute(own_server.url, "DROP DATABASE own WITH (FORCE)")


def becomes(api: Any, status: int, within_s: float = 20.0) -> Any:
    until = time.monotonic() + within_s
    while (answer := api.get("/health/ready")).status_code != status:
        assert time.monotonic() < until, answer.text
        time.sleep(0.05)
    return answer


def refused(answer: Any, problem: Any) -> None:
    problem(answer, "store-unavailable", 503)
    assert int(answer.headers["Retry-After"]) > 0


def disconnect(url: URL) -> None:
    """Let the server end every connection to a database."""
    others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = "
    execute(url.set(database="postgres"), f"{others} '{url.database}'")


def test_every_connection_is_durable_whatever_the_database_says(url: URL) -> None:
    execute(url, f"ALTER DATABASE {url.database} SET synchronous_commit = off")
    with Store(url) as store:
        with store.write() as session:
            assert session.scalar(text("SHOW synchronous_commit")) == "on"
            assert session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "1min"
        with store.read() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "repeatable read"
            assert session.scalar(text("SHOW transaction_read_only")) == "on"


def test_a_server_that_is_too_old_or_not_of_utf8_is_refused(
    postgres_server: URL, url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    ascii_only = "CREATE DATABASE asciionly ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    execute(postgres_server, ascii_only)
    try:
        with pytest.raises(StoreError, match="encoding SQL_ASCII; make it with"):
            Store(postgres_server.set(database="asciionly"))
    finally:
        execute(postgres_server, "DROP DATABASE asciionly WITH (FORCE)")
    monkeypatch.setattr(server_module, "_LEAST_VERSION", 99)
    with pytest.raises(StoreError, match="needs version 99 or later"):
        Store(url)


def test_settings_that_undo_durability_are_named_at_the_start(own_url: URL, own_server: OwnServer, caplog: Any) -> None:
    with Store(own_url) as store:
        store.claim()
    assert "fsync" not in caplog.text
    execute(own_server.url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
    try:
        with Store(own_url) as store:
            store.claim()
    finally:
        execute(own_server.url, "ALTER SYSTEM RESET fsync", "SELECT pg_reload_conf()")
    assert "has fsync=off: a crash" in caplog.text
    assert "full_page_writes" not in caplog.text


def test_services_share_a_store_and_a_command_has_it_alone(url: URL) -> None:
    with Store(url) as one, Store(url) as two, Store(url) as command:
        one.claim()
        two.claim()
        with pytest.raises(StoreError, match="services are on it; stop them first"):
            command.claim(alone=True)
        one.close()
        two.close()
        command.claim(alone=True)
        with pytest.raises(StoreError, match="needs it alone is at work"):
            Store(url)
        command.unlock(None)
    with Store(url) as after:
        after.claim()


def test_a_service_that_lost_its_connections_goes_on_unless_a_command_was_there(url: URL) -> None:
    with Store(url) as store:
        store.unlock(None)
        store.claim()
        disconnect(url)
        with store.write() as session:
            add_collection(session, "staff", model="m", dim=4)
        with Store(url) as command, pytest.raises(StoreError, match="services are on it"):
            command.claim(alone=True)
        disconnect(url)
        with Store(url) as command:
            command.claim(alone=True)
        for way in (store.read, store.write):
            with pytest.raises(StoreError, match="start the service anew"), way() as session:
                collections(session)


@pytest.fixture
def guarded(own_url: URL, own_server: OwnServer) -> Iterator[URL]:
    """A database whose owner needs a password."""
    hba = own_server.folder / "pg_hba.conf"
    before = hba.read_text()
    execute(own_server.url, f"CREATE ROLE keeper LOGIN PASSWORD '{PASSWORD}'", "ALTER DATABASE own OWNER TO keeper")
    hba.write_text("local all keeper scram-sha-256\n" + before)
    execute(own_server.url, "SELECT pg_reload_conf()")
    yield own_url.set(username="keeper", password=None)
    hba.write_text(before)
    execute(own_server.url, "SELECT pg_reload_conf()", "ALTER DATABASE own OWNER TO postgres")
    with psycopg.connect(own_url.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute("REASSIGN OWNED BY keeper TO postgres")
        connection.execute("DROP OWNED BY keeper")
        connection.execute("DROP ROLE keeper")


def test_a_password_comes_by_each_of_libpqs_ways_and_is_shown_by_none(
    guarded: URL, own_server: OwnServer, make_api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StoreError, match="cannot be used as a store") as none_given:
        Store(guarded)
    with pytest.raises(StoreError, match="password authentication failed") as wrong:
        Store(guarded.set(password=f"{PASSWORD} not"))
    passfile = tmp_path / "pgpass"
    escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    passfile.write_text(f"*:*:*:keeper:{escaped}\n")
    passfile.chmod(0o600)
    Store(guarded.update_query_dict({"passfile": str(passfile)})).close()
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    Store(guarded).close()
    monkeypatch.delenv("PGPASSFILE")
    Store(guarded.update_query_dict({"password": PASSWORD})).close()
    api = make_api(store=guarded.set(password=PASSWORD), housekeeping_seconds=0.1)
    api.person()
    execute(own_server.url, "ALTER DATABASE own ALLOW_CONNECTIONS false")
    disconnect(guarded.set(username="postgres", database="own"))
    assert api.get(PEOPLE).status_code == 503
    execute(own_server.url, "ALTER DATABASE own ALLOW_CONNECTIONS true")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    back_up(guarded, tmp_path / "backup")
    shown = [
        *(str(error.value) for error in (none_given, wrong)),
        caplog.text,
        *_description(api.service),
        str(api.service.store),
        repr(api.service.settings),
        described(guarded.update_query_dict({"password": PASSWORD})),
        becomes(api, 200).text,
        api.get("/metrics").text,
        (tmp_path / "backup").read_bytes().decode(errors="replace"),
    ]
    quoted = guarded.set(password=PASSWORD).render_as_string(hide_password=False).split("keeper:")[1].split("@")[0]
    for said in shown:
        assert PASSWORD not in said
        assert quoted not in said
        assert "s3cret" not in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"database": "nowhere"}, 'database "nowhere" does not exist'),
        ({"host": "127.0.0.1", "port": 1}, "Connection refused"),
        ({"host": "::1", "port": 1}, "refused|Cannot assign|unreachable|failed"),
        ({"host": "no.such.host.invalid"}, "resolve|translate|name"),
    ],
)
def test_a_server_that_cannot_be_had_is_one_line(url: URL, change: dict[str, Any], said: str) -> None:
    query = {} if "host" in change else dict(url.query)
    with pytest.raises(StoreError, match=said) as caught:
        Store(URL.create("postgresql", username="postgres", **({"database": "x"} | change), query=query))
    assert "\n" not in str(caught.value)


def test_a_role_that_may_make_no_tables_is_one_line(postgres_url: URL) -> None:
    execute(postgres_url, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", "CREATE ROLE guest LOGIN")
    try:
        with pytest.raises(StoreError, match="permission denied for schema public") as caught:
            Store(postgres_url.set(username="guest"))
    finally:
        execute(postgres_url, "DROP ROLE guest")
    assert "\n" not in str(caught.value)


def test_an_option_that_libpq_does_not_know_is_named(url: URL) -> None:
    with pytest.raises(StoreError, match='invalid connection option "colour"'):
        Store(url.update_query_dict({"colour": "red"}))
    with pytest.raises(StoreError, match="sslmode"):
        Store(url.update_query_dict({"sslmode": "sometimes"}))


@pytest.mark.parametrize(
    "given",
    ["postgresql://me:s3cret@host:port/db", "postgresql://me:s3@cret@host/db", "mysql://me:s3cret@host/db", "x://"],
)
def test_what_is_no_location_is_refused_without_its_password(given: str) -> None:
    with pytest.raises(ConfigError, match="the store at") as caught:
        parse_location(given)
    assert "s3" not in str(caught.value)


def test_a_text_that_no_row_can_hold_is_nobodys(make_api: Any, url: URL, problem: Any) -> None:
    api = make_api()
    api.person()
    for path in ("p_%00", "p_%00/faces", "p_%00/export"):
        problem(api.get(f"{PEOPLE}/{path}"), "not-found", 404)
    problem(api.delete(f"{PEOPLE}/p_%00"), "not-found", 404)
    problem(api.delete(f"{PEOPLE}/p_%00/faces/f_%00"), "not-found", 404)
    assert api.get(PEOPLE, params={"name": "A\0"}).json()["people"] == []
    problem(api.post(PEOPLE, json={"name": "A\0"}), "invalid-request", 422)


def test_a_server_that_stops_is_named_and_comes_back_without_a_restart(
    own_url: URL, own_server: OwnServer, make_api: Any, vector: Any, problem: Any
) -> None:
    api = make_api(store=own_url, housekeeping_seconds=0.1)
    person = api.person()
    api.enrol(person, vector(1))
    own_server.stop()
    try:
        for answer in (api.post(PEOPLE, json={"name": "Bob"}), api.delete(f"{PEOPLE}/{person}"), api.get(PEOPLE)):
            refused(answer, problem)
        said = problem(api.get("/health/ready"), "not-ready", 503)["detail"]
        assert "database" in said
        assert api.get("/health/live").status_code == 200
    finally:
        own_server.start()
    becomes(api, 200)
    assert [one["name"] for one in api.get(PEOPLE).json()["people"]] == ["Ada"]
    assert [hit["person"]["id"] for hit in api.find(vector(1), threshold=0.99)["candidates"]] == [person]
    assert api.delete(f"{PEOPLE}/{person}").status_code == 204
    own_server.stop()
    with pytest.raises(StoreError, match="cannot be used as a store"):
        Store(own_url)


def written_while(api: Any, happens: Callable[[], None], *, seconds: float) -> dict[str, str]:
    """People that were acknowledged, by name, while something happened to the server; each is sent until it is."""
    acknowledged: dict[str, str] = {}
    ended = threading.Event()

    def write(worker: int) -> None:
        number = 0
        while not ended.is_set():
            name = f"{worker}-{number}"
            answer = api.post(PEOPLE, json={"name": name}, headers={"Idempotency-Key": name})
            assert answer.status_code in (201, 503), answer.text
            if answer.status_code == 201:
                acknowledged[name] = answer.json()["id"]
                number += 1
            else:
                time.sleep(0.02)

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, worker) for worker in range(3)]
        time.sleep(seconds)
        happens()
        time.sleep(0.2)
        becomes(api, 200, within_s=60)
        time.sleep(seconds)
        ended.set()
        for writer in writers:
            writer.result()
    return acknowledged


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_server_killed_in_the_middle_of_writes_loses_nothing_that_was_acknowledged(
    own_url: URL, own_server: OwnServer, make_api: Any, kills: int
) -> None:
    api = make_api(store=own_url, housekeeping_seconds=0.1)
    api.put("/v1/collections/staff")
    acknowledged: dict[str, str] = {}

    def kill() -> None:
        own_server.kill()
        own_server.start()

    for round_number in range(kills):
        execute(own_url, "DELETE FROM replies")  # the names of each round are new requests
        found = written_while(api, kill, seconds=0.3)
        assert len(found) > 3
        acknowledged |= {f"{round_number} {name}": public_id for name, public_id in found.items()}
    with api.service.store.read() as session:
        stored = [row.public_id for row in session.execute(text("SELECT public_id FROM people"))]
    assert set(acknowledged.values()) <= set(stored)
    assert len(stored) - len(acknowledged) <= 3 * kills, "a write that was sent again was done twice"


def test_a_commit_whose_answer_was_lost_is_answered_once_to_who_asks_again(
    make_api: Any, url: URL, vector: Any, problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = make_api(housekeeping_seconds=0.1)
    person = api.person()
    dialect = api.service.store.engine.dialect
    commit = dialect.do_commit
    faces = f"{PEOPLE}/{person}/faces"
    body = {"embedding": vector(1).tolist(), "model": api.model}

    def lost(connection: Any) -> None:
        if not threading.current_thread().name.startswith("AnyIO"):
            commit(connection)
            return
        monkeypatch.undo()
        commit(connection)
        connection.dbapi_connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(dialect, "do_commit", lost)
    refused(api.post(faces, json=body, headers={"Idempotency-Key": "one"}), problem)
    becomes(api, 200)
    again = api.post(faces, json=body, headers={"Idempotency-Key": "one"})
    assert (again.status_code, again.headers.get("idempotency-replayed")) == (201, "true")
    assert [face["id"] for face in api.get(faces).json()["faces"]] == [again.json()["id"]]
    until = time.monotonic() + 10
    while not api.find(vector(1), threshold=0.99)["candidates"]:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_connection_cut_before_the_commit_leaves_nothing(
    make_api: Any, url: URL, problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = make_api(housekeeping_seconds=0.1)
    api.put("/v1/collections/staff")

    def cut(*_: Any) -> None:
        monkeypatch.undo()
        disconnect(url)

    monkeypatch.setattr("service.writes._keep", cut)
    refused(api.post(PEOPLE, json={"name": "Ada"}, headers={"Idempotency-Key": "one"}), problem)
    becomes(api, 200)
    assert api.get(PEOPLE).json()["people"] == []
    again = api.post(PEOPLE, json={"name": "Ada"}, headers={"Idempotency-Key": "one"})
    assert (again.status_code, "idempotency-replayed" in again.headers) == (201, False)


def test_a_pool_without_a_free_connection_refuses_for_a_while(
    make_api: Any, url: URL, problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_POOL", 3)
    monkeypatch.setattr(server_module, "_POOL_WAIT_S", 0.2)
    api = make_api(housekeeping_seconds=30)
    api.put("/v1/collections/staff")
    held = []
    with suppress(SQLAlchemyError):
        while True:
            held.append(api.service.store.engine.pool.connect())
    refused(api.get(PEOPLE), problem)
    refused(api.post(PEOPLE, json={"name": "Ada"}), problem)
    for connection in held:
        connection.close()
    becomes(api, 200)
    assert api.get(PEOPLE).json()["people"] == []


def test_a_standby_is_read_and_backed_up_but_not_served(own_url: URL, own_server: OwnServer, tmp_path: Path) -> None:
    with Store(own_url) as store:
        store.unlock(None)
        with store.write() as session:
            add_collection(session, "staff", model="m", dim=4)
    standby = own_server.standby()
    try:
        url = standby.url.set(database="own")
        with Store(url) as store:
            with store.read() as session:
                assert [row.name for row in collections(session)] == ["staff"]
            with pytest.raises(StoreError, match="a standby that takes no writes; name the primary"):
                store.claim()
            with pytest.raises(OperationalError) as caught, store.write() as session:
                add_collection(session, "more", model="m", dim=4)
            assert store.outage == "the database server is a standby that takes no writes", caught.value
            assert back_up(url, tmp_path / "backup").counts["collections"] == 1
            execute(standby.url, "SELECT pg_promote()")
            store.claim()
            with store.write() as session:
                add_collection(session, "more", model="m", dim=4)
            assert store.outage is None
    finally:
        standby.close()


@pytest.mark.parametrize(
    ("code", "words"), [("53100", "disk of the database server is full"), ("58030", "disk"), ("25006", "standby")]
)
def test_what_keeps_the_server_from_writing_is_named(
    make_api: Any, url: URL, problem: Any, code: str, words: str
) -> None:
    api = make_api(housekeeping_seconds=0.1)
    person = api.person()
    execute(
        url,
        f"CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{code}'; END $$",
        *(
            f"CREATE TRIGGER no_room BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION no_room()"
            for table in ("people", "meta")
        ),
    )
    for _ in range(2):
        refused(api.post(PEOPLE, json={"name": "Bob"}), problem)
    assert words in becomes(api, 503).json()["detail"]
    assert [one["id"] for one in api.get(PEOPLE).json()["people"]] == [person]
    execute(url, "DROP FUNCTION no_room CASCADE")
    becomes(api, 200)
    assert api.post(PEOPLE, json={"name": "Bob"}).status_code == 201


def bytes_of(folder: Path) -> bytes:
    found = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            found.append(path.read_bytes() if path.is_file() else b"")
    return b"".join(found)


def test_after_a_compaction_no_file_of_the_server_holds_a_deleted_vector(
    own_url: URL, own_server: OwnServer, make_api: Any, vector: Any
) -> None:
    execute(own_server.url, "ALTER SYSTEM SET wal_recycle = off", "SELECT pg_reload_conf()")
    api = make_api(store=own_url, housekeeping_seconds=0.1)
    kept = api.person("Bob who stays")
    api.enrol(kept, vector(1))
    for number in range(2, 10):
        api.enrol(api.person(f"Ada who goes {number}"), vector(number))
    execute(own_url, "CHECKPOINT")
    assert vector(2).tobytes() in bytes_of(own_server.folder)
    for person in api.get(PEOPLE, params={"limit": 100}).json()["people"]:
        if person["id"] != kept:
            assert api.delete(f"{PEOPLE}/{person['id']}").status_code == 204
    api.service.store.compact()
    held = bytes_of(own_server.folder)
    assert vector(1).tobytes() in held
    assert b"Bob who stays" in held
    for number in range(2, 10):
        assert vector(number).tobytes()[:32] not in held
    assert b"Ada who goes" not in held
    assert api.find(vector(1), threshold=0.99)["templates"] == 1


def test_a_compaction_says_who_may_still_see_what_was_deleted(url: URL) -> None:
    with Store(url) as store, psycopg.connect(url.render_as_string(hide_password=False)) as other:
        store.unlock(None)
        with store.write() as session:
            person = add_person(session, add_collection(session, "staff", model="m", dim=4), "Ada")
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM pg_class")
        with store.write() as session:
            session.delete(session.merge(person))
        with pytest.raises(StoreError, match=rf"process {other.info.backend_pid}.*compact again"):
            store.compact()
        other.rollback()
        store.compact()


def test_every_table_about_people_is_vacuumed_soon(url: URL) -> None:
    wanted = {"people", "faces", "templates", "replies"}
    rows = execute(url, "SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL AND relkind = 'r'")
    found = {name for name, options in rows if "autovacuum_vacuum_scale_factor=0" in options}
    assert found == wanted
    assert wanted < {table.name for table in Table.metadata.sorted_tables}


def write_while_it_stands_still(store: Store, server: OwnServer) -> None:
    with store.write() as session, server.standing_still():
        session.execute(text("SELECT 1"))


def test_a_server_that_stands_still_is_not_waited_for(
    own_url: URL, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_connection, "_PATIENCE_S", 0.3)
    monkeypatch.setattr(watched_connection, "_ANSWER_S", 2)
    with Store(own_url) as store:
        store.unlock(None)
        store.claim()
        with store.read() as session:
            session.execute(text("SELECT pg_sleep(1)"))  # silent for longer, while the server is well
        started = time.monotonic()
        with pytest.raises(OperationalError, match="does not answer any more"):
            write_while_it_stands_still(store, own_server)
        assert 2 < time.monotonic() - started < 10
        assert store.outage == "the database server does not answer"
        store.probe()
        assert store.outage is None


def test_readiness_says_that_a_command_had_the_store_alone(url: URL, make_api: Any, problem: Any) -> None:
    api = make_api(housekeeping_seconds=30)
    api.service.follower.stop()
    with Store(url) as command:
        until = time.monotonic() + 10
        while True:  # what else the service does brings its connections back
            disconnect(url)
            try:
                command.claim(alone=True)
                break
            except StoreError:
                assert time.monotonic() < until
        assert "needs it alone is at work" in problem(api.get("/health/ready"), "not-ready", 503)["detail"]
    assert "start the service anew" in problem(api.get("/health/ready"), "not-ready", 503)["detail"]
    assert api.get("/metrics").status_code == 200
