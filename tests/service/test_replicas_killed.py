"""Three service processes behind the proxy, killed in turn under load: nothing is lost and clients see no error."""

import shutil
import threading
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import URL

from facemargin.bundle import Bundle
from service.security import Scope, create_key
from service.store import Store
from service.store.audit import check_log

from .replicas import Watcher, Writer, proxied, running, together

WRITERS = 3


def killed_in_turn(
    store: URL, bundle: Bundle, folder: Path, vector: Any, *, kills: int, pause_s: float, master: bytes | None = None
) -> tuple[int, int]:
    """Kill the replicas one after another while clients write and search; how much was written and answered."""
    haproxy = shutil.which("haproxy")
    if haproxy is None:
        pytest.skip("haproxy is not installed (Debian's package)")
    with Store(store) as opened:
        opened.unlock(master)
        with opened.write() as session:
            key = create_key(session, label="", scopes=[Scope.ADMIN])
    secret = {} if master is None else {"MASTER_KEY": b64encode(master).decode()}
    with running(3, bundle.path, store, folder, **secret) as replicas, proxied(replicas, haproxy, folder) as url:
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx2.put(f"{url}/v1/collections/staff", headers=headers, timeout=20).status_code == 201
        writers = [Writer(number, url, key, bundle, vector, pause_s) for number in range(WRITERS)]
        watchers = [Watcher(replica, key, bundle, vector, writers, pause_s + 0.02) for replica in replicas]
        ended = threading.Event()
        threads, failed = together([*writers, *watchers], ended)
        for kill in range(kills):
            ended.wait(0.7)
            replica = replicas[kill % len(replicas)]
            replica.kill()
            ended.wait(0.3)
            replica.start()
            replica.wait()
        ended.wait(1.2)
        ended.set()
        for thread in threads:
            thread.join(180)
        if failed:
            raise failed[0]
        time.sleep(1.1)
        for watcher in watchers:
            check_everything(watcher, headers, most=10 * kills)
        logs = "".join(replica.log.read_text() for replica in replicas)
        assert "Traceback" not in logs, logs[-3000:]
    with Store(store) as opened:
        opened.unlock(master)
        with opened.read() as session:
            assert check_log(session).faults == ()
    return sum(writer.written for writer in writers), sum(watcher.seen for watcher in watchers)


def check_everything(watcher: Watcher, headers: dict[str, str], *, most: int) -> None:
    """Through one replica: every acknowledged face is there, and the last ones are found unless they were deleted."""
    with httpx2.Client(base_url=watcher.replica.url, headers=headers, timeout=20) as client:
        for writer in watcher.writers:
            for face in writer.faces[-most:]:
                assert face.id is not None
                assert watcher.look(client, face)
            for person in writer.people[-most:]:
                held = client.get(f"/v1/collections/staff/people/{person}/faces").json()["faces"]
                kept = [face.id for face in writer.faces if face.person == person and not face.leaving]
                assert sorted(face["id"] for face in held) == sorted(map(str, kept))


@pytest.mark.slow
def test_two_of_three_are_killed(make_postgres_store: Any, tiny_bundle: Bundle, tmp_path: Path, vector: Any) -> None:
    """On an encrypted store; the longer one is not."""
    written, answered = killed_in_turn(
        make_postgres_store(), tiny_bundle, tmp_path, vector, kills=2, pause_s=0.08, master=bytes(range(32))
    )
    assert written > 30
    assert answered > 30


@pytest.mark.slow
def test_they_are_killed_thirty_times(
    make_postgres_store: Any, tiny_bundle: Bundle, tmp_path: Path, vector: Any, capsys: Any
) -> None:
    written, answered = killed_in_turn(make_postgres_store(), tiny_bundle, tmp_path, vector, kills=30, pause_s=0.0)
    with capsys.disabled():
        print(f"\n30 kills: {written} writes acknowledged, {answered} searches as promised")
