"""The restricted unpickler: what it admits, and that nothing of a hostile pickle is ever run."""

import pickle
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facemargin.errors import DataError
from training.data.protocols.restricted_pickle import plain, read_restricted

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Runs:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_an_evaluation_set_holds_is_read(protocol: int) -> None:
    held = ([b"\xff\xd8 one", b"\x00" * 300, b"x" * 70_000], [True, False], (1, 2, 3, 4), [], ())
    assert [_plain(part) for part in _sequence(read_restricted(pickle.dumps(held, protocol)))] == [
        [b"\xff\xd8 one", b"\x00" * 300, b"x" * 70_000],
        [True, False],
        [1, 2, 3, 4],
        [],
        [],
    ]


def _sequence(value: object) -> Any:
    assert isinstance(value, list | tuple)
    return value


def _plain(part: object) -> list[object]:
    return [plain(value) for value in _sequence(part)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])
def test_arrays_are_read_under_both_names_of_numpy(protocol: int, core: bytes) -> None:
    arrays = [np.arange(9, dtype=np.uint8), np.arange(6, dtype=np.uint8).reshape(3, 2), np.array([True, False])]
    data = pickle.dumps([*arrays, np.bool_(True)], protocol)
    if protocol < 4:  # the name stands as text, without a length
        data = data.replace(b"numpy._core", core)
    *read, flag = _plain(read_restricted(data))
    for array, found in zip(arrays, read, strict=True):
        assert isinstance(found, np.ndarray)
        assert found.dtype == array.dtype
        assert (found == array).all()
    assert flag is True


def test_a_pickle_of_python_2_is_read() -> None:
    picture = b"\xff\xd8\x00"
    binstring = b"T" + struct.pack("<i", len(picture)) + picture
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I3\ntcnumpy\ndtype\n(S'u1'\n"
        b"I0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\n" + binstring + b"tb"
    )
    data = b"\x80\x02(](" + binstring + array + b"e](I01\n\x89et."
    pictures, flags = _sequence(read_restricted(data))
    assert pictures[0] == picture
    assert plain(pictures[1]).tobytes() == picture  # type: ignore[attr-defined]
    assert flags == [True, False]


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    return tmp_path / "was-run"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: ([b"1", b"2"], [x]), lambda x: ([[[x]]], [True])])
def test_calls_are_refused_and_not_made(protocol: int, wrap: Callable[[object], object], trap: Path) -> None:
    import os

    code = f"open({str(trap)!r}, 'w')"
    hostile = {
        "system": Runs(os.system, f"touch {trap}"),
        "eval": Runs(eval, code),
        "exec": Runs(exec, code),
        "getattr": Runs(getattr, 1, "real"),
        "open": Runs(open, str(trap), "w"),
    }
    for name, call in hostile.items():
        data = pickle.dumps(wrap(call), protocol)
        with pytest.raises(DataError, match=rf"\.{name}|opcode .*refused, and nothing of it was run"):
            read_restricted(data)
        assert not trap.exists()
    pickle.loads(pickle.dumps(hostile["eval"], protocol)).close()
    assert trap.exists()  # the trap works: the plain unpickler falls into it


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", r"os\.system"),
        (b"(S'true'\nios\nsystem\n.", "opcode INST"),
        (b"(cos\nsystem\nS'true'\no.", "opcode OBJ"),
        (b"\x80\x02cos\nsystem\n)\x81.", "opcode NEWOBJ"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"P1\n.", "opcode PERSID"),
        (b"\x80\x02}.", "opcode EMPTY_DICT"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.", r"numpy\.ndarray\.dump"),
        (b"\x80\x02cnumpy\nload\n.", r"numpy\.load"),
        (b"\x80\x02cnumpy\ndtype\nU\x02O8\x85R.", "dtype 'O8'"),
        (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R.", "dtype 'f4'"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.", "encoding 'zlib'"),
    ],
)
def test_every_way_to_a_global_is_closed(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_restricted(data)


BOMBS = {
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "old bytes": b"\x80\x03B" + struct.pack("<I", 0xFFFF_FFFF) + b"x.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 50) + b"N.",
    "memo": b"\x80\x02Nr" + struct.pack("<I", 0x7FFF_FFFF) + b".",
    "memo as text": b"Np999999999999\n.",
    "array": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    + b"\x8a\x06" + b"\xff" * 5 + b"\x00\x85U\x01b\x87RN\x85b.",
    "number": b"L" + b"9" * 100_000 + b"L\n.",
    "opcodes": b"\x80\x02" + b"]" * 6_000_000 + b".",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_before_it_takes_memory(bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    if bomb == "opcodes":
        monkeypatch.setattr("training.data.protocols.restricted_pickle._MOST_OPCODES", 1000)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(DataError, match=r"refused|no pickle that can be read"):
        read_restricted(BOMBS[bomb])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert time.process_time() - start < 5


def test_deep_nesting_neither_recurses_nor_reads_as_a_set() -> None:
    depth = 50 * sys.getrecursionlimit()
    nested = read_restricted(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
    assert isinstance(nested, list)
    for _ in range(depth):  # taken apart level by level
        nested = nested[0] if nested else None
    assert nested is None


def test_an_array_cannot_claim_more_than_its_bytes() -> None:
    data = pickle.dumps(np.arange(4, dtype=np.uint8), 2)
    assert b"K\x04\x85" in data
    with pytest.raises(DataError, match="does not have the bytes that its shape says"):
        read_restricted(data.replace(b"K\x04\x85", b"K\x05\x85"))


@pytest.mark.parametrize("data", [b"", b"no pickle", b"\x80\x09N.", b"\x80\x02N", b"a.", b"\x80\x02Nb."])
def test_what_is_no_pickle_is_a_clear_error(data: bytes) -> None:
    with pytest.raises(DataError, match=r"no pickle that can be read|refused"):
        read_restricted(data)


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(DataError, match="5 bytes follow the end"):
        read_restricted(pickle.dumps([True]) + b"extra")


def test_every_truncation_of_a_set_is_refused() -> None:
    data = pickle.dumps(([b"one", np.arange(3, dtype=np.uint8)], [True]), 2)
    for end in range(len(data)):
        with pytest.raises(DataError):
            read_restricted(data[:end])


def test_one_text_cannot_be_copied_by_many_calls() -> None:
    text, calls = b"a" * 65_536, 200
    data = (
        b"\x80\x02](c_codecs\nencode\nq\x00X" + struct.pack("<I", len(text)) + text
        + b"q\x01X\x06\x00\x00\x00latin1q\x02" + b"h\x00h\x01h\x02\x86R" * calls + b"e."
    )  # fmt: skip
    with pytest.raises(DataError, match="its calls make more bytes than the file can hold: refused"):
        read_restricted(data)


@pytest.mark.parametrize("dtype", [b"b1", b"u1"])
def test_the_bytes_of_one_array_cannot_become_many(dtype: bytes) -> None:
    held, calls = b"\x01" * 65_536, 200
    one = b"h\x00(h\x01h\x02J" + struct.pack("<i", len(held)) + b"\x85U\x01CtR"
    data = (
        b"\x80\x03](cnumpy.core.numeric\n_frombuffer\nq\x00B" + struct.pack("<I", len(held)) + held + b"q\x01"
        b"cnumpy\ndtype\nU\x02" + dtype + b"\x85Rq\x02" + one * calls + b"e."
    )  # fmt: skip
    with pytest.raises(DataError, match="its calls make more bytes than the file can hold"):
        read_restricted(data)
    few = read_restricted(data.replace(one * calls, one))
    assert _plain(few)[-1].size == len(held)  # type: ignore[attr-defined]


def test_an_array_has_few_dimensions() -> None:
    data = pickle.dumps(np.ones(1, dtype=np.uint8), 2)
    assert b"K\x01\x85" in data
    with pytest.raises(DataError, match="an array of 40 dimensions is in it"):
        read_restricted(data.replace(b"K\x01\x85", b"(" + b"K\x01" * 40 + b"t"))


def test_a_frame_longer_than_the_file_is_named() -> None:
    with pytest.raises(DataError, match="a frame of 1,125,899,906,842,624 bytes is declared, more than the file has"):
        read_restricted(BOMBS["frame"])
