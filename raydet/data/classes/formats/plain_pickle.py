"""Reading the one kind of pickle that raydet accepts: dicts, lists, text, numbers and arrays of bytes.

CIFAR is published as pickles, and a pickle can run any code. Nothing in one does here, for Python's reader is not used:
a small machine goes through the instructions. It knows those that build plain values, and for the few functions that a
NumPy array is written with it has stand-ins. It refuses everything else, and what would cost far more time or memory
than a published file does; only text can be a key, because a few tuples of tuples can take forever to hash.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raydet.data.classes.formats.pickled_array import Array, DType, Function, Refused, known_function
from raydet.data.classes.formats.shown import shown
from raydet.errors import DataError

_MAX_FILE = 1 << 28  # bytes; the largest published file (CIFAR-100, train) has 155 million
_MAX_INSTRUCTIONS = 1 << 21  # that file has about 200 thousand: one for a label, two for a name
_MAX_CONTAINERS = 100  # dicts, lists and tuples; that file has about ten


def read_plain_pickle(file: Path) -> dict[str, Any]:
    """Return the dict that a pickle holds; its keys as text, other text of Python 2 as bytes, arrays as uint8.

    Raises DataError for a file that is damaged, too large, or holds anything else; nothing in it is executed.
    """
    data = _read(file)
    try:
        return _named(_Machine(len(data)).run(data))
    except Refused as error:
        raise DataError(f"{file}: {error}; this is not a published CIFAR file, and nothing of it was run") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{file}: truncated or damaged ({shown(error)}); copy or download it again") from None


def _read(file: Path) -> bytes:
    try:
        if (size := file.stat().st_size) > _MAX_FILE:
            raise DataError(f"{file}: {size:,} bytes; a CIFAR file has at most {_MAX_FILE:,}")
        return file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None


def _named(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise Refused(f"it holds a {type(content).__name__} instead of a dict")
    texts = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    return {key: value.finished() if isinstance(value, Array) else value for key, value in texts.items()}


class _Machine:
    """Builds the value of a pickle: on a stack, with a memo of what is used again."""

    def __init__(self, num_bytes: int) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the rest of the stack under each open mark
        self._memo: dict[int, Any] = {}
        self._containers = 0
        self._may_encode = num_bytes  # a file as long as that encodes more only where it repeats a text

    def run(self, data: bytes) -> Any:
        """Return the value. Raises Refused, and nearly anything where the pickle is damaged."""
        for number, (instruction, argument, _) in enumerate(pickletools.genops(data)):
            if number == _MAX_INSTRUCTIONS:
                raise Refused(f"more than {_MAX_INSTRUCTIONS:,} pickle instructions")
            self._do(instruction.name, argument)
        return self._stack.pop()

    def _do(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _PUTS:
            self._memo[argument] = self._stack[-1]
        elif name in _STRINGS:
            self._stack.append(argument.encode("latin-1"))
        elif name in _GETS:
            self._stack.append(self._memo[argument])
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name == "GLOBAL":
            self._stack.append(known_function(argument))
        elif name in _ACTIONS:
            _ACTIONS[name](self)
        elif name not in _IGNORED:
            raise Refused(f"the pickle instruction {name} is not allowed")

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def since_mark(self) -> list[Any]:
        """Take what was pushed after the last mark."""
        values, self._stack = self._stack, self._below.pop()
        return values

    def last(self, count: int) -> list[Any]:
        """Take the last values, in the order in which they were pushed."""
        return [self._stack.pop() for _ in range(count)][::-1]

    def push(self, container: Any) -> None:
        self._containers += 1
        if self._containers > _MAX_CONTAINERS:
            raise Refused(f"more than {_MAX_CONTAINERS} dicts, lists and tuples")
        self._stack.append(container)

    def append(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise Refused("the pickle appends to something that is not a list")
        self._stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], dict):
            raise Refused("the pickle sets items of something that is not a dict")
        self._stack[-1].update(_items(values))

    def look_up(self) -> None:
        module, name = self.last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("the pickle asks for something without a name")
        self._stack.append(known_function(f"{module} {name}"))

    def call(self) -> None:
        function, arguments = self.last(2)
        if not isinstance(function, Function) or not isinstance(arguments, tuple):
            raise Refused("the pickle calls something that is not a function")
        result = function.call(*arguments)
        self._may_encode -= len(result) if isinstance(result, bytes) else 0
        if self._may_encode < 0:
            raise Refused("the pickle encodes the same text over and over")
        self._stack.append(result)

    def set_state(self) -> None:
        target, state = self.last(2)
        if isinstance(target, Array):
            target.set_state(state)
        elif not isinstance(target, DType):
            raise Refused(f"the pickle changes a {type(target).__name__.lower()}")
        self._stack.append(target)


def _items(values: list[Any]) -> dict[str | bytes, Any]:
    keys = values[::2]
    if not all(isinstance(key, str | bytes) for key in keys):
        raise Refused("a key that is not text")
    return dict(zip(keys, values[1::2], strict=True))


_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_STRINGS = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})  # of Python 2: bytes
_TEXT = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1")
_VALUES = frozenset({*_TEXT, *_BYTES, *_NUMBERS})
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})
_ACTIONS: dict[str, Callable[[_Machine], None]] = {
    "MEMOIZE": _Machine.memoize,
    "MARK": _Machine.mark,
    "EMPTY_DICT": lambda machine: machine.push({}),
    "DICT": lambda machine: machine.push(_items(machine.since_mark())),
    "SETITEM": lambda machine: machine.set_items(machine.last(2)),
    "SETITEMS": lambda machine: machine.set_items(machine.since_mark()),
    "EMPTY_LIST": lambda machine: machine.push([]),
    "LIST": lambda machine: machine.push(machine.since_mark()),
    "APPEND": lambda machine: machine.append(machine.last(1)),
    "APPENDS": lambda machine: machine.append(machine.since_mark()),
    "TUPLE": lambda machine: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine: machine.push(tuple(machine.last(1))),
    "TUPLE2": lambda machine: machine.push(tuple(machine.last(2))),
    "TUPLE3": lambda machine: machine.push(tuple(machine.last(3))),
    "STACK_GLOBAL": _Machine.look_up,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.set_state,
}
