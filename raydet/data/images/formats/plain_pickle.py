"""Reading the one kind of pickle that raydet accepts: dicts, lists, text, numbers and arrays of bytes.

CIFAR is published as pickles, and a pickle can run any code. Nothing in one does here: before anything is built, every
instruction is checked against a list, and the few functions that a NumPy array is written with are replaced by
stand-ins which only look at what they are given. Everything else that a file names is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.errors import DataError

_MAX_FILE = 1 << 28  # bytes; the largest published file (CIFAR-100, train) has 155 million
_MAX_MEMO = 1 << 22  # places of the memo, which is allocated up to the highest one a file names
_MAX_TUPLES = 32  # an array takes six; tuples of tuples can take forever to hash
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_TEXT = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "NONE", "NEWTRUE", "NEWFALSE")
_LISTS = ("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE")
_MACHINE = ("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "GET", "BINGET", "LONG_BINGET", "MEMOIZE")
_CALLS = ("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD")  # of the stand-ins below
_ALLOWED = _PUTS | _TUPLES | {*_TEXT, *_BYTES, *_NUMBERS, *_LISTS, *_MACHINE, *_CALLS}


def read_plain_pickle(file: Path) -> dict[str, Any]:
    """Return the dict that a pickle holds; its keys as text, other text of Python 2 as bytes, arrays as uint8.

    Raises DataError for a file that is damaged, too large, or holds anything else; nothing in it is executed.
    """
    data = _read(file)
    try:
        _check_instructions(data)
        return _named(_Unpickler(io.BytesIO(data), encoding="bytes").load())
    except _Refused as error:
        raise DataError(f"{file}: {error}; this is not a published CIFAR file, and nothing of it was run") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{file}: truncated or damaged ({error}); copy or download it again") from None


def _named(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise _Refused(f"it holds a {type(content).__name__} instead of a dict")
    texts = {key.decode("latin-1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}
    return {key: value.finished() if isinstance(value, _Array) else value for key, value in texts.items()}


class _Refused(Exception):
    """The pickle holds something that the published files do not."""


def _read(file: Path) -> bytes:
    try:
        if (size := file.stat().st_size) > _MAX_FILE:
            raise DataError(f"{file}: {size:,} bytes; a CIFAR file has at most {_MAX_FILE:,}")
        return file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None


def _check_instructions(data: bytes) -> None:
    """Look through a pickle without building anything; lengths are compared with what the file holds."""
    tuples = 0
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _ALLOWED:
            raise _Refused(f"the pickle instruction {opcode.name} is not allowed")
        if opcode.name in _PUTS and not 0 <= int(argument or 0) < _MAX_MEMO:
            raise _Refused(f"the pickle stores a value at place {argument} of its memo")
        tuples += opcode.name in _TUPLES
        if tuples > _MAX_TUPLES:
            raise _Refused(f"more than {_MAX_TUPLES} tuples")


class _Unpickler(pickle.Unpickler):
    """Knows five names, none of which stands for what a pickle expects behind it."""

    def find_class(self, module: str, name: str) -> _StandIn:
        known = _STAND_INS.get((module.replace("numpy._core.", "numpy.core."), name))
        if known is None:
            raise _Refused(f"the pickle asks for {module}.{name}, which is not allowed".replace("\n", " "))
        return known


class _StandIn:
    """What a pickle may call; an object without attributes that it could set."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("the pickle changes a function")


class _DType:
    """Stands in for an instance of numpy.dtype: a name."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like mean nothing for bytes."""


class _Array:
    """Stands in for an array until its content is known."""

    def __init__(self) -> None:
        self._pixels: NDArray[np.uint8] | None = None

    def __setstate__(self, state: Any) -> None:
        try:
            _, shape, dtype, is_fortran, data = state
        except (TypeError, ValueError):
            raise _Refused("an array without a shape and content") from None
        self.fill(data, dtype, shape, is_fortran=bool(is_fortran))

    def fill(self, data: Any, dtype: Any, shape: Any, *, is_fortran: bool) -> None:
        if not isinstance(dtype, _DType) or dtype.name not in ("u1", b"u1", "uint8", b"uint8"):
            raise _Refused("an array of something other than bytes (uint8)")
        sides = shape if isinstance(shape, tuple) and all(type(s) is int and s >= 0 for s in shape) else None
        if sides is None or not isinstance(data, bytes | bytearray) or len(data) != math.prod(sides):
            raise _Refused(f"an array whose content does not fit its shape {shape!r:.60}")
        self._pixels = np.frombuffer(data, dtype=np.uint8).reshape(sides, order="F" if is_fortran else "C")

    def finished(self) -> NDArray[np.uint8]:
        if self._pixels is None:
            raise _Refused("an array without content")
        return self._pixels


def _no_array(*_: Any) -> None:
    raise _Refused("the pickle calls numpy.ndarray, which is not allowed")


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _NDARRAY:
        raise _Refused("the pickle reconstructs something that is not an array")
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """Stand in for what protocol 5 calls instead of `_reconstruct`."""
    array = _Array()
    array.fill(data, dtype, shape, is_fortran=order == "F")
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    """Stand in for codecs.encode, as which Python 3 writes bytes into old protocols."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1", "latin-1", b"latin-1"):
        raise _Refused("the pickle asks for an encoding other than latin1")
    return text.encode("latin-1")


_NDARRAY = _StandIn(_no_array)
_STAND_INS = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _StandIn(_DType),
    ("numpy.core.multiarray", "_reconstruct"): _StandIn(_reconstruct),
    ("numpy.core.numeric", "_frombuffer"): _StandIn(_from_buffer),
    ("_codecs", "encode"): _StandIn(_encode),
}
