"""How often a key may ask, and an address without one."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.errors import RateLimitedError
from service.gate import site_of
from service.rate_limits import RateLimits, burst
from service.security import Scope, create_key
from service.store.keys import KeyLimits


class Clock:
    def __init__(self) -> None:
        self.moment = 0.0

    def __call__(self) -> float:
        return self.moment


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(("per_minute", "at_once"), [(1, 1), (5, 1), (6, 1), (7, 2), (60, 10), (600, 100)])
def test_the_burst_is_ten_seconds_of_the_limit(clock: Clock, per_minute: int, at_once: int) -> None:
    assert burst(per_minute) == at_once
    limits = RateLimits("key", most=10, clock=clock)
    granted = [limits.take("a", per_minute).wait == 0 for _ in range(at_once + 3)]
    assert granted == [True] * at_once + [False] * 3


def test_what_a_bucket_says(clock: Clock) -> None:
    """60 a minute: ten at once, then one a second."""
    limits = RateLimits("key", most=10, clock=clock)
    first = limits.take("a", 60)
    assert (first.remaining, first.full_after, first.wait) == (9, pytest.approx(1), 0)
    for _ in range(9):
        limits.take("a", 60)
    clock.moment = 0.25
    refused = limits.take("a", 60)
    assert (refused.remaining, refused.wait) == (0, pytest.approx(0.75))
    with pytest.raises(RateLimitedError, match="more than 60 requests a minute; try again in 1 s"):
        refused.demand()
    assert limits.take("b", 60).wait == 0  # another's bucket
    clock.moment = 1.0
    assert limits.take("a", 60).wait == 0
    assert limits.take("a", 60).wait > 0
    clock.moment = 1000.0
    assert limits.take("a", 60).remaining == 9
    assert limits.take("a", 60).headers == [
        (b"ratelimit-policy", b'"key";q=60;w=60'),
        (b"ratelimit", b'"key";r=8;t=2'),
    ]


@given(
    per_minute=st.integers(1, 600),
    steps=st.lists(st.integers(0, 20_000), min_size=1, max_size=60),
)
def test_a_bucket_grants_what_exact_arithmetic_grants(per_minute: int, steps: list[int]) -> None:
    """Beside a bucket in fractions: the same grants, but for requests that come within a microsecond of a token."""
    clock = Clock()
    limits = RateLimits("key", most=1, clock=clock)
    tokens, moment, rate = Fraction(burst(per_minute)), 0, Fraction(per_minute, 60_000)
    for step in steps:
        moment += step
        clock.moment = moment / 1000
        tokens = min(Fraction(burst(per_minute)), tokens + step * rate)
        said = limits.take("a", per_minute)
        if abs(tokens - 1) > Fraction(1, 10**6):
            assert (said.wait == 0) == (tokens >= 1)
        if said.wait == 0:
            tokens -= 1


@given(per_minute=st.integers(1, 600), gaps=st.lists(st.floats(0, 3), max_size=300))
def test_no_minute_has_more_than_the_limit_and_its_burst(per_minute: int, gaps: list[float]) -> None:
    clock, granted = Clock(), list[float]()
    limits = RateLimits("key", most=1, clock=clock)
    for gap in gaps:
        clock.moment += gap
        if limits.take("a", per_minute).wait == 0:
            granted.append(clock.moment)
    for number, start in enumerate(granted):
        within = sum(1 for moment in granted[number:] if moment < start + 60)
        assert within <= per_minute + burst(per_minute) + 1e-6


def test_buckets_are_bounded_and_the_one_asked_longest_ago_goes(clock: Clock) -> None:
    limits = RateLimits("address", most=3, clock=clock)
    for who in ("a", "b", "c"):
        limits.take(who, 6)
    limits.take("a", 6)
    limits.take("d", 6)
    assert limits.take("a", 6).wait > 0
    assert limits.take("b", 6).wait == 0  # forgotten, so it is as new
    for number in range(1000):
        limits.take(str(number), 6)
    assert len(limits._buckets) == 3


def test_what_counts_as_one_address() -> None:
    assert site_of("192.0.2.7") == "192.0.2.7"
    assert site_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert site_of("2001:db8:1:2:3::4") == site_of("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert site_of("2001:db8:1:3::4") != site_of("2001:db8:1:2::4")
    assert site_of("fe80::1%eth0") == "fe80::/64"
    assert (site_of(None), site_of("testclient")) == ("unknown", "testclient")


def make_key(api: Any, *scopes: Scope, **limits: Any) -> dict[str, str]:
    with api.service.store.write() as session:
        token = create_key(session, label="", scopes=scopes, limits=KeyLimits(**limits))
    return {"Authorization": f"Bearer {token}"}


def test_a_key_that_asks_too_often_is_told_when_to_come_again(make_api: Any, problem: Any) -> None:
    api = make_api(requests_per_minute=6)
    slow = make_key(api, Scope.READ)
    fast = make_key(api, Scope.READ, requests_per_minute=18)
    answer = api.get("/v1/collections", headers=slow)
    assert answer.status_code == 200
    assert answer.headers["ratelimit-policy"] == '"key";q=6;w=60'
    assert answer.headers["ratelimit"] == '"key";r=0;t=10'
    answer = api.get("/v1/collections", headers=slow)
    told = problem(answer, "rate-limited", 429)
    assert told["limit"] == 6
    assert 9 <= told["retry_after"] <= 10
    assert answer.headers["retry-after"] == str(told["retry_after"])
    assert answer.headers["ratelimit"].startswith('"key";r=0;')
    assert [api.get("/v1/collections", headers=fast).status_code for _ in range(4)] == [200] * 3 + [429]
    problem(api.put("/v1/collections/x", headers=slow), "rate-limited", 429)  # also before the scope is looked at
    for path in ("/health/live", "/health/ready"):
        assert api.get(path, headers=slow).status_code == 200
        assert "ratelimit" not in api.get(path).headers


def test_no_limit_by_setting_and_none_on_this_machine_without_keys(make_api: Any, tmp_path: Any) -> None:
    api = make_api(requests_per_minute=1)
    assert {api.get("/v1/models").status_code for _ in range(20)} == {200}
    unlimited = make_api(requests_per_minute=0, store=tmp_path / "other")
    key = make_key(unlimited, Scope.READ)
    answers = [unlimited.get("/v1/models", headers=key) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert "ratelimit" not in answers[0].headers


def test_an_address_that_keeps_failing_gets_429_and_a_valid_key_still_passes(make_api: Any, problem: Any) -> None:
    api = make_api(refusals_per_minute=12)
    key = make_key(api, Scope.READ)
    wrong = {"X-API-Key": "fm_00000000_" + "x" * 43}
    for headers in (wrong, {}):
        problem(api.get("/v1/models", headers=headers), "unauthenticated", 401)
    refused = problem(api.get("/v1/models", headers=wrong), "rate-limited", 429)
    assert 1 <= refused["retry_after"] <= 5
    problem(api.get("/v1/models"), "rate-limited", 429)
    assert api.get("/v1/models", headers=key).status_code == 200
    assert api.get("/health/live", headers=wrong).status_code == 200
    elsewhere = TestClient(api.app, base_url="http://127.0.0.1", client=("192.0.2.1", 1))
    problem(elsewhere.get("/v1/models", headers=wrong), "unauthenticated", 401)
