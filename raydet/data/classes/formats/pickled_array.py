"""Stand-ins for the five names that pickles of NumPy arrays use; none runs what a pickle expects behind it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.data.classes.formats.shown import quoted

_MOST_SIDES = 4
_LONGEST_SIDE = 1 << 32


class Refused(Exception):
    """The pickle holds something that the published files do not."""


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """What a pickle may call."""

    call: Callable[..., Any]


class DType:
    """Stands in for an instance of numpy.dtype: a name. Byte order and the like mean nothing for bytes."""

    __slots__ = ("is_byte",)

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.is_byte = isinstance(name, str | bytes) and name in ("u1", b"u1", "uint8", b"uint8")


class Array:
    """Stands in for an array until its content is known."""

    __slots__ = ("_pixels",)

    def __init__(self) -> None:
        self._pixels: NDArray[np.uint8] | None = None

    def set_state(self, state: Any) -> None:
        """Take over what `numpy.ndarray.__setstate__` is given."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("an array without a shape and content")
        _, shape, dtype, is_fortran, data = state
        self.fill(data, dtype, shape, is_fortran=is_fortran is True)

    def fill(self, data: Any, dtype: Any, shape: Any, *, is_fortran: bool) -> None:
        """Become an array of these bytes."""
        if not isinstance(dtype, DType) or not dtype.is_byte:
            raise Refused("an array of something other than bytes (uint8)")
        if not isinstance(shape, tuple) or len(shape) > _MOST_SIDES or not all(map(_is_side, shape)):
            raise Refused("an array whose shape is not a few whole numbers")
        if not isinstance(data, bytes | bytearray) or len(data) != math.prod(shape):
            raise Refused(f"an array whose content does not fit its shape {list(shape)}")
        self._pixels = np.frombuffer(data, dtype=np.uint8).reshape(shape, order="F" if is_fortran else "C")

    def finished(self) -> NDArray[np.uint8]:
        """Return the array itself."""
        if self._pixels is None:
            raise Refused("an array without content")
        return self._pixels


def known_function(name: str) -> Function:
    """Return what stands in for `module name`. Raises Refused for everything but five names."""
    found = _FUNCTIONS.get(name.replace("numpy._core.", "numpy.core.", 1))
    if found is None:
        raise Refused(f"the pickle asks for {quoted([name.replace(' ', '.', 1)])}, which is not allowed")
    return found


def _is_side(side: Any) -> bool:
    return type(side) is int and 0 <= side < _LONGEST_SIDE


def _no_array(*_: Any) -> None:
    raise Refused("the pickle calls numpy.ndarray, which is not allowed")


def _reconstruct(kind: Any, *_: Any) -> Array:
    if kind is not _NDARRAY:
        raise Refused("the pickle reconstructs something that is not an array")
    return Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """Stand in for what protocol 5 calls instead of `_reconstruct`."""
    array = Array()
    array.fill(data, dtype, shape, is_fortran=isinstance(order, str) and order == "F")
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    """Stand in for codecs.encode, as which Python 3 writes bytes into old protocols."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1", "latin-1", b"latin-1"):
        raise Refused("the pickle asks for an encoding other than latin1")
    return text.encode("latin-1")


_NDARRAY = Function(_no_array)
_FUNCTIONS = {
    "numpy ndarray": _NDARRAY,
    "numpy dtype": Function(DType),
    "numpy.core.multiarray _reconstruct": Function(_reconstruct),
    "numpy.core.numeric _frombuffer": Function(_from_buffer),
    "_codecs encode": Function(_encode),
}
