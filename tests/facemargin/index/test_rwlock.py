"""Readers together, writers alone, and no writer kept waiting for ever."""

import threading

import pytest

from facemargin.index import ReadersWriterLock

WAIT = 10.0


def test_readers_hold_it_together() -> None:
    lock, inside = ReadersWriterLock(), threading.Barrier(3, timeout=WAIT)

    def read() -> None:
        with lock.read():
            inside.wait()  # passes only when all three are inside at once

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert not inside.broken


def test_a_writer_excludes_everybody() -> None:
    lock, total, steps = ReadersWriterLock(), [0], 200

    def count() -> None:
        for _ in range(steps):
            with lock.write():
                before = total[0]
                threading.Event().wait(0)  # let others run between reading and writing
                total[0] = before + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert total[0] == 4 * steps


def test_a_waiting_writer_goes_before_later_readers() -> None:
    lock, order = ReadersWriterLock(), list[str]()
    writer_waits = threading.Event()

    def write() -> None:
        writer_waits.set()
        with lock.write():
            order.append("writer")

    def read() -> None:
        with lock.read():
            order.append("reader")

    with lock.read():
        writer = threading.Thread(target=write)
        writer.start()
        writer_waits.wait(WAIT)
        while not lock._writers_waiting:
            threading.Event().wait(0.001)
        reader = threading.Thread(target=read)
        reader.start()
        reader.join(0.05)
        assert order == []
    writer.join(WAIT)
    reader.join(WAIT)
    assert order == ["writer", "reader"]


def test_an_error_inside_lets_go() -> None:
    lock = ReadersWriterLock()
    for hold in (lock.read, lock.write):
        with pytest.raises(RuntimeError, match="inside"), hold():
            raise RuntimeError("inside")
    with lock.write():
        pass
