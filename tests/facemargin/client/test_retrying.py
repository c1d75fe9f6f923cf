"""When and how long to wait, and what a Retry-After header says."""

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemargin.client.errors import Overloaded, ServiceUnreachable, Unavailable, UnexpectedReply, problem_from
from facemargin.client.retrying import Retries, may_help, retry_after

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@given(st.integers(0, 10**12))
def test_seconds_are_read_as_they_are(seconds: int) -> None:
    assert retry_after(f" {seconds}\t", NOW) == seconds


@given(st.integers(-(10**6), 10**6))
def test_a_date_is_the_seconds_until_then_and_never_negative(seconds: int) -> None:
    text = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after(text, NOW) == max(0, seconds)


@given(st.text() | st.from_regex(r"[-+0-9.eE: ]{1,30}") | st.text("0123456789", min_size=1, max_size=6000))
def test_any_text_is_seconds_or_nothing(text: str) -> None:
    seconds = retry_after(text, NOW)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


@pytest.mark.parametrize("text", [None, "", "soon", "-5", "1.5", "٣", "9" * 500, "Sat, 31 Jan 99999 12:00:00 GMT"])
def test_what_is_neither_asks_for_nothing(text: str | None) -> None:
    assert retry_after(text, NOW) is None


def overloaded(seconds: float | None = None) -> Overloaded:
    return Overloaded({"status": 429, "type": "about:blank"}, seconds)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_waits_double_up_to_the_longest_with_chance_in_them(tries: int, chance: float) -> None:
    wait = Retries(deadline=1e9).wait(overloaded(), tries, 1e9, chance=lambda: chance)
    whole = min(10.0, 0.2 * 2.0 ** min(tries, 1000))
    assert wait == pytest.approx(whole * (0.5 + chance / 2))


@given(st.integers(0, 50), st.floats(0.001, 100), st.floats(0, 1, exclude_max=True))
def test_what_the_service_asks_for_is_honoured(tries: int, asked: float, chance: float) -> None:
    wait = Retries(deadline=1e9).wait(overloaded(asked), tries, 1e9, chance=lambda: chance)
    assert wait is not None
    assert wait >= asked


@given(st.floats(0, 100), st.integers(0, 20), st.floats(0, 100))
def test_no_wait_reaches_the_deadline(left: float, tries: int, asked: float) -> None:
    wait = Retries().wait(overloaded(asked), tries, left)
    assert wait is None or wait < left


def test_only_what_may_help_is_tried_again() -> None:
    for status, type_ in ((500, "internal-error"), (422, "no-face"), (503, "detector-missing"), (409, ""), (501, "")):
        failure = problem_from({"status": status, "type": f"urn:facemargin:problem:{type_}"})
        assert not may_help(failure)
        assert Retries().wait(failure, 0, 100) is None
    for status in (502, 503, 504):
        assert may_help(problem_from({"status": status}))
    assert may_help(problem_from({"status": 429}))
    assert not may_help(UnexpectedReply("?"))
    assert isinstance(problem_from({"status": 503}), Unavailable)


def test_a_request_that_cannot_be_sent_is_not_sent_again() -> None:
    failure = ServiceUnreachable("no answer")
    assert may_help(failure)
    failure.__cause__ = httpx.UnsupportedProtocol("ftp")
    assert not may_help(failure)


@pytest.mark.parametrize("name", ["deadline", "first_wait", "longest_wait"])
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
def test_a_number_of_seconds_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Retries(**{name: value})
