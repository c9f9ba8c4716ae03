"""Reading one huge JSON object piece by piece: COCO files may be larger than the memory their objects would need.

Why not ijson (3.6, yajl2_c): a COCO file of 44 MB takes it 1.5 seconds of CPU instead of 0.4; it refuses NaN and a byte
order mark, lets a key come twice, and 100,000 nested brackets took all memory.
"""

from __future__ import annotations

import codecs
import gc
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raydet.errors import DataError

_CHUNK = 1 << 20
_MAX_ELEMENT = 1 << 26  # one array element, or one other value, in characters
_SPACE = " \t\n\r"
_AFTER_VALUE = tuple(_SPACE + ",]}:")
_TRIES = 4  # ends of objects that are tried as the end of an element

Handler = Callable[[int, list[Any]], None]
"""Takes the number of an element, and it and some that follow."""


def stream_object(path: Path, handlers: Mapping[str, Handler]) -> set[str]:
    """Call `handlers[key](first, elements)` for the elements of the arrays under those top-level keys; skip the rest.

    Returns the top-level keys. Memory stays at the size of the objects of a megabyte, or of the largest element. A
    UTF-8 BOM is accepted. Raises DataError, with line and column where there is one, for anything but a well-formed
    JSON object.
    """
    try:
        with path.open("rb") as stream, _no_search_for_cycles():
            return _Scanner(path, stream.read).read_object(handlers)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply; this is not a COCO annotation file") from None


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Keep Python from searching for cycles among the objects of JSON, which have none: two thirds of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Scanner:
    """A window on the text, moved forward as values are parsed."""

    def __init__(self, path: Path, read: Callable[[int], bytes]) -> None:
        self._path = path
        self._read = read
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at, self._eof = "", 0, False
        self._lines = self._dropped = 0  # lines and characters that left the window
        self._one_by_one_until = 0  # a place in the file
        self._last = ""  # last visible character read so far
        self._grow()

    def read_object(self, handlers: Mapping[str, Handler]) -> set[str]:
        first = self._peek()
        if first != "{":
            what = {"[": "a list", "": "empty"}.get(first, f"text that starts with {first!r}")
            raise DataError(
                f"{self._path}: the top level is {what}; expected a JSON object with images, annotations and categories"
            )
        keys: set[str] = set()
        self._at += 1
        if self._peek() == "}":
            self._at += 1
        else:
            while True:
                self._read_member(keys, handlers)
                if self._separator("}"):
                    break
        if self._peek():
            raise self._error("text after the end of the object")
        return keys

    def _read_member(self, keys: set[str], handlers: Mapping[str, Handler]) -> None:
        key = self._value()
        if not isinstance(key, str):
            raise self._error("expected a quoted key")
        if key in keys:
            raise self._error(f"the key {key!r} is given twice")
        keys.add(key)
        if self._peek() != ":":
            raise self._error("expected ':'")
        self._at += 1
        if key not in handlers:
            self._value_or_array(lambda first, elements: None)
        elif self._peek() == "[":
            self._value_or_array(handlers[key])
        else:
            raise self._error(f"{key!r} must be a list")

    def _value_or_array(self, handle: Handler) -> None:
        if self._peek() != "[":
            self._value()
            return
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return
        number = 0
        while True:
            elements = self._several() or [self._value()]
            handle(number, elements)
            number += len(elements)
            if self._separator("]"):
                return

    def _several(self) -> list[Any]:
        """Parse the elements up to the end of an object near the window's end: one call for each takes much longer.

        Nothing is returned, and the place stays, where that end lies within an element, or something is wrong.
        """
        if self._dropped + self._at < self._one_by_one_until:
            return []
        cut = len(self._text)
        for _ in range(_TRIES):
            cut = self._text.rfind("},", self._at, cut)
            if cut < 0:
                return []
            try:
                elements, end = self._parse(f"[{self._text[self._at : cut + 1]}]")
            except ValueError:
                continue
            self._at += end - 2  # less the brackets; the array may have ended before
            return list(elements)
        self._one_by_one_until = self._dropped + len(self._text)  # or all of the window is tried at each element
        return []

    def _separator(self, end: str) -> bool:
        """Step over ',' (False) or `end` (True)."""
        found = self._peek()
        if found not in (",", end) or not found:
            raise self._error(f"expected ',' or '{end}'")
        self._at += 1
        return found == end

    def _peek(self) -> str:
        """Return the next visible character, '' at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text) or not self._grow():
                return self._text[self._at : self._at + 1]

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError as error:
                inside = error.pos - self._at  # see below
                if len(self._text) - self._at > _MAX_ELEMENT or not self._grow():
                    raise self._error(error.msg, self._at + inside) from None
                continue
            except ValueError as error:  # a number of thousands of digits
                raise self._error(str(error)) from None
            length = end - self._at  # growing moves the window
            if self._text[end : end + 1] in _AFTER_VALUE or not self._grow():  # "1." parses as 1, and may become 1.5
                self._at += length
                return value

    def _grow(self) -> bool:
        """Drop what was parsed and read on; False at the end of the file."""
        if self._eof:
            return False
        self._lines += self._text.count("\n", 0, self._at)
        self._dropped += self._at
        self._text, self._at = self._text[self._at :], 0
        data = self._read(max(_CHUNK, len(self._text)))  # growing with the window keeps retries linear
        self._eof = not data
        if not self._dropped and not self._text and (data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4]):
            raise DataError(f"{self._path}: looks like UTF-16 or UTF-32 text; save it as UTF-8")
        try:
            text = self._decode.decode(data, final=self._eof)
        except UnicodeDecodeError as error:
            raise self._error(f"not valid UTF-8 ({error.reason}); save the file as UTF-8", len(self._text)) from None
        self._last = text.rstrip()[-1:] or self._last
        self._text += text
        return not self._eof

    def _error(self, message: str, position: int | None = None) -> DataError:
        position = self._at if position is None else position
        line = self._lines + self._text.count("\n", 0, position) + 1
        is_cut_off = self._eof and self._last != "}"
        hint = "; the file seems to be cut off, copy or download it again" if is_cut_off else ""
        place = f"line {line}, character {self._dropped + position}"
        return DataError(f"{self._path}: not valid JSON at {place}: {message}{hint}")
