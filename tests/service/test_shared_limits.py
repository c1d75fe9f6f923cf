"""Rate limits that several services share: what they grant together, and what they tell each other."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, text
from sqlalchemy.exc import SQLAlchemyError

from service.rate_limits import RateLimits, burst
from service.shared_limits import LimitExchange, SharedRateLimits
from service.store import Store
from service.store.aside import aside
from service.store.taken import drop_idle, taken


class Clock:
    moment = 0.0

    def __call__(self) -> float:
        return self.moment


def limits(clock: Clock, name: str = "key", most: int = 100) -> SharedRateLimits:
    return SharedRateLimits(name, most=most, called=lambda who: f"<{who}>", clock=clock)


def granted(limit: RateLimits, who: str, per_minute: int, times: int) -> int:
    return sum(limit.take(who, per_minute).wait == 0 for _ in range(times))


@given(per_minute=st.integers(1, 600), gaps=st.lists(st.floats(0, 3), max_size=200))
def test_alone_it_grants_what_a_limit_of_one_service_grants(per_minute: int, gaps: list[float]) -> None:
    clock = Clock()
    shared, alone = limits(clock), RateLimits("key", most=1, clock=clock)
    for gap in gaps:
        clock.moment += gap
        assert shared.take("a", per_minute) == alone.take("a", per_minute)


def test_what_others_granted_is_taken_out_and_is_a_debt_beyond_that() -> None:
    clock = Clock()
    here = limits(clock)
    assert granted(here, "a", 60, 4) == 4
    here.charge({"key:<a>": 3, "address:<a>": 100})
    assert granted(here, "a", 60, 10) == 3
    here.charge({"key:<a>": 5})
    assert here.take("a", 60).wait == pytest.approx(6.0)
    assert here.take("a", 60).remaining == 0
    clock.moment = 5.9
    assert here.take("a", 60).wait > 0
    clock.moment = 6.1
    assert granted(here, "a", 60, 10) == 1


def test_what_others_granted_counts_for_somebody_who_was_not_here_yet() -> None:
    clock = Clock()
    here = limits(clock)
    here.charge({"key:<a>": 8})
    clock.moment = 1.0
    here.charge({"key:<a>": 2})
    clock.moment = 2.0
    assert granted(here, "a", 60, 10) == 2  # ten, less eight, and one, less two, and one


def test_a_debt_is_never_longer_than_a_minute() -> None:
    clock = Clock()
    here = limits(clock)
    here.charge({"key:<a>": 10**9})
    assert here.take("a", 60).wait == pytest.approx(61.0)


def test_a_minute_of_what_others_granted_is_one_figure_for_each_second() -> None:
    clock = Clock()
    here = limits(clock)
    for _ in range(1000):
        clock.moment += 0.2
        here.charge({"key:<a>": 1})
    assert len(here._others["key:<a>"]) <= 61
    assert sum(count for _, count in here._others["key:<a>"]) == pytest.approx(300, abs=6)


def test_what_is_remembered_is_bounded() -> None:
    clock = Clock()
    here = limits(clock, most=3)
    for number in range(10):
        here.charge({f"key:<{number}>": 1})
    assert list(here._others) == ["key:<7>", "key:<8>", "key:<9>"]
    for _ in range(1000):
        clock.moment += 0.2
        here.charge({"key:<9>": 1})
    assert len(here._others["key:<9>"]) <= 301


@given(
    services=st.integers(1, 5),
    per_minute=st.sampled_from([6, 60, 600]),
    seed=st.integers(0, 1000),
    greed=st.floats(1, 20),
)
@settings(max_examples=40, deadline=None)
def test_no_minute_has_more_than_the_limit_and_a_burst_for_each_service(
    services: int, per_minute: int, seed: int, greed: float
) -> None:
    """With exchanges every 0.2 s, whoever asks as often as they like wherever they like."""
    chance, clock, moments = random.Random(seed), Clock(), list[float]()
    all_of_them = [limits(clock) for _ in range(services)]
    for tick in range(700):
        clock.moment = tick * 0.2
        for here in chance.sample(all_of_them, services):
            asked = chance.randint(0, int(greed * per_minute / 300) + 1)
            moments += [clock.moment] * granted(here, "a", per_minute, asked)
        told = [here.granted() for here in all_of_them]
        for here, own in zip(all_of_them, told, strict=True):
            others = sum(sum(counts.values()) for counts in told) - sum(own.values())
            if others:
                here.charge({"key:<a>": others})
    for start in moments:
        within = sum(start <= moment < start + 60 for moment in moments)
        assert within <= per_minute + services * burst(per_minute)


@pytest.fixture
def store(make_postgres_store: Any) -> Any:
    with Store(make_postgres_store()) as opened:
        yield opened


def exchanging(store: Store, clock: Clock) -> tuple[SharedRateLimits, LimitExchange]:
    here = limits(clock)
    exchange = LimitExchange(store, [here], clock=clock)
    exchange.exchange()
    return here, exchange


def test_services_tell_each_other(store: Store) -> None:
    clock = Clock()
    (here, tell_here), (there, tell_there) = exchanging(store, clock), exchanging(store, clock)
    assert granted(here, "a", 60, 7) == 7
    tell_here.exchange()
    tell_there.exchange()
    assert granted(there, "a", 60, 10) == 3
    tell_there.exchange()
    tell_there.exchange()
    tell_here.exchange()
    assert granted(here, "a", 60, 10) == 0
    with store.read() as session:
        assert taken(session) == {"key:<a>": 10}
    late, tell_late = exchanging(store, clock)  # what was granted before it began is not new
    assert granted(late, "a", 60, 20) == 10
    tell_late.exchange()
    tell_here.exchange()
    assert here.take("a", 60).wait == pytest.approx(11.0)


def test_what_could_not_be_told_is_told_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    (here, tell_here), (there, tell_there) = exchanging(store, clock), exchanging(store, clock)
    granted(here, "a", 60, 4)
    with aside(store) as session:
        session.execute(text("LOCK TABLE taken"))
        with pytest.raises(SQLAlchemyError):
            tell_here.exchange()
    granted(here, "a", 60, 1)
    tell_here.exchange()
    tell_there.exchange()
    assert granted(there, "a", 60, 10) == 5


def test_rows_that_are_dropped_and_come_again_are_counted_from_nothing(store: Store) -> None:
    from datetime import timedelta

    clock = Clock()
    (here, tell_here), (there, tell_there) = exchanging(store, clock), exchanging(store, clock)
    granted(here, "a", 600, 50)
    tell_here.exchange()
    tell_there.exchange()
    with aside(store) as session:
        drop_idle(session, after=timedelta(seconds=-1))
    clock.moment = 20.0
    granted(here, "a", 600, 7)
    tell_here.exchange()
    tell_there.exchange()
    assert granted(there, "a", 600, 100) == 93
    clock.moment = 700.0
    tell_there.exchange()
    assert tell_there._seen == {"key:<a>": 100}


def test_the_store_keeps_no_name_of_who_asks(store: Store, postgres_server: URL) -> None:
    store.unlock(None)
    clock = Clock()
    here = SharedRateLimits("address", most=9, called=lambda who: store.vault.pseudonym("address limit", who))
    exchange = LimitExchange(store, [here], clock=clock)
    here.take("192.0.2.7", 60)
    exchange.exchange()
    with store.read() as session:
        ((who, count),) = taken(session).items()
    assert (who[:8], count) == ("address:", 1)
    assert "192" not in who[8:] or len(who) == 40
