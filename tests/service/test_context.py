"""The parts of a service: whatever fails, the others end with it."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from facemargin.bundle import Bundle
from service import context
from service.app import create_app
from service.gate import Gate
from service.settings import Settings
from service.store import Store


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


@pytest.mark.parametrize("part", ["tracing_of_environment", "Store", "open_gallery", "key_ring", "Metrics", "Gauges"])
def test_a_part_that_cannot_be_made_leaves_none_of_the_others(
    tmp_path: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    settings = Settings(bundle=tiny_bundle.path, store=tmp_path / "store")
    closed, before = list[Store](), threads()
    close = Store.close
    monkeypatch.setattr(Store, "close", lambda store: (closed.append(store), close(store))[1])

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(context, part, fail)
    with pytest.raises(RuntimeError, match="no memory"):
        context.build_service(settings)
    assert threads() == before
    assert len(closed) == (part not in ("tracing_of_environment", "Store"))
    monkeypatch.undo()
    context.build_service(settings).close()  # the store is free again


def test_a_service_that_ends_in_an_error_is_closed(tmp_path: Path, tiny_bundle: Bundle) -> None:
    app = create_app(Settings(bundle=tiny_bundle.path, store=tmp_path / "store"))

    async def fail_within() -> None:
        async with app.router.lifespan_context(app):
            raise RuntimeError("the server failed")

    with pytest.raises(RuntimeError, match="the server failed"):
        asyncio.run(fail_within())
    with Store(tmp_path / "store") as store:
        store.claim()


def test_a_part_that_cannot_be_closed_does_not_keep_the_store(
    tmp_path: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = Gate.close

    def fail(gate: Gate) -> None:
        close(gate)
        raise RuntimeError("a thread hangs")

    monkeypatch.setattr(Gate, "close", fail)
    app = create_app(Settings(bundle=tiny_bundle.path, store=tmp_path / "store"))
    with pytest.raises(RuntimeError, match="a thread hangs"), TestClient(app):
        pass
    with Store(tmp_path / "store") as store:
        store.claim()
