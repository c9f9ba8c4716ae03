"""Arrays of numbers in MATLAB 5 files, of which SVHN is published.

SciPy's reader is not for files of strangers: it looks types up in a table without asking whether they are in there, and
a damaged file ends the process. Here, what a file announces is compared with what it has room for.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_HEADER = 128  # bytes: a text, the version, the order of bytes
_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_KINDS = (
    "unknown", "cell", "struct", "object", "char", "sparse", "double", "single", "int8", "uint8", "int16", "uint16",
    "int32", "uint32", "int64", "uint64",
)  # fmt: skip
_LOGICAL, _COMPLEX = 0x200, 0x800  # flags
_MOST_VARIABLES = 100
_MOST_SIDES = 32
_OPENING = 1 << 12  # bytes of a variable, in which all about it must be said
_CHUNK = 1 << 22


class BrokenFile(ValueError):
    """A file that is cut off, damaged, or of another kind."""


@dataclass(frozen=True, slots=True)
class Variable:
    """What a file says about one of its variables."""

    file: Path
    name: str
    kind: str  # "uint8", "double", "cell"
    shape: tuple[int, ...]
    type: str  # of the numbers as stored, for NumPy; empty where they are none
    place: int  # in the file, where its content begins
    stored: int  # bytes there
    is_compressed: bool
    start: int  # of the numbers, in the content
    size: int  # of the numbers, in bytes

    def read(self) -> NDArray[Any]:
        """Return the numbers in the type in which they are stored. Raises BrokenFile."""
        if not self.type or self.size != math.prod(self.shape) * np.dtype(self.type).itemsize:
            raise BrokenFile(f"{self.size:,} bytes are no {self.kind} {list(self.shape)}")
        end = self.start + self.size
        with self.file.open("rb") as stream:
            stream.seek(self.place)
            content = _unpacked(stream, self.stored, end) if self.is_compressed else stream.read(min(end, self.stored))
        if len(content) < end:
            raise BrokenFile(f"{self.name} is cut off")
        numbers = memoryview(content)[self.start : end]
        return np.ndarray(self.shape, dtype=self.type, buffer=numbers, order="F")


def list_variables(file: Path) -> list[Variable]:
    """Return what a file holds. Raises BrokenFile where that is not known, OSError where it cannot be read."""
    found: list[Variable] = []
    with file.open("rb") as stream:
        length, order = file.stat().st_size, _ORDERS.get(stream.read(_HEADER)[124:])
        if order is None:
            raise BrokenFile("not the beginning of a MATLAB 5 file")
        place = _HEADER
        while place < length:
            stream.seek(place)
            try:
                kind, stored = struct.unpack(f"{order}2I", stream.read(8))
                if kind not in (_MATRIX, _COMPRESSED) or place + 8 + stored > length:
                    raise BrokenFile("cut off")
                opening = stream.read(min(stored, _OPENING))
                found.append(_variable(file, opening, order, kind == _COMPRESSED, place + 8, stored))
            except (struct.error, zlib.error) as error:
                raise BrokenFile(str(error)) from None
            if len(found) > _MOST_VARIABLES:
                raise BrokenFile(f"more than {_MOST_VARIABLES} variables")
            place += 8 + stored
    return found


def _variable(file: Path, opening: bytes, order: str, is_compressed: bool, place: int, stored: int) -> Variable:
    """Read what is said about a variable: flags, shape and name, then the tag of its numbers."""
    at = 0
    if is_compressed:  # it holds the variable with a tag of its own
        opening, at = zlib.decompressobj().decompress(opening, _OPENING), 8
        if struct.unpack_from(f"{order}I", opening) != (_MATRIX,):
            raise BrokenFile("compressed, but no variable")
    _, start, _, at = _element(opening, at, order)
    (flags,) = struct.unpack_from(f"{order}I", opening, start)
    _, start, size, at = _element(opening, at, order)
    if size > 4 * _MOST_SIDES:
        raise BrokenFile(f"a shape of {size:,} bytes")
    shape = struct.unpack_from(f"{order}{size // 4}i", opening, start)
    if min(shape, default=0) < 0:
        raise BrokenFile(f"a shape of {list(shape)}")
    _, start, size, at = _element(opening, at, order)
    name = opening[start : start + size].decode("latin-1")
    kind = _KINDS[flags & 0xFF] if flags & 0xFF < len(_KINDS) else _KINDS[0]
    type, start, size, _ = _element(opening, at, order) if kind in _KINDS[6:] else (0, 0, 0, 0)
    if flags & (_LOGICAL | _COMPLEX):
        kind, type = "logical" if flags & _LOGICAL else "complex", 0
    stored_as = f"{order}{_TYPES[type]}" if type in _TYPES else ""
    return Variable(file, name, kind, shape, stored_as, place, stored, is_compressed, start, size)


def _element(content: bytes, at: int, order: str) -> tuple[int, int, int, int]:
    """Return the type of an element, where its data begin, their size, and where the next element begins."""
    type, size = struct.unpack_from(f"{order}2I", content, at)
    if type >> 16:  # up to four bytes of data stand in the tag itself
        return type & 0xFFFF, at + 4, type >> 16, at + 8
    return type, at + 8, size, at + 8 + -(-size // 8) * 8


def _unpacked(stream: BinaryIO, stored: int, size: int) -> bytearray:
    """Unpack the next `stored` bytes to about `size`: bytes that fill up the last eight, and the checksum, follow."""
    unpacker, unpacked = zlib.decompressobj(), bytearray()
    try:
        while len(unpacked) < size + 8:
            if not (chunk := unpacker.unconsumed_tail):
                stored -= len(chunk := stream.read(min(_CHUNK, stored)))
            if not chunk:
                break
            unpacked += unpacker.decompress(chunk, size + 8 - len(unpacked))
    except zlib.error as error:
        raise BrokenFile(str(error)) from None
    return unpacked
