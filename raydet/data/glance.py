"""What a picture's first and last bytes say, without decoding it: its size, and whether its end is there."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import Image

from raydet.data.decode import decode, decode_bytes, is_wide, open_image, orientation_of, require_file, wide_values
from raydet.errors import DataError
from raydet.text import plural

_ENDS = 64  # bytes; some cameras pad a JPEG with zeros
_HEAD = 512


@dataclass(frozen=True, slots=True)
class Glance:
    """A picture that has a header."""

    size: tuple[int, int]  # (height, width) as stored, before EXIF rotation
    orientation: int  # EXIF: 1 is upright, 5 to 8 swap the sides
    is_wide: bool  # more than 8 bits a value
    is_whole: bool  # its end is where it should be; where not, only decoding tells
    num_bytes: int

    @property
    def upright(self) -> tuple[int, int]:
        """Return (height, width) after EXIF rotation."""
        return (self.size[1], self.size[0]) if self.orientation >= 5 else self.size


def glance(picture: Path | memoryview, name: str) -> Glance:
    """Look at a file, or at a file's content. Raises DataError, which calls it `name`, where it is no picture."""
    if not isinstance(picture, Path):
        head, tail = bytes(picture[:_HEAD]), bytes(picture[-_ENDS:])
        return _glance(io.BytesIO(picture), name, head, tail, picture.nbytes)
    require_file(picture)
    try:
        with open(picture, "rb") as stream:
            length = os.fstat(stream.fileno()).st_size
            tail = os.pread(stream.fileno(), _ENDS, max(0, length - _ENDS))  # seeking would read the beginning twice
            return _glance(stream, name, stream.peek(_HEAD)[:_HEAD], tail, length)
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from None


def complaint(picture: Path | memoryview, name: str, *, decode_all: bool) -> tuple[Glance | None, str]:
    """Return what a glance says, and what is wrong with a picture (without its name), '' where nothing is.

    Decoded are pictures whose end is missing, and with `decode_all` every one.
    """
    try:
        seen = glance(picture, name)
        if decode_all or not seen.is_whole:
            decode(picture) if isinstance(picture, Path) else decode_bytes(bytes(picture), name)
    except DataError as error:
        return None, str(error).removeprefix(f"{name}: ")
    return seen, ""


def _glance(stream: IO[bytes], name: str, head: bytes, tail: bytes, length: int) -> Glance:
    image = open_image(name, stream, head)
    whole = _is_whole(image.format or "", head, tail, length)
    return Glance((image.height, image.width), orientation_of(image), is_wide(image, head), whole, length)


def _is_whole(format: str, head: bytes, tail: bytes, length: int) -> bool:
    if format == "JPEG":
        return tail.rstrip(b"\0\r\n ").endswith(b"\xff\xd9")
    if format == "PNG":
        return tail.endswith(b"IEND\xaeB`\x82")
    if format == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= length
    return format == "BMP" and int.from_bytes(head[2:6], "little") <= length


# --- 16-bit pictures --------------------------------------------------------------------------------------------------

LOOKED_AT = 16  # wide pictures of a set, evenly spaced
_DARK = 4095  # 12 bits: decoded at the full range, the brightest value is 16 of 255


def darkness(pictures: Sequence[Path | memoryview], gray16_range: tuple[int, int]) -> tuple[str, str] | None:
    """Say that pictures of 16 bits use few of them and end nearly black, and what to set; None where they do not.

    `pictures`: all of a set that have more than 8 bits; some are looked at.
    """
    low, high = gray16_range
    step = max(1, len(pictures) // LOOKED_AT)
    values = [value for picture in pictures[::step][:LOOKED_AT] if (value := _largest(picture)) is not None]
    if not values or (largest := max(values)) - low > _DARK * (high - low) / 65535:
        return None
    shown = max(0, round(255 * (largest - low) / (high - low)))
    usual = next((end for end in (255, 1023, 4095, 16383) if largest <= end), 65535)
    one, many = "picture has 16 bits and hardly uses them", "pictures have 16 bits and hardly use them"
    message = (
        f"{plural(len(pictures), one, many)}: of {len(values)} looked at, the largest value is {largest:,}, which "
        f"becomes {shown} of 255 with data.views.gray16_range [{low}, {high}]: nearly black"
    )
    return message, f"set data.views.gray16_range: [0, {usual}]"


def _largest(picture: Path | memoryview) -> int | None:
    try:
        data = picture.read_bytes() if isinstance(picture, Path) else bytes(picture)
        with Image.open(io.BytesIO(data)) as image:
            return int(wide_values(image, data).max())
    except Exception:  # damage is reported elsewhere
        return None
