"""Enrolling many pictures, against the service in this process."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from facemargin.client import Client, Retries
from facemargin.client.enrolment.bulk import Enrolment, Manner, Summary, pause
from facemargin.client.enrolment.journal import Journal
from facemargin.client.enrolment.sources import Entry, Someone, read_source
from facemargin.client.requests import MinQuality

Run = Callable[..., Summary]


@pytest.fixture
def run(client: Client, tmp_path: Path) -> Run:
    """Enrols entries into ``staff``."""

    def go(
        entries: list[Entry],
        *,
        using: Client | None = None,
        journal: str = "journal.jsonl",
        progress: Callable[[Summary], None] = lambda summary: None,
        stop: threading.Event | None = None,
        **manner: Any,
    ) -> Summary:
        collection = client.collection("staff")
        about = {"collection": "staff", "created_at": collection.created_at.isoformat()}
        with Journal(tmp_path / journal, about) as record:
            enrolment = Enrolment(
                using or client,
                collection,
                record,
                Manner(**{"aligned": True, "workers": 3} | manner),
                api_key=None,
                stop=stop or threading.Event(),
            )
            return enrolment.run(entries, progress)

    return go


@pytest.fixture
def entries(people_folder: Any) -> list[Entry]:
    return read_source(people_folder(4, 3)).entries


def counts(summary: Summary) -> tuple[int, int, int, int]:
    found = summary.counts
    return found["enrolled"], found["already"], found["duplicate"], found["failed"]


def test_everybody_is_made_once_and_has_their_pictures(run: Run, entries: Any, client: Client, everybody: Any) -> None:
    seen = list[int]()
    summary = run(entries, progress=lambda so_far: seen.append(so_far.counts.total()))
    assert (counts(summary), summary.stopped) == ((12, 0, 0, 0), None)
    assert seen == list(range(1, 13))
    assert {name: len(faces) for name, faces in everybody(client, "staff").items()} == {
        f"Person {number}": 3 for number in range(4)
    }


def test_a_second_run_does_nothing_and_without_its_journal_adds_nothing(
    run: Run, entries: Any, client: Client, everybody: Any, transport: Any
) -> None:
    run(entries)
    before = everybody(client, "staff")
    transport.requests.clear()
    assert counts(run(entries)) == (0, 12, 0, 0)
    assert [request.method for request in transport.requests] == ["GET"]  # the collection, and nothing more
    assert counts(run(entries, journal="lost.jsonl")) == (12, 0, 0, 0)
    assert counts(run(entries, journal="other-options.jsonl", min_quality=MinQuality(score=None, sharpness=0))) == (
        0,
        12,
        0,
        0,
    )
    assert everybody(client, "staff") == before


def test_people_of_the_collection_are_found_by_name_or_id(
    run: Run, client: Client, everybody: Any, people_folder: Any
) -> None:
    root = people_folder(3, 1)
    ada = client.add_person("staff", "Ada").id
    end = datetime(2099, 1, 1, tzinfo=UTC)
    run(
        [
            Entry(root / "Person 0" / "0.png", Someone("Ada")),
            Entry(root / "Person 1" / "0.png", Someone("", ada)),
            Entry(root / "Person 2" / "0.png", Someone("Eve", None, end)),
        ]
    )
    assert {name: len(faces) for name, faces in everybody(client, "staff").items()} == {"Ada": 2, "Eve": 1}
    assert [person.expires_at for person in client.people("staff")] == [None, end]


def test_failures_are_collected_and_the_others_go_on(
    run: Run, client: Client, people_folder: Any, everybody: Any
) -> None:
    root = people_folder(2, 1)
    (root / "Person 0" / "text.png").write_bytes(b"text")
    twin = [client.add_person("staff", "Twin") for _ in range(2)]
    good = root / "Person 0" / "0.png"
    summary = run(
        [
            *read_source(root).entries,
            Entry(root / "absent.png", Someone("Person 0")),
            Entry(good, Someone("Twin")),
            Entry(good, Someone("", "p_nobody")),
            Entry(good, Someone("Other", twin[0].id)),
            Entry(root / "Person 1" / "0.png", Someone("Person 0")),
        ]
    )
    assert counts(summary) == (3, 0, 0, 5)
    assert sorted(
        (item.problem, item.entry.person.name or item.entry.person.person_id) for item in summary.failures
    ) == [
        ("file", "Person 0"),
        ("not-found", "p_nobody"),
        ("person", "Other"),
        ("person", "Twin"),
        ("unsupported-image", "Person 0"),
    ]
    reasons = " ".join(item.reason for item in summary.failures)
    assert "No such file" in reasons
    assert "several people of the collection are named 'Twin'; say which by a person_id" in reasons
    assert f"person {twin[0].id} is 'Twin' in the collection, and 'Other' here" in reasons


def test_the_same_picture_of_a_person_twice_is_a_duplicate(
    run: Run, client: Client, people_folder: Any, everybody: Any
) -> None:
    root = people_folder(1, 1)
    (root / "Person 0" / "copy.png").write_bytes((root / "Person 0" / "0.png").read_bytes())
    one_by_one = counts(run(read_source(root).entries, workers=1))
    assert one_by_one == (1, 1, 0, 0)  # the journal knows it by then
    assert [len(faces) for faces in everybody(client, "staff").values()] == [1]


def test_somebody_who_was_erased_is_made_again(run: Run, entries: Any, client: Client, everybody: Any) -> None:
    run(entries)
    for person in list(client.people("staff")):
        client.delete_person("staff", person.id)
    assert counts(run(entries, journal="new.jsonl")) == (12, 0, 0, 0)
    assert len(everybody(client, "staff")) == 4


def test_who_also_matches_somebody_else_is_told(run: Run, people_folder: Any) -> None:
    root = people_folder(1, 2)
    one, other = sorted((root / "Person 0").iterdir())
    summary = run([Entry(one, Someone("Ada")), Entry(other, Someone("Grace"))], workers=1)
    [(image, detail)] = summary.resemblances
    assert image == str(other)
    assert "'Ada'" in detail


@pytest.mark.parametrize(
    ("status", "slug"),
    [(401, "unauthenticated"), (403, "forbidden"), (409, "model-mismatch"), (503, "detector-missing")],
)
def test_what_would_meet_every_picture_ends_the_run(
    run: Run, entries: Any, script: Any, status: int, slug: str
) -> None:
    body = {"type": f"urn:facemargin:problem:{slug}", "status": status, "title": "No", "detail": "no, no"}
    transport, sent = script(
        *[httpx.Response(status, json=body, headers={"Content-Type": "application/problem+json"})] * 50
    )
    with Client("http://service", transport=transport, retries=None) as refused:
        summary = run(entries, using=refused)
    assert summary.stopped is not None
    assert "no, no" in summary.stopped
    assert (counts(summary), len(sent) <= 3) == ((0, 0, 0, 0), True)


def test_a_stop_ends_waits_and_what_is_left_is_left(run: Run, entries: Any, client: Client, everybody: Any) -> None:
    stop = threading.Event()

    def after_five(summary: Summary) -> None:
        if summary.counts.total() == 5:
            stop.set()

    summary = run(entries, progress=after_five, stop=stop)
    assert 5 <= summary.counts.total() <= 7
    assert sum(map(len, everybody(client, "staff").values())) == summary.counts.total()
    assert counts(run(entries))[:2] == (12 - summary.counts.total(), summary.counts.total())


def test_a_wait_between_tries_ends_with_the_run(run: Run, entries: Any, script: Any) -> None:
    stop = threading.Event()
    transport, _ = script(*[httpx.Response(429, headers={"Retry-After": "50"})] * 50)
    with Client("http://service", transport=transport, retries=Retries(deadline=100), sleep=pause(stop)) as busy:
        threading.Timer(0.2, stop.set).start()
        summary = run(entries, using=busy, stop=stop)
    assert counts(summary) == (0, 0, 0, 0)


def test_ctrl_c_lets_what_is_under_way_finish(
    run: Run, entries: Any, monkeypatch: pytest.MonkeyPatch, client: Client, everybody: Any
) -> None:
    begun = threading.Event()

    def interrupted(workers: Any) -> None:
        assert begun.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr("facemargin.client.enrolment.bulk.wait", interrupted)
    summary = run(entries, progress=lambda _: begun.set())
    assert summary.stopped == "interrupted"
    assert sum(map(len, everybody(client, "staff").values())) == summary.counts["enrolled"]


def test_keys_cannot_be_guessed_without_the_api_key(client: Client, tmp_path: Path) -> None:
    collection = client.collection("staff")
    with Journal(tmp_path / "j", {}) as journal:
        made = [
            Enrolment(client, collection, journal, Manner(), api_key=key, stop=threading.Event())._key("person", "Ada")
            for key in ("fm_1", "fm_2", "fm_1")
        ]
    assert made[0] == made[2] != made[1]


def test_a_journal_that_cannot_be_written_ends_the_run(
    run: Run, entries: Any, monkeypatch: pytest.MonkeyPatch, client: Client, everybody: Any
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", full)
        summary = run(entries)
    assert summary.stopped is not None
    assert "cannot be written: No space left on device" in summary.stopped
    assert summary.failures == []
    run(entries)
    assert sum(map(len, everybody(client, "staff").values())) == 12
