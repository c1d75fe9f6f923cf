"""What services of a store must have in common, and how one keeps up with the others."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import anyio
import pytest
from sqlalchemy import text

from facemargin.errors import ConfigError
from service.errors import StoreError
from service.gate import Gate
from service.replica import Follower, Replica, apart, description, trim
from service.store import Store
from service.store.aside import aside
from service.store.change_log import LoggedChange, changes_after, log_changes
from service.store.key_ring import SharedKeyRing
from service.store.people import add_collection
from service.store.replicas import others
from service.store.taken import add_taken, taken


class Clock:
    moment = 0.0

    def __call__(self) -> float:
        return self.moment


@pytest.fixture
def store(make_postgres_store: Any) -> Iterator[Store]:
    with Store(make_postgres_store()) as opened:
        opened.unlock(None)
        yield opened


def described(*models: str, **alike: str) -> dict[str, Any]:
    return description(models or ["a"], **{"index": "faiss:", "templates": "best"} | alike)


@pytest.mark.parametrize(
    ("mine", "other", "newcomer", "running"),
    [
        (["a"], ["a"], None, None),
        (["a", "b"], ["a"], None, None),
        (["a"], ["a", "b"], "models a, there a, b", None),
        (["b"], ["a"], "models b, there a", "models b, there a"),
        (["b", "a"], ["a"], "models b, a, there a", "models b, a, there a"),
        (["a"], [], None, None),
    ],
)
def test_models_must_be_the_same_or_further_ones_at_the_end_of_a_newcomer(
    mine: list[str], other: list[str], newcomer: str | None, running: str | None
) -> None:
    assert apart(described(*mine), description(other, index="faiss:", templates="best"), newcomer=True) == newcomer
    assert apart(described(*mine), description(other, index="faiss:", templates="best"), newcomer=False) == running


def test_every_difference_is_named() -> None:
    other = described(index="pgvector:", templates="mean") | {"schema": 99, "later": "x"}
    said = apart(described(), other, newcomer=True)
    assert said == (
        f"index faiss:, there pgvector:; later None, there x; schema {described()['schema']}, there 99; "
        "templates best, there mean"
    )


def test_a_service_that_differs_from_one_that_runs_does_not_start(store: Store) -> None:
    first = Replica(store, described("a"))
    Replica(store, described("a")).leave()
    with pytest.raises(ConfigError, match=r"another service .* differs: here models b, there a; start this one alike"):
        Replica(store, described("b"))
    first.leave()
    Replica(store, described("b"))
    with store.read() as session:
        assert [each["models"] for each in others(session, "nobody")] == [["b"]]


def test_one_that_was_killed_counts_for_ten_seconds(store: Store) -> None:
    Replica(store, described("a"))
    with aside(store) as session:
        session.execute(text("UPDATE replicas SET seen_at = seen_at - interval '9 seconds'"))
    with pytest.raises(ConfigError, match="counts as running for 10 s"):
        Replica(store, described("b"))
    with aside(store) as session:
        session.execute(text("UPDATE replicas SET seen_at = seen_at - interval '2 seconds'"))
    Replica(store, described("b"))


def test_a_look_that_comes_after_the_end_does_not_bring_the_line_back(store: Store) -> None:
    replica = Replica(store, described("a"))
    replica.leave()
    assert replica.look() == []
    with store.read() as session:
        assert others(session, "nobody") == []


def test_one_that_cannot_be_told_that_another_ends_waits_ten_seconds(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replica = Replica(store, described("a"))
    with replica._turn:  # a look that hangs
        monkeypatch.setattr("service.replica._LONGEST_SILENCE_S", 0.05)
        replica.leave()
    with aside(store) as session:
        session.execute(text("LOCK TABLE replicas"))
        replica.leave()
    assert "could not be told" in caplog.text
    with pytest.raises(ConfigError):
        Replica(store, described("b"))


def test_a_service_that_fails_to_start_is_not_in_the_way(
    make_api: Any, store: Store, make_tiny_bundle: Any, tmp_path: Any
) -> None:
    with pytest.raises(StoreError, match="ledger"):
        make_api(store=store.location, erasure_ledger=tmp_path)
    make_api(store=store.location, bundle=make_tiny_bundle(seed=4))


def test_a_running_one_says_so_when_it_lacks_a_model_that_a_collection_needs(store: Store) -> None:
    old, new = Replica(store, described("a")), Replica(store, described("a", "b"))
    assert (old.look(), new.look()) == ([], [])
    with store.write() as session:
        gallery = add_collection(session, "staff", model="a", dim=4)
        gallery.upgrade_model = "b"
    assert old.look() == ["a collection needs model b, which other services have; restart with it"]
    assert new.look() == []
    new.leave()
    assert old.look() == []


def test_two_that_differ_and_run_all_the_same_say_so(store: Store) -> None:
    one = Replica(store, described("a"))
    with aside(store) as session:
        session.execute(text("UPDATE replicas SET seen_at = seen_at - interval '1 minute'"))
    two = Replica(store, described("b"))
    one.look()
    assert two.look() == ["another service of the store is running and differs: here models b, there a"]


def test_tables_of_a_newer_program_are_noticed(store: Store) -> None:
    replica = Replica(store, described())
    with store.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0099'"))
    (trouble,) = replica.look()
    assert "tables of version 99" in trouble
    assert "install the facemargin that wrote it" in trouble


class Fails:
    """A gallery, keys and limits that work or do not."""

    def __init__(self) -> None:
        self.broken = False
        self.asked = 0

    def catch_up(self, _: object) -> None:
        self.refresh()

    def refresh(self) -> None:
        self.asked += 1
        if self.broken:
            raise StoreError("it is away")


def test_a_follower_that_fails_says_so_once_and_goes_on(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    clock, gallery, keys = Clock(), Fails(), Fails()
    follower = Follower(store, gallery, keys, None, Replica(store, described()), clock=clock)
    follower.round()
    assert (gallery.asked, follower.troubles(), follower.silent) == (1, [], False)
    gallery.broken = True
    for _ in range(20):
        clock.moment += 0.2
        follower.round()
    assert follower.troubles() == ["what other services wrote could not be read for 4 s"]
    assert not follower.silent
    assert caplog.text.count("cannot be read, tried again") == 1
    gallery.broken = False
    follower.round()
    assert follower.troubles() == []
    clock.moment += 1.1
    assert follower.silent


def test_what_everybody_has_read_is_trimmed(store: Store) -> None:
    with store.write() as session:
        log_changes(session, [LoggedChange(1)])
        session.execute(text("UPDATE changes SET at = at - interval '9 minutes'"))
    with aside(store) as session:
        add_taken(session, {"key:a": 3})
    trim(store)
    with store.write() as session:
        assert len(changes_after(session, 0) or []) == 1
        session.execute(text("UPDATE changes SET at = at - interval '2 minutes'"))
        session.execute(text("UPDATE taken SET at = at - interval '61 minutes'"))
    trim(store)
    with store.read() as session:
        assert changes_after(session, 0) is None
        assert taken(session) == {}


def test_the_housekeeping_trims(make_api: Any, store: Store) -> None:
    api = make_api(store=store.location)
    api.enrol(api.person(), [1.0] * 32)
    with store.write() as session:
        assert changes_after(session, 0)
        session.execute(text("UPDATE changes SET at = at - interval '11 minutes'"))
    api.service.housekeeping.round()
    with store.read() as session:
        assert changes_after(session, 0) is None
    assert api.service.follower.troubles() == []
    assert api.service.gallery.trouble() is None


def test_keys_that_were_not_read_for_too_long_let_nobody_in(store: Store) -> None:
    clock = Clock()
    ring = SharedKeyRing(store, clock=clock)
    assert ring.empty()
    clock.moment = 0.79
    assert not ring.behind
    clock.moment = 0.81
    assert ring.behind
    for ask in (ring.empty, lambda: ring.find("x")):
        with pytest.raises(StoreError, match="does not answer"):
            ask()
    ring.refresh()
    assert ring.empty()


def test_a_request_waits_a_moment_for_keys(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    ring = SharedKeyRing(store, clock=clock)
    gate = Gate(ring, requests_per_minute=0, refusals_per_minute=0)
    clock.moment = 2.0

    async def asked(refreshed_after: float) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(gate.wait_for_keys)
            await anyio.sleep(refreshed_after)
            gate.refresh()

    anyio.run(asked, 0.05)
    assert not ring.behind
    clock.moment = 4.0
    monkeypatch.setattr("service.gate._LONGEST_WAIT_S", 0.05)
    anyio.run(gate.wait_for_keys)
    assert ring.behind


def test_what_is_written_beside_the_turn_waits_for_no_writer(store: Store) -> None:
    with store.write(), aside(store) as session:
        add_taken(session, {"key:a": 1})
    with store.read() as session:
        assert taken(session, within_s=60) == {"key:a": 1}
        assert taken(session, within_s=timedelta(0).total_seconds()) == {}
