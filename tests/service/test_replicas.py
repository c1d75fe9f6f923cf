"""Three service processes on one PostgreSQL: what is written through one is so in all of them within a second."""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from sqlalchemy import URL

from facemargin.bundle import Bundle
from service.rate_limits import burst
from service.security import Scope, create_key
from service.store import Store
from service.store.change_log import drop_old_changes
from service.store.keys import KeyLimits
from service.store.tables import now
from tests.postgres import OwnServer, execute

from .replicas import PROMISED_S, Replica, running

PEOPLE = "/v1/collections/staff/people"


class Three:
    """Three processes, a client of each, and the key that all of them know."""

    def __init__(self, replicas: list[Replica], store: URL, bundles: list[Bundle], key: str, parts: ExitStack) -> None:
        self.replicas, self.store, self.bundles, self.key = replicas, store, bundles, key
        self.model = bundles[0].model_id
        self.clients = [parts.enter_context(self.client(replica, key)) for replica in replicas]

    def client(self, replica: Replica, key: str) -> httpx2.Client:
        return httpx2.Client(base_url=replica.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)

    def place(self) -> str:
        return self.store.render_as_string(hide_password=False)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "facemargin", *arguments], capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture(scope="module")
def three(
    own_server: OwnServer, tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Bundle, make_tiny_bundle: Any
) -> Iterator[Three]:
    folder, store, other = tmp_path_factory.mktemp("three"), own_server.database(), make_tiny_bundle(seed=9)
    with Store(store) as opened:
        opened.unlock(None)
        with opened.write() as session:
            key = create_key(session, label="", scopes=[Scope.ADMIN])
    more = f'["{other.path}"]'
    with ExitStack() as parts:
        replicas = parts.enter_context(running(3, tiny_bundle.path, store, folder, MORE_BUNDLES=more))
        made = Three(replicas, store, [tiny_bundle, other], key, parts)
        assert made.clients[0].put("/v1/collections/staff").status_code == 201
        yield made


def sent(client: httpx2.Client, path: str, status: int = 201, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def found(client: httpx2.Client, model: str, vector: Any, collection: str = "staff") -> list[str]:
    body = {"embedding": vector.tolist(), "model": model, "threshold": 0.999}
    reply = sent(client, f"/v1/collections/{collection}/search", 200, **body)
    return [candidate["person"]["id"] for candidate in reply["candidates"]]


def until(holds: Callable[[], bool], since: float, longest: float = PROMISED_S) -> float:
    """Seconds until something holds."""
    while not holds():
        assert time.monotonic() - since < longest, "not within the time that is promised"
        time.sleep(0.005)
    return time.monotonic() - since


def test_a_face_is_found_through_the_others_and_gone_from_them_within_a_second(three: Three, vector: Any) -> None:
    follow(three, vector, times=6)


def seen_by_all(
    three: Three, here: httpx2.Client, others: list[httpx2.Client], probe: Any, people: list[str]
) -> list[float]:
    """Seconds until the others find the same people as the one that wrote, which does so at once."""
    since = time.monotonic()
    assert found(here, three.model, probe) == people

    def wait(there: httpx2.Client) -> float:
        return until(lambda: found(there, three.model, probe) == people, since)

    with ThreadPoolExecutor(len(others)) as threads:
        return list(threads.map(wait, others))


def follow(three: Three, vector: Any, *, times: int) -> dict[str, list[float]]:
    """Seconds from the reply to a write through one replica until another one answers accordingly."""
    took: dict[str, list[float]] = {"enrolled": [], "deleted": []}
    for number in range(times):
        here, *others = [three.clients[(number + k) % 3] for k in range(3)]
        person, probe = sent(here, PEOPLE, name="Ada")["id"], vector(5000 + number)
        face = sent(here, f"{PEOPLE}/{person}/faces", embedding=probe.tolist(), model=three.model)["id"]
        took["enrolled"] += seen_by_all(three, here, others, probe, [person])
        assert here.delete(f"{PEOPLE}/{person}/faces/{face}").status_code == 204
        took["deleted"] += seen_by_all(three, here, others, probe, [])
    return took


@pytest.mark.slow
def test_how_soon_replicas_follow(three: Three, vector: Any, capsys: pytest.CaptureFixture[str]) -> None:
    took = follow(three, vector, times=100)
    with capsys.disabled():
        for what, seconds in took.items():
            p99 = statistics.quantiles(seconds, n=100)[98]
            print(
                f"\n{what}: n {len(seconds)}, p50 {1000 * statistics.median(seconds):.0f} ms, p99 {1000 * p99:.0f} ms, "
                f"max {1000 * max(seconds):.0f} ms"
            )


@pytest.mark.slow
def test_what_following_costs(three: Three, capsys: pytest.CaptureFixture[str]) -> None:
    """Transactions a second that three idle replicas begin, as the server counts them, and their share of a core."""
    counted = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'facemargin'"
    processes = [psutil.Process(replica.pid) for replica in three.replicas]

    def state() -> tuple[int, float]:
        times = [process.cpu_times() for process in processes]
        return execute(three.store, counted)[0][0], sum(each.user + each.system for each in times)

    before = state()
    time.sleep(20)
    after = state()
    with capsys.disabled():
        print(
            f"\nthree idle replicas: {(after[0] - before[0]) / 60:.1f} transactions a second each, "
            f"{(after[1] - before[1]) / 60:.3f} of a core each"
        )


def test_a_deleted_person_is_served_by_nobody_from_the_reply_on(three: Three, vector: Any) -> None:
    for number in range(6):
        here, *others = [three.clients[(number + k) % 3] for k in range(3)]
        person, probe = sent(here, PEOPLE, name="Ada")["id"], vector(6000 + number)
        sent(here, f"{PEOPLE}/{person}/faces", embedding=probe.tolist(), model=three.model)
        since = time.monotonic()
        until(lambda there=others[0], who=person, v=probe: found(there, three.model, v) == [who], since)
        assert here.delete(f"{PEOPLE}/{person}").status_code == 204
        for there in others:
            assert found(there, three.model, probe) == []


def test_a_collection_that_is_deleted_and_made_again_is_empty_everywhere(three: Three, vector: Any) -> None:
    one, two, other = three.clients
    for _ in range(2):
        assert one.put("/v1/collections/visitors").status_code == 201
        person = sent(one, "/v1/collections/visitors/people", name="Ada")["id"]
        face = {"embedding": vector(7000).tolist(), "model": three.model}
        sent(one, f"/v1/collections/visitors/people/{person}/faces", **face)
        since = time.monotonic()
        until(lambda who=person: found(other, three.model, vector(7000), "visitors") == [who], since)
        assert two.delete("/v1/collections/visitors").status_code == 204
        assert other.get("/v1/collections/visitors").status_code == 404


def test_a_model_that_is_switched_through_one_is_switched_in_all(three: Three, crop: Any) -> None:
    one, two, other = three.clients
    assert one.put("/v1/collections/moving", json={"keep_crops": True}).status_code == 201
    person = sent(one, "/v1/collections/moving/people", name="Ada")["id"]
    picture = {"image": b64encode(crop(1)).decode(), "aligned": True}
    sent(one, f"/v1/collections/moving/people/{person}/faces", **picture)
    target = three.bundles[1].model_id
    assert two.put("/v1/collections/moving/upgrade", json={"model": target}).status_code == 200
    since = time.monotonic()
    until(lambda: one.post("/v1/collections/moving/upgrade/switch").status_code == 200, since, longest=30.0)
    for client in (one, two, other):
        reply = sent(client, "/v1/collections/moving/search", 200, threshold=0.99, **picture)
        assert (reply["model"], [found["person"]["id"] for found in reply["candidates"]]) == (target, [person])
    assert other.post("/v1/collections/moving/upgrade/rollback").status_code == 200
    for client in (one, two, other):
        reply = sent(client, "/v1/collections/moving/search", 200, threshold=0.99, **picture)
        assert (reply["model"], [found["person"]["id"] for found in reply["candidates"]]) == (three.model, [person])


def test_keys_that_the_command_makes_and_revokes_count_everywhere_within_a_second(three: Three) -> None:
    made = three.command("keys", "add", "--store", three.place(), "--scope", "read", "--json")
    since = time.monotonic()
    key = json.loads(made.stdout)
    clients = [three.client(replica, key["key"]) for replica in three.replicas]

    def statuses() -> set[int]:
        return {client.get("/v1/collections").status_code for client in clients}

    until(lambda: statuses() == {200}, since)
    assert three.command("keys", "revoke", "--store", three.place(), key["id"]).returncode == 0
    until(lambda: statuses() == {401}, time.monotonic())
    for client in clients:
        client.close()


def test_a_limit_counts_what_all_of_them_let_in(three: Three) -> None:
    """60 a minute: a burst of 10, one more for each further replica where all are asked at once, then one a second."""
    with Store(three.store) as opened:
        opened.unlock(None)
        with opened.write() as session:
            key = create_key(session, label="", scopes=[Scope.READ], limits=KeyLimits(requests_per_minute=60))
    time.sleep(1.0)
    started, answers = time.monotonic(), Counter[int]()

    def ask(replica: Replica) -> list[int]:
        with three.client(replica, key) as client:
            said = []
            while time.monotonic() - started < 3.0:
                said.append(client.get("/v1/collections").status_code)
                time.sleep(0.02)
            return said

    with ThreadPoolExecutor(3) as threads:
        for said in threads.map(ask, three.replicas):
            answers.update(said)
    elapsed = time.monotonic() - started
    assert set(answers) == {200, 429}
    assert burst(60) <= answers[200] <= 3 * burst(60) + elapsed
    time.sleep(0.5)
    with ExitStack() as parts:
        left = [parts.enter_context(three.client(replica, key)).get("/v1/collections") for replica in three.replicas]
    if answers[200] > 20:  # what was let in too much is paid back before anything else is
        assert [answer.status_code for answer in left] == [429] * 3


def test_the_same_write_through_two_at_the_same_time_is_done_once(three: Three) -> None:
    for number in range(8):
        ready = threading.Barrier(2)

        def write(client: httpx2.Client, number: int = number, ready: threading.Barrier = ready) -> Any:
            ready.wait()
            return client.post(PEOPLE, json={"name": "once"}, headers={"Idempotency-Key": f"both-{number}"})

        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(write, three.clients[:2]))
        assert [answer.status_code for answer in answers] == [201, 201]
        assert answers[0].json() == answers[1].json()
        assert sorted(answer.headers.get("idempotency-replayed", "") for answer in answers) == ["", "true"]
    listed = three.clients[2].get(PEOPLE, params={"name": "once", "limit": 100}).json()
    assert len(listed["people"]) == 8


def test_one_with_another_model_is_refused_and_told_why(three: Three, make_tiny_bundle: Any) -> None:
    ended = three.command(
        "serve", "--bundle", str(make_tiny_bundle(seed=3).path), "--store", three.place(), "--port", "0"
    )
    assert ended.returncode == 2
    assert "is running and differs: here models" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_one_that_slept_longer_than_the_log_reaches_back_serves_nothing_old(three: Three, vector: Any) -> None:
    here, there = three.clients[0], three.clients[2]
    people = [sent(here, PEOPLE, name="Ada")["id"] for _ in range(2)]
    sent_faces = [
        sent(here, f"{PEOPLE}/{person}/faces", embedding=vector(8500 + n).tolist(), model=three.model)["id"]
        for n, person in enumerate(people)
    ]
    until(lambda: found(there, three.model, vector(8501)) == [people[1]], time.monotonic())
    os.kill(three.replicas[2].pid, signal.SIGSTOP)
    try:
        assert here.delete(f"{PEOPLE}/{people[1]}/faces/{sent_faces[1]}").status_code == 204
        sent(here, f"{PEOPLE}/{people[0]}/faces", embedding=vector(8502).tolist(), model=three.model)
        with Store(three.store) as opened, opened.write() as session:
            assert drop_old_changes(session, before=now() + timedelta(minutes=1)) > 0
        time.sleep(PROMISED_S)
    finally:
        os.kill(three.replicas[2].pid, signal.SIGCONT)
    assert found(there, three.model, vector(8501)) == []  # from the first search on
    assert found(there, three.model, vector(8502)) == [people[0]]
    assert "does not reach back" in three.replicas[2].log.read_text()


def stopped(server: OwnServer, number: signal.Signals) -> None:
    parent = psutil.Process(int((server.folder / "postmaster.pid").read_text().splitlines()[0]))
    for process in (parent, *parent.children()):
        os.kill(process.pid, number)


def test_while_the_database_hangs_nothing_old_is_served_and_all_comes_back_by_itself(
    three: Three, own_server: OwnServer, vector: Any
) -> None:
    here, there, _ = three.clients
    person = sent(here, PEOPLE, name="Ada")["id"]
    sent(here, f"{PEOPLE}/{person}/faces", embedding=vector(8000).tolist(), model=three.model)
    until(lambda: found(there, three.model, vector(8000)) == [person], time.monotonic())
    body = {"embedding": vector(8000).tolist(), "model": three.model, "threshold": 0.999}
    stopped(own_server, signal.SIGSTOP)
    try:
        time.sleep(PROMISED_S)
        for _ in range(3):
            started = time.monotonic()
            answer = there.post("/v1/collections/staff/search", json=body)
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True), answer.text
            assert time.monotonic() - started < 2.0
        started = time.monotonic()
        assert there.get("/health/live").status_code == 200
        assert time.monotonic() - started < 0.5
        ready = there.get("/health/ready")
        assert ready.status_code == 503
        assert "does not answer" in ready.json()["detail"]
    finally:
        stopped(own_server, signal.SIGCONT)
    until(lambda: there.get("/health/ready").status_code == 200, time.monotonic(), longest=5.0)
    assert found(there, three.model, vector(8000)) == [person]


def test_tables_that_a_newer_program_changed_are_not_written_to(three: Three) -> None:
    """The last of this file: it leaves the store as it was."""
    client = three.clients[0]
    version = execute(three.store, "SELECT version_num FROM alembic_version")[0][0]
    execute(three.store, "UPDATE alembic_version SET version_num = '0099'")
    try:
        answer = client.post(PEOPLE, json={"name": "Ada"})
        assert answer.status_code == 503
        assert "tables of version 99" in answer.json()["detail"]
        until(lambda: client.get("/health/ready").status_code == 503, time.monotonic(), longest=3.0)
        assert "tables of version 99" in client.get("/health/ready").json()["detail"]
    finally:
        execute(three.store, f"UPDATE alembic_version SET version_num = '{version}'")
    until(lambda: client.get("/health/ready").status_code == 200, time.monotonic(), longest=3.0)
    sent(client, PEOPLE, name="Ada")


def test_they_left_no_error_in_their_logs(three: Three) -> None:
    for replica in three.replicas:
        text = Path(replica.log).read_text()
        assert "Traceback" not in text, text[-3000:]
