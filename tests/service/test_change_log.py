"""The log of what writes mean for indexes, on both databases."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from service.replica import trim
from service.store import Location, Store
from service.store.change_log import (
    LoggedChange,
    changes_after,
    drop_old_changes,
    has_old_changes,
    last_change,
    log_changes,
    written_at,
)
from service.store.clock import present
from service.store.tables import ChangeRow, now

pytestmark = pytest.mark.both_databases


@pytest.fixture
def store(location: Location) -> Any:
    with Store(location) as opened:
        yield opened


def logged(store: Store, *changes: LoggedChange) -> list[int]:
    with store.write() as session:
        return log_changes(session, changes)


def logged_and_undone(store: Store) -> None:
    with store.write() as session:
        log_changes(session, [LoggedChange(1)])
        raise RuntimeError


def after(store: Store, seq: int, limit: int = 100) -> list[LoggedChange] | None:
    """The lines after a number, without the moments."""
    with store.read() as session:
        lines = changes_after(session, seq, limit=limit)
    return None if lines is None else [line._replace(at=None) for line in lines]


def dropped(store: Store) -> int:
    with store.write() as session:
        return drop_old_changes(session, before=now() + timedelta(seconds=1))


def test_lines_come_in_the_order_of_the_commits_and_after_a_number(store: Store) -> None:
    assert after(store, 0) == []
    first = logged(store, LoggedChange(7, [1, 2], [3]), LoggedChange(8, rebuild=True))
    second = logged(store, LoggedChange(7, [], [2**40]))
    assert [*first, *second] == sorted({*first, *second})
    assert after(store, 0) == [
        LoggedChange(7, [1, 2], [3], False, first[0]),
        LoggedChange(8, [], [], True, first[1]),
        LoggedChange(7, [], [2**40], False, second[0]),
    ]
    assert after(store, first[1]) == [LoggedChange(7, [], [2**40], False, second[0])]
    assert after(store, second[0]) == []
    with store.read() as session:
        assert last_change(session) == second[0]


def test_a_limit_gives_the_first_of_them_and_the_rest_the_next_time(store: Store) -> None:
    numbers = logged(store, *(LoggedChange(number) for number in range(7)))
    seen, position = [], 0
    while some := after(store, position, limit=3):
        assert len(some) <= 3
        seen += [line.seq for line in some]
        position = seen[-1]
    assert seen == numbers


def test_what_is_undone_leaves_no_line(store: Store) -> None:
    with pytest.raises(RuntimeError):
        logged_and_undone(store)
    assert after(store, 0) == []
    (number,) = logged(store, LoggedChange(2))
    assert after(store, 0) == [LoggedChange(2, [], [], False, number)]


def test_who_has_read_less_than_was_dropped_is_told_so(store: Store) -> None:
    numbers = logged(store, *(LoggedChange(number) for number in range(3)))
    assert dropped(store) == 3
    assert after(store, numbers[-1]) == []  # who had read everything has missed nothing
    assert after(store, numbers[-2]) is None
    assert after(store, 0) is None
    with store.read() as session:
        assert last_change(session) == numbers[-1]
    (number,) = logged(store, LoggedChange(9))
    assert number > numbers[-1]
    assert after(store, numbers[-1]) == [LoggedChange(9, [], [], False, number)]
    assert after(store, numbers[-2]) is None


def test_who_has_read_more_than_there_is_is_told_so(store: Store) -> None:
    (number,) = logged(store, LoggedChange(1))
    assert after(store, number + 1) is None


def test_a_number_that_is_given_again_is_not_taken_for_the_one_that_was_seen(store: Store) -> None:
    """The database was put back to an earlier state, and others have written since."""
    (number,) = logged(store, LoggedChange(1, [], [5]))
    with store.read() as session:
        seen = written_at(session, number)
        assert written_at(session, number + 1) is None
    assert seen is not None
    logged(store, LoggedChange(2))
    with store.read() as session:
        assert [line.collection for line in changes_after(session, number, at=seen) or []] == [2]
    with store.write() as session:
        session.execute(update(ChangeRow).where(ChangeRow.seq == number).values(at=seen + timedelta(milliseconds=1)))
    with store.read() as session:
        assert changes_after(session, number, at=seen) is None


@pytest.mark.parametrize("wrong", [timedelta(hours=-1), timedelta(hours=1)])
def test_clocks_of_services_need_not_agree(
    make_postgres_store: Any, wrong: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither does one that is wrong have its lines dropped at once, nor does it drop those of others."""
    with Store(make_postgres_store()) as store:
        store.unlock(None)
        monkeypatch.setattr("service.store.clock.now", lambda: now() + wrong)
        (first,) = logged(store, LoggedChange(1))
        with store.read() as session:
            assert abs((written_at(session, first) or now()) - now()) < timedelta(minutes=1)
            assert abs(present(session) - now()) < timedelta(minutes=1)
        trim(store)
        assert len(after(store, 0) or []) == 1


def test_only_old_lines_are_dropped(store: Store) -> None:
    logged(store, LoggedChange(1))
    with store.write() as session:
        assert not has_old_changes(session, before=now() - timedelta(minutes=1))
        assert drop_old_changes(session, before=now() - timedelta(minutes=1)) == 0
        assert has_old_changes(session, before=now() + timedelta(minutes=1))
    assert len(after(store, 0) or []) == 1
