"""Reading a pickle of lists, bytes, bools and small NumPy arrays without running anything that it asks for.

Three walls. First, every opcode is looked at before any is run: only those that such a pickle needs are admitted, none
may declare more bytes than the file has, and their number is bounded. Second, a global can only be one of a closed
list. Third, what stands behind these names are the classes below, which only keep, copy or view the bytes that they
are given: NumPy's own constructors are never called. Because one text can be passed to many calls, the bytes of all of
them count against a budget of twice the file: an honest pickle makes each of its bytes into bytes once, and into an
array once. So the memory grows with the length of the file and the number of its opcodes, and with nothing else.

Everything else is refused with its name. Owns no meaning: `insightface_bin` knows what should be in the pickle.
"""

import math
import pickle
import pickletools
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import DataError

_MOST_OPCODES = 5_000_000  # the largest published set has 28,000 pictures at some 30 opcodes each

_MOST_DIMENSIONS = 32  # of an array; more only serve to make the product of its sides a long computation

_OPCODES = frozenset(
    [
        "PROTO",
        "FRAME",
        "STOP",
        "MARK",
        "EMPTY_LIST",
        "LIST",
        "APPEND",
        "APPENDS",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "SHORT_BINBYTES",
        "BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "PUT",
        "BINPUT",
        "LONG_BINPUT",
        "MEMOIZE",
        "GET",
        "BINGET",
        "LONG_BINGET",
        "GLOBAL",
        "STACK_GLOBAL",
        "REDUCE",
        "BUILD",
    ]
)


class _Budget:
    """Bytes that the calls of one pickle may still make."""

    def __init__(self, size: int) -> None:
        self.left = 2 * size

    def spend(self, count: int) -> None:
        """Take bytes off before they are made.

        Raises:
            DataError: more than are left.
        """
        self.left -= count
        if self.left < 0:
            raise DataError("its calls make more bytes than the file can hold")


class _Dtype:
    """A dtype of one byte; any other is refused."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        text = name.decode("latin-1") if isinstance(name, bytes) else name
        if text.lstrip("|") not in ("u1", "uint8", "b1", "?", "bool"):
            raise DataError(f"an array of dtype {text!r:.40} is in it; only uint8 and bool are admitted")
        self.bool = text.lstrip("|") in ("b1", "?", "bool")

    def __setstate__(self, state: tuple[object, ...]) -> None:
        """Byte order and the like mean nothing for one byte."""


class _Ndarray:
    """Stands for the name ``numpy.ndarray``, which pickles pass to `_Reconstruct`."""


class _Reconstruct:
    """An array that its state will fill; the shape that it is made with is ignored, so that it costs nothing."""

    def __init__(self, budget: _Budget, *_: object) -> None:
        self.budget = budget
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, data = state
        self.array = _array(self.budget, data, dtype, shape)


class _FromBuffer(_Reconstruct):
    """An array of pickle protocol 5: its bytes come first, not as a state."""

    def __init__(self, budget: _Budget, data: bytes, dtype: _Dtype, shape: tuple[int, ...], *_: object) -> None:
        super().__init__(budget)
        self.array = _array(budget, data, dtype, shape)


class _Scalar:
    """A NumPy number of one byte."""

    def __init__(self, budget: _Budget, dtype: _Dtype, data: bytes) -> None:
        self.value = _array(budget, data, dtype, (1,))[0].item()


class _Encoded:
    """Bytes that pickle protocol 2 wrote as text."""

    def __init__(self, budget: _Budget, text: str, encoding: str) -> None:
        if encoding not in ("latin1", "latin-1"):
            raise DataError(f"bytes in the encoding {encoding!r:.40} are in it; only latin1 is admitted")
        budget.spend(len(text))
        self.value = text.encode("latin-1")


_PLAIN: dict[tuple[str, str], Callable[..., object]] = {("numpy", "ndarray"): _Ndarray, ("numpy", "dtype"): _Dtype}
_MAKERS: dict[tuple[str, str], Callable[..., object]] = {
    ("_codecs", "encode"): _Encoded,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
}


class _Restricted(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(BytesIO(data), encoding="bytes")
        self.budget = _Budget(len(data))

    def find_class(self, module: str, name: str) -> Any:
        """One of the closed lists; nothing is ever imported."""
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        if (module, name) not in _MAKERS:
            raise DataError(f"it asks for the global {module}.{name}".replace("\n", " ")[:200])
        return partial(_MAKERS[module, name], self.budget)


def read_restricted(data: bytes) -> object:
    """The lists, tuples, bytes, text, bools, whole numbers and uint8 or bool arrays of a pickle.

    Text of Python 2 comes as bytes. Arrays and what `plain` turns into values are found below lists as they are.

    Raises:
        DataError: anything else in the pickle, or no pickle at all. Nothing that it asks for was run.
    """
    try:
        _look_at_every_opcode(data)
        return _Restricted(data).load()
    except DataError as error:
        raise DataError(f"{error}: refused, and nothing of it was run") from error
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        EOFError,
        OverflowError,
    ) as error:
        raise DataError(f"no pickle that can be read ({error})") from error


def plain(value: object) -> object:
    """An array, number or bytes that came by one of the admitted globals; anything else as it is."""
    if isinstance(value, _Reconstruct):
        return value.array
    return value.value if isinstance(value, _Scalar | _Encoded) else value


def _array(budget: _Budget, data: object, dtype: object, shape: object) -> NDArray[Any]:
    data = plain(data)
    if not (isinstance(data, bytes | bytearray) and isinstance(dtype, _Dtype) and isinstance(shape, tuple)):
        raise DataError("an array in it is not made of bytes, a dtype and a shape")
    if len(shape) > _MOST_DIMENSIONS:
        raise DataError(f"an array of {len(shape):,} dimensions is in it")
    if not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) != len(data):
        raise DataError("an array in it does not have the bytes that its shape says")
    budget.spend(len(data))
    values = np.frombuffer(data, dtype=np.uint8).reshape(shape)
    return values != 0 if dtype.bool else values


def _look_at_every_opcode(data: bytes) -> None:
    memo, end = 0, 0
    for count, (opcode, argument, place) in enumerate(pickletools.genops(data)):
        name, position = opcode.name, place or 0
        if name not in _OPCODES:
            raise DataError(f"the pickle opcode {name} is in it")
        if count >= _MOST_OPCODES:
            raise DataError(f"it has more than {_MOST_OPCODES:,} opcodes")
        number = argument if isinstance(argument, int) else 0
        if name == "FRAME" and number > len(data) - position:
            raise DataError(f"a frame of {number:,} bytes is declared, more than the file has")
        memo += name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
        if name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= number <= memo:
            raise DataError(f"the memo number {number:,} is in it after {memo:,} objects")
        end = position + 1
    if end != len(data):
        raise DataError(f"{len(data) - end:,} bytes follow the end of the pickle")
